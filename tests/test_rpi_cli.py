"""Boards on the command line: what is printed, exit codes, what a profile does to `mbcore serve`, and that nobody else pays for it."""

import json
import os
import re
import subprocess
import sys

import pytest
import recorded
from adu import ENVIRONMENT

from mbcore import cli
from mbcore.rpi import doctor, hats, ports, service
from mbcore.rpi.doctor import Trial
from mbcore.rpi.machine import Machine
from mbcore.rpi.service import UNIT


@pytest.fixture
def board(tmp_path, monkeypatch):
    """board(name, *lines): from now on this machine is that board."""

    def mount(name, *lines):
        machine = recorded.board(name, tmp_path, *lines)
        monkeypatch.setattr("mbcore.rpi.machine.Machine", lambda: machine)
        monkeypatch.setattr(doctor, "try_port", lambda device, line: Trial())
        return machine

    return mount


@pytest.fixture
def run(capsys):
    """run(line) -> exit code, standard output, standard error"""

    def run(line):
        code = cli.main(line.split() if isinstance(line, str) else line)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def parsed(*words):
    return cli._parser().parse_args(words)


# ---- hats, ports, doctor ----


def test_profiles_are_listed_and_shown(board, run):
    machine = board("4b-bookworm")
    assert run("hats") == (0, hats.listing() + "\n", "")
    assert run("hats pixtend-v2") == (0, hats.sheet(machine, "pixtend-v2") + "\n", "")
    code, said, _ = run("hats pixtend-v2 --json")
    assert code == 0
    assert json.loads(said)["config_here"] == ["enable_uart=1", "dtoverlay=disable-bt or dtoverlay=miniuart-bt"]
    assert len(json.loads(run("hats --json")[1])) == len(hats.load()[1])


def test_ports_are_listed_and_probed_when_asked(board, run, monkeypatch):
    machine = board("5-trixie")
    assert run("ports") == (0, ports.table(ports.list_ports(machine)) + "\n", "")
    monkeypatch.setattr(ports, "probe_rs485", lambda device: "probed")
    assert "probed" not in run("ports")[1]
    assert [port["rs485"] for port in json.loads(run("ports --json --probe")[1])] == ["probed", "probed"]


def test_the_doctors_exit_code_tells_whether_something_is_wrong(board, run):
    board("4b-bookworm")
    code, said, errors = run("doctor")
    assert (code, errors) == (0, "")
    assert said.endswith("All is well.\n")
    board("4b-bookworm", "/dev/ttyAMA0 c 0660 0:7")
    code, said, errors = run("doctor --hat pixtend-v2 --json")
    assert (code, errors) == (1, "")
    assert json.loads(said)["wrong"] == 1
    code, said, _ = run("doctor --port /dev/ttyAMA5")
    assert code == 1
    assert "there is no /dev/ttyAMA5" in said


@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("/home/pi/.local/bin/mbcore", "/home/pi/.local/bin/mbcore"),
        ("venv/bin/mbcore", f"{os.getcwd()}/venv/bin/mbcore"),
        ("/opt/mbcore/lib/mbcore/__main__.py", f"{sys.executable} -m mbcore"),
    ],
)
@pytest.mark.parametrize("words", ["", " --hat revpi", " --port /dev/ttyAMA0", " --hat revpi --port /dev/ttyAMA0"])
def test_the_doctor_is_asked_again_as_root_by_a_name_that_root_finds_and_the_same(board, run, monkeypatch, program, command, words):
    board("4b-bookworm")
    monkeypatch.setattr(Machine, "sees_all_holders", False)
    monkeypatch.setattr(sys, "argv", [program])
    assert f"-> sudo {command} doctor{words}\n" in run(f"doctor{words}")[1]


@pytest.mark.parametrize("line", ["hats", "hats widgetlords", "hats --json", "ports", "ports --json", "doctor --port /dev/null"])
def test_who_has_seen_enough_hears_of_no_error(line):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-P", "-m", "mbcore", *line.split()]
        ended = subprocess.run(command, env=ENVIRONMENT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (1 if line.startswith("doctor") else 0, "")


# ---- serve and sniff ----


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("--hat waveshare-rs485-can-manual", ("/dev/ttyAMA0", "gpio", "/dev/gpiochip0", 4, "high", "auto")),
        ("--hat waveshare-rs485-can-manual --direction auto", ("/dev/ttyAMA0", "auto", None, None, None, "auto")),
        ("--hat widgetlords --direction-line 17 /dev/ttyAMA2", ("/dev/ttyAMA2", "gpio", "/dev/gpiochip0", 17, "low", "auto")),
        ("/dev/ttyAMA1 --hat uart-kernel-rts --echo auto -b 9600", ("/dev/ttyAMA1", "kernel", None, None, "high", "auto")),
        ("/dev/ttyAMA1", ("/dev/ttyAMA1", None, None, None, None, None)),
    ],
)
@pytest.mark.parametrize("transport", ["rtu", "ascii", "binary"])
def test_a_profile_says_what_the_user_does_not(board, transport, words, settings):
    board("4b-bookworm")
    args = parsed("serve", transport, *words.split())
    cli._take_hat(args)
    names = ("device", "direction", "direction_chip", "direction_line", "direction_active", "echo")
    assert tuple(getattr(args, name) for name in names) == settings


@pytest.mark.parametrize(
    ("words", "pins"),
    [
        ("sniff --hat pixtend-v2", [(18, "low")]),
        ("serve rtu --hat pixtend-v2", [(18, "low")]),
        # Who listens holds the direction pin so that the board receives.
        ("sniff --hat touchberry", [(17, "high"), (27, "high")]),
        ("serve rtu --hat touchberry", [(17, "high")]),
        ("sniff --hat widgetlords --direction-line 5", [(5, "low")]),
        ("sniff --hat waveshare-rs485-can", []),
    ],
)
def test_pins_are_held_while_it_runs(board, monkeypatch, words, pins):
    board("4b-bookworm")
    asked, closed = [], []
    monkeypatch.setattr(hats, "request_gpio", lambda chip, line, active: asked.append((line, active)) or line)
    monkeypatch.setattr(hats.os, "close", closed.append)
    with cli._take_hat(parsed(*words.split())):
        assert (asked, closed) == (pins, [])
    assert sorted(closed) == sorted(line for line, _ in pins)


@pytest.mark.parametrize(
    ("words", "format_"),
    [
        ("serve rtu --hat monarco", (115200, 8, "N", 1)),
        ("serve rtu --hat monarco -m 8N1", (115200, 8, "N", 1)),
        ("sniff --hat monarco", (115200, 8, "N", 1)),
        ("serve rtu --hat waveshare-rs485-can -b 9600", (9600, 8, "E", 1)),
        ("serve rtu /dev/ttyUSB0 -s 2 -P none", (19200, 8, "N", 2)),
    ],
)
def test_the_format_is_what_is_said_or_the_boards_or_the_usual(board, words, format_):
    board("4b-bookworm")
    args = parsed(*words.split())
    cli._take_hat(args)
    assert (args.baudrate, args.bytesize, args.parity, args.stopbits) == format_


@pytest.mark.parametrize("line", ["serve rtu --hat", "sniff --hat", "doctor --hat", "doctor --port", "serve rtu"])
def test_a_name_that_is_empty_is_refused(run, line):
    """As of a shell's variable that is not set."""
    code, said, errors = run([*line.split(), ""])
    assert (code, said) == (2, "")
    assert "'' is no name, as of a variable that is not set" in errors


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--hat waveshare-rs485-can --direction-active low", "--direction-active is 'low', which has no use with --direction auto: leave"),
        ("/dev/ttyX --direction gpio", "--direction-line is None: give its number on /dev/gpiochip0"),
    ],
)
def test_a_sentence_names_the_flags(board, run, words, sentence):
    board("4b-bookworm")
    code, _, errors = run(f"serve rtu {words}")
    assert code == 2
    assert sentence in errors
    assert "=" not in errors


def test_an_adapter_that_is_not_plugged_in_is_an_error_at_run_time(board, run):
    board("4b-bookworm")
    code, _, errors = run("serve rtu --hat usb-ftdi")
    assert (code, errors) == (
        1,
        "mbcore: there is no adapter with the driver ftdi_sio: plug it in, `mbcore ports` lists what is there\n",
    )


@pytest.mark.parametrize("line", ["serve rtu /dev/null", "serve tcp 127.0.0.1 -p 1 -x", "read tcp 127.0.0.1 -p 1"])
def test_who_wants_no_board_imports_none(line):
    assert loaded_by(line, "mbcore.rpi") == []


@pytest.mark.parametrize("line", ["hats", "ports", "doctor --port /dev/null", "service show plant", "read tcp 127.0.0.1 -p 1"])
def test_who_starts_no_server_does_not_wait_for_twisted(line):
    assert loaded_by(line, "twisted") == []


def loaded_by(line, package):
    """The modules of a package that a command has imported at its end."""
    loaded = "[name for name in sys.modules if sys.argv[1] in name]"
    program = f"import json, sys; from mbcore import cli; cli.main(sys.argv[2:]); print(); print(json.dumps({loaded}))"
    command = [sys.executable, "-P", "-c", program, package, *line.split()]
    return json.loads(subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


# ---- service ----


@pytest.fixture
def installable(board, monkeypatch):
    monkeypatch.setattr(service, "_closed_to_others", lambda name: "")
    monkeypatch.setattr(sys, "argv", ["/opt/mbcore/bin/mbcore", "service", "install", "plant"])
    run = []
    monkeypatch.setattr(service, "_run", lambda command: run.append(command) or 0)
    return run


@pytest.mark.parametrize(
    "line",
    [
        "service install --dry-run plant rtu /dev/ttyAMA0 -b 9600",
        "service install plant --dry-run rtu /dev/ttyAMA0 -b 9600",
        "service install plant rtu /dev/ttyAMA0 -b 9600 --dry-run",
        "service install --dry-run plant -- rtu /dev/ttyAMA0 -b 9600",
    ],
)
def test_a_dry_run_prints_all_and_does_nothing(board, installable, run, line):
    machine = board("4b-bookworm")
    code, said, errors = run(line)
    assert (code, errors) == (0, "")
    assert f"==> {UNIT} <==\n" in said
    assert "\nExecStart=/opt/mbcore/bin/mbcore serve $MBCORE_ARGS\n" in said
    assert '\nMBCORE_ARGS="rtu /dev/ttyAMA0 -b 9600"\n' in said
    assert said.endswith("# systemctl restart mbcore@plant\n")
    assert installable == []
    assert not machine.exists(UNIT)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("rtu --hat nope", "there is no profile 'nope'"),
        ("rtu --hat widgetlords", "the profile widgetlords does not know its pin: give --direction-line N"),
        ("rtu --hat monarco -b 19200", "19200 8N1 is another: give -b 115200 -m 8N1"),
        ("rtu --hat kontron-pitron", "the profile kontron-pitron is for a Raspberry Pi 3 or cm3 or 4, and this is Raspberry Pi 5"),
        ("rtu /dev/ttyUSB0 --direction gpio", "--direction-line is None"),
        ("rtu /dev/ttyUSB0 -m 7E1", "7 data bits can't carry rtu frames"),
        ("tls --certfile x.pem", "--certfile x.pem: a service does not run in this folder, give the full name, /"),
        ("tls --certfile /no.pem", "--certfile /no.pem: there is no such file"),
        (
            "tls --certfile /x.pem --keyfile /x.key",
            "--keyfile /x.key can't be read by a service, to which /x.key is closed: put it into /etc/mbcore, and there sudo chgrp dialout",
        ),
        ("tls --certfile /x.pem --keyfile x.key", "--keyfile x.key: a service does not run in this folder"),
        ("tls --certfile /x.pem --cafile ca/x.pem", "--cafile ca/x.pem: a service does not run in this folder"),
    ],
)
def test_what_serve_would_refuse_is_not_installed(board, installable, run, words, sentence):
    machine = board("5-bookworm", "user 0 0", "/x.pem c 0644 0:0", "/x.key c 0600 0:0")
    code, said, errors = run(f"service install plant {words}")
    assert (code, said) == (2, "")
    assert sentence in errors
    assert errors.count("\n") == 1
    assert installable == []
    assert not machine.exists(UNIT)


@pytest.mark.parametrize(
    "words",
    ["rtu --hat usb-ftdi", "rtu --hat monarco", "rtu --hat monarco -b 115200 -m 8N1", "ascii /dev/x -m 7E1", "tls --certfile /x.pem"],
)
def test_what_serve_would_take_is_installed(board, installable, run, words):
    board("4b-bookworm", "user 0 0", "/x.pem c 0640 0:20")
    assert run(f"service install plant {words}")[0] == 0
    assert f'MBCORE_ARGS="{words}"' in run("service show plant")[1]


def test_the_adapter_of_a_board_gets_a_rule_and_a_name_that_stays(board, installable, run):
    machine = board("usb-ftdi", "user 0 0")
    assert run("service install plant rtu --hat usb-ftdi")[0] == 0
    assert 'SYMLINK+="mbcore-plant"' in machine.read("/etc/udev/rules.d/90-mbcore-plant.rules")
    assert re.search(r'MBCORE_ARGS="rtu --hat usb-ftdi (/dev/mbcore-plant|/dev/serial/by-id/\S+)"', run("service show plant")[1])


def test_installing_showing_and_removing(board, installable, run):
    machine = board("4b-bookworm", "user 0 0")
    assert run("service install plant rtu --hat pixtend-v2") == (0, "Log:  journalctl -u mbcore@plant -e\n", "")
    assert installable[-1] == ("systemctl", "restart", "mbcore@plant")
    assert machine.exists(UNIT)
    assert 'MBCORE_ARGS="rtu --hat pixtend-v2"' in run("service show plant")[1]
    assert run("service remove plant --dry-run")[1].startswith("# systemctl disable --now mbcore@plant\n")
    assert machine.exists(UNIT)
    assert run("service remove plant --purge")[0] == 0
    assert not machine.exists(UNIT)
    assert not machine.exists("/etc/mbcore/plant.env")


def test_a_service_that_does_not_start_yet_is_an_error_at_run_time(board, installable, run, monkeypatch):
    machine = board("4b-bookworm", "user 0 0")
    monkeypatch.setattr(service, "_run", lambda command: int(command[1] == "restart"))
    code, said, errors = run("service install plant rtu --hat usb-ftdi")
    assert (code, said) == (1, "")
    assert errors.startswith("mbcore: mbcore@plant is installed and does not start yet, ")
    assert machine.exists("/etc/mbcore/plant.env")


def test_without_root_there_is_one_sentence(board, installable, run):
    board("4b-bookworm")
    code, said, errors = run("service install plant rtu /dev/ttyAMA0")
    assert (code, said) == (1, "")
    way = "run sudo /opt/mbcore/bin/mbcore service install plant, or add --dry-run to see what that does"
    assert errors == f"mbcore: a service is root's to set up: {way}\n"


def test_a_program_that_is_a_module_is_called_as_one(board, installable, run, monkeypatch):
    board("4b-bookworm")
    monkeypatch.setattr(sys, "argv", ["/opt/mbcore/lib/mbcore/__main__.py"])
    said = run("service install --dry-run plant tcp 0.0.0.0")[1]
    assert f"\nExecStart={sys.executable} -m mbcore serve $MBCORE_ARGS\n" in said
