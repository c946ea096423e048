"""The doctor, on recorded boards: every word it says is held against a file beside the recording, and each rule on its own."""

import json
import os
import pty
import re
import subprocess
import termios

import pytest
import recorded

from mbcore.defaults import LINE_FORMAT
from mbcore.errors import ConfigurationError
from mbcore.rpi.doctor import Trial, examine, try_port
from mbcore.rpi.hats import find_hat
from mbcore.rpi.machine import Machine
from mbcore.server import rs485
from mbcore.server.rs485 import KernelMode

GOLDEN = {
    (file.stem, words): text
    for file in sorted(recorded.FOLDER.glob("*.doctor"))
    for words, text in re.findall(r"^\$ mbcore doctor ?(.*)\n((?:.+\n)+)", file.read_text(), re.MULTILINE)
}


def by_driver(machine):
    """What a port of these drivers does when it is opened."""

    def trial(device, line):
        driver = machine.hardware(machine.device(device)).driver
        if driver == "bcm2835-aux-uart":
            return Trial(f"the serial line {device} cannot be set up: its driver has silently set parity N instead of E; it has no parity")
        return Trial(mode=KernelMode(0) if driver in ("uart-pl011", "sc16is7xx") else None)

    return trial


def ask(machine, words="", trial=None):
    options = dict(re.findall(r"--(\w+) (\S+)", words))
    hat = find_hat(options["hat"]) if "hat" in options else None
    return examine(machine, hat, options.get("port"), trial or by_driver(machine))


def found(report, subject):
    """The findings on a subject."""
    return [finding for finding in report.findings if finding.subject == subject]


def test_every_board_has_its_golden_text():
    assert {name for name, _ in GOLDEN} == set(recorded.NAMES)


@pytest.mark.parametrize(("name", "words"), GOLDEN, ids=[f"{name} {words}" for name, words in GOLDEN])
def test_what_is_said_of_a_recorded_board(name, words, tmp_path):
    report = ask(recorded.board(name, tmp_path), words)
    assert report.as_text() + "\n" == GOLDEN[name, words]
    said = report.as_json()
    assert json.loads(json.dumps(said)) == said
    assert said["wrong"] == sum(row["level"] == "wrong" for row in said["findings"])
    for finding in report.findings:
        assert finding.level in ("ok", "note", "wrong")
        assert "\n" not in finding.mend
        assert finding.mend or finding.level != "wrong"


def four_b(tmp_path, *more):
    return recorded.board("4b-bookworm", tmp_path, *more)


@pytest.mark.parametrize(
    ("lines", "level"),
    [
        (["/sys/class/hwmon/hwmon1/in0_lcrit_alarm = 1"], "wrong"),
        (["/sys/devices/platform/soc/soc:firmware/get_throttled = 1"], "wrong"),
        (["/sys/devices/platform/soc/soc:firmware/get_throttled = 50000"], "note"),
        (["/sys/devices/platform/soc/soc:firmware/get_throttled = 4"], None),
        (["/sys/devices/platform/soc/soc:firmware/get_throttled = 0x50001"], "wrong"),
        (["/sys/devices/platform/soc/soc:firmware/get_throttled = throttled=0x1"], None),
        (["/sys/devices/platform/soc/soc:firmware/get_throttled = -1"], None),
        (["/sys/class/hwmon/hwmon1/name = cpu_thermal", "/sys/class/hwmon/hwmon1/in0_lcrit_alarm = 1"], None),
    ],
)
def test_undervoltage(tmp_path, lines, level):
    assert [finding.level for finding in found(ask(four_b(tmp_path, *lines)), "power")] == ([level] if level else [])


def test_without_any_port_there_is_one_sentence(tmp_path):
    report = ask(recorded.unpack("/etc/os-release = ID=debian", tmp_path))
    assert [(finding.level, finding.text) for finding in report.findings] == [("wrong", "there is no serial port")]
    assert report.port == ""


def test_an_adapter_that_is_not_plugged_in(tmp_path):
    finding = ask(four_b(tmp_path), "--hat usb-ftdi").findings[0]
    assert finding[:3] == ("wrong", "port", "there is no adapter with the driver ftdi_sio")
    assert finding.mend.startswith("plug it in")


def test_a_board_that_does_not_fit_the_machine(tmp_path):
    with pytest.raises(ConfigurationError, match="uart3-kernel-rts is for a Raspberry Pi 4 or 5, and this is Raspberry Pi Zero W"):
        ask(recorded.board("zero-w-bullseye", tmp_path), "--hat uart3-kernel-rts")


def test_a_port_that_is_no_pis_needs_no_config(tmp_path):
    machine = recorded.unpack(
        "/sys/class/tty/ttyS0/device/driver -> /sys/bus/platform/drivers/serial8250\n/dev/ttyS0 c 0660 0:20\nuser 5 20", tmp_path
    )
    report = ask(machine)
    assert report.port == "/dev/ttyS0"
    assert not found(report, "config")
    assert report.as_text().startswith("no Raspberry Pi\n")
    assert report.as_text().endswith("All is well.")


def test_a_board_without_a_config_file_is_told_what_it_would_hold(tmp_path):
    machine = recorded.unpack("/sys/firmware/devicetree/base/model = Raspberry Pi 2 Model B Rev 1.1\\0", tmp_path)
    first, second = ask(machine).findings
    assert first[:3] == ("note", "config", "there is no config.txt to look into for enable_uart=1")
    assert second[:3] == ("wrong", "port", "there is no /dev/ttyAMA0")


def test_a_line_is_added_under_all_boards_where_the_file_ends_under_another_filter(tmp_path):
    machine = recorded.board("3b-bookworm", tmp_path, "/boot/firmware/config.txt <<", "[pi4]", "enable_uart=1", ".")
    assert found(ask(machine), "config")[0].mend.startswith("printf '%s\\n' '[all]' 'enable_uart=1' 'dtoverlay=disable-bt' | sudo tee -a")


@pytest.mark.parametrize(
    ("config", "mended"),
    [
        ("dtparam=spi=on", "dtparam=spi=on\ndtparam=uart0=on\n"),
        ("dtparam=spi=on\n", "dtparam=spi=on\ndtparam=uart0=on\n"),
        ("[pi4]\n#enable_uart=1", "[pi4]\n#enable_uart=1\n[all]\ndtparam=uart0=on\n"),
        ("", "dtparam=uart0=on\n"),
    ],
)
def test_what_is_added_to_config_stands_in_lines_of_its_own(tmp_path, config, mended):
    machine = recorded.board("5-bookworm", tmp_path)
    file = machine.path("/boot/firmware/config.txt")
    file.write_text(config)
    mend = found(ask(machine), "config")[0].mend
    script = re.fullmatch("(printf .*) [|] sudo tee -a /boot/firmware/config.txt && sudo reboot", mend)
    subprocess.run(f"{script[1]} | tee -a {file}", shell=True, check=True, stdout=subprocess.DEVNULL)
    assert file.read_text() == mended


def test_bluetooth_that_has_the_uart_is_named_where_config_was_mended_and_not_loaded(tmp_path):
    lines = ["/boot/firmware/config.txt <<", "enable_uart=1", "dtoverlay=disable-bt", "."]
    finding = found(ask(recorded.board("3b-bookworm", tmp_path, *lines)), "port")[0]
    assert finding[2:] == ("there is no /dev/ttyAMA0: Bluetooth has its UART", "sudo reboot")


def test_bluetooth_on_the_mini_uart_does_not_have_the_pl011_in_the_next_session(tmp_path):
    lines = ["/boot/firmware/config.txt <<", "enable_uart=1", "dtoverlay=miniuart-bt", "."]
    finding = found(ask(recorded.board("3b-bookworm", tmp_path, *lines)), "port")[0]
    assert "Bluetooth has its UART" in finding.text


def test_a_port_that_config_promises_and_is_not_there_wants_a_restart(tmp_path):
    machine = recorded.board("5-bookworm", tmp_path, "/boot/firmware/config.txt <<", "dtoverlay=uart0-pi5", ".")
    finding = found(ask(machine), "port")[-1]
    assert finding[2:] == ("there is no /dev/ttyAMA0: config.txt has changed since the start, or the board is off", "sudo reboot")


def test_hciuart_would_talk_where_bluetooth_was(tmp_path):
    machine = four_b(tmp_path, "/etc/systemd/system/multi-user.target.wants/hciuart.service = ")
    assert found(ask(machine), "bluetooth")[0].mend == "sudo systemctl disable --now hciuart"


def test_the_mini_uart_after_the_mending_before_the_restart(tmp_path):
    lines = ["/boot/firmware/config.txt <<", "enable_uart=1", "dtoverlay=disable-bt", "."]
    finding = found(ask(recorded.board("4b-mini-uart", tmp_path, *lines), "--port /dev/serial0"), "port")[0]
    assert finding.mend == "use /dev/ttyAMA0, after a restart if it is not there"


@pytest.mark.parametrize("line", ["dtparam=uart0=on", "dtoverlay=uart0-pi5", "dtparam=uart0_console=on"])
def test_a_pi_5s_uart_that_is_enabled_comes_with_the_next_start(tmp_path, line):
    machine = recorded.board("5-bookworm", tmp_path, "/boot/firmware/config.txt <<", line, ".")
    finding = found(ask(machine, "--port /dev/serial0"), "port")[0]
    assert finding.mend == "sudo reboot  # then use /dev/ttyAMA0"


def test_a_name_without_hardware(tmp_path):
    finding = found(ask(four_b(tmp_path, "/dev/ttyS7 c 0660 0:20"), "--port /dev/ttyS7"), "port")[0]
    assert finding[:3] == ("wrong", "port", "/dev/ttyS7, with no hardware behind it")


BY_ID = {"usb-ftdi": "usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0", "usb-ch340": "usb-1a86_USB_Serial-if00-port0"}


@pytest.mark.parametrize(
    ("board", "name", "doubtful"),
    [
        ("usb-ftdi", "/dev/ttyUSB0", True),
        ("usb-ftdi", f"/dev/serial/by-id/{BY_ID['usb-ftdi']}", False),
        ("usb-ftdi", "/dev/serial/by-path/platform-fd500000.pcie-pci-0000:01:00.0-usb-0:1.3:1.0-port0", False),
        # The service's own, and a user's.
        ("usb-ftdi", "/dev/mbcore-plant", False),
        ("usb-ftdi", "/srv/bus", False),
        # It has no serial number: another one of its kind has the same name.
        ("usb-ch340", f"/dev/serial/by-id/{BY_ID['usb-ch340']}", True),
    ],
)
def test_which_names_may_be_another_adapters(tmp_path, board, name, doubtful):
    machine = recorded.board(board, tmp_path, "/dev/mbcore-plant -> /dev/ttyUSB0", "/srv/bus -> /dev/ttyUSB0")
    notes = found(ask(machine, f"--port {name}"), "name")
    assert [note.text for note in notes] == ([f"{name} may be another adapter after the next start"] if doubtful else [])


@pytest.mark.parametrize(
    ("overlays", "notes"),
    [
        (["sc16is752-spi1,int_pin=24", "sc16is752-i2c,int_pin=24"], 1),
        (["sc16is752-spi0", "sc16is752-spi1"], 0),
        (["sc16is752-i2c,addr=0x48", "sc16is752-i2c,addr=0x4a"], 0),
    ],
)
def test_overlays_for_both_buses_make_phantoms(tmp_path, overlays, notes):
    lines = ["/boot/firmware/config.txt <<", *(f"dtoverlay={overlay}" for overlay in overlays), "."]
    report = ask(recorded.board("sc16is752", tmp_path, *lines), "--hat waveshare-serial-expansion")
    assert sum("phantom" in finding.text for finding in found(report, "config")) == notes


@pytest.mark.parametrize(
    ("lines", "level"),
    [
        # The overlays that are there tell, whatever the kernel's number is.
        (["/boot/firmware/overlays/sc16is752-spi1.dtbo = "], "ok"),
        (["/boot/firmware/overlays/sc16is75x-spi.dtbo = "], "note"),
        ([], "ok"),
        (["/proc/sys/kernel/osrelease = 6.12.47+rpt-rpi-v8"], "note"),
        # The ports are there, and whoever opens one freezes (linux #6962).
        (["/proc/sys/kernel/osrelease = 6.12.34+rpt-rpi-v8"], "wrong"),
    ],
)
def test_a_stale_overlay_that_works_is_only_noted(tmp_path, lines, level):
    text = (recorded.FOLDER / "sc16is752.txt").read_text().replace("/boot/firmware/overlays/sc16is752-spi1.dtbo = \n", "")
    report = ask(recorded.unpack("\n".join([text, *lines]), tmp_path), "--hat waveshare-2ch-rs485")
    assert found(report, "config")[0].level == level


OLD_OVERLAY = "sc16is752-spi1"
OLD_LINE = "dtoverlay=sc16is752-spi1,int_pin=24"
NEW_LINES = ["dtoverlay=spi1-1cs,cs0_spidev=off", "dtoverlay=sc16is75x-spi,sc16is752,spi1-0,int_pin=24"]


def two_channels(tmp_path, kernel, overlay, *config):
    """What is said of config.txt for a board whose overlay has changed its name."""
    text = (recorded.FOLDER / "sc16is752-stale.txt").read_text()
    lines = [line for line in text.splitlines() if not line.endswith(".dtbo = ") and not line.startswith("/proc/sys/kernel/osrelease")]
    more = [f"/proc/sys/kernel/osrelease = {kernel}", f"/boot/firmware/overlays/{overlay}.dtbo = "]
    machine = recorded.unpack("\n".join([*lines, *more, "/boot/firmware/config.txt <<", *config, "."]), tmp_path)
    return machine, found(ask(machine, "--hat waveshare-2ch-rs485"), "config")[0]


@pytest.mark.parametrize(
    ("kernel", "overlay", "config", "level"),
    [
        ("6.12.28", "sc16is75x-spi", ["dtparam=spi=on", *NEW_LINES], "ok"),
        ("6.14.2", OLD_OVERLAY, ["dtparam=spi=on", OLD_LINE], "ok"),
        ("6.12.30", "sc16is75x-spi", ["dtparam=spi=on", OLD_LINE], "wrong"),
        ("6.12.34", "sc16is75x-spi", ["dtparam=spi=on", "  dtoverlay = sc16is752-spi1 , int_pin=24"], "wrong"),
        ("6.12.34", "sc16is75x-spi", ["dtparam=spi=on", OLD_LINE, *NEW_LINES], "wrong"),
        ("6.12.41", "sc16is75x-spi", [OLD_LINE], "wrong"),
    ],
)
def test_the_mend_of_a_stale_overlay_mends_it(tmp_path, kernel, overlay, config, level):
    machine, finding = two_channels(tmp_path, kernel, overlay, *config)
    assert finding.level == level
    assert ("dtparam=spi=on is lacking, too" in finding.text) == (config[0] != "dtparam=spi=on")
    if level == "wrong":
        script = re.fullmatch("sudo sed -i '(.*)' /boot/firmware/config.txt && sudo reboot", finding.mend)[1]
        file = machine.path("/boot/firmware/config.txt")
        subprocess.run(["sed", "-i", script, file], check=True)
        assert file.read_text().splitlines() == ["dtparam=spi=on", *NEW_LINES]
        mended = Machine(machine.root, machine.uid, machine.gids, machine.owner)
        assert found(ask(mended, "--hat waveshare-2ch-rs485"), "config")[0].level == "ok"


def test_a_login_shell_that_is_to_run_is_wrong_before_it_runs(tmp_path):
    machine = four_b(tmp_path, "/etc/systemd/system/getty.target.wants/serial-getty@ttyAMA0.service = ")
    assert found(ask(machine), "console")[0][2:] == (
        "a login shell is to run on /dev/ttyAMA0",
        "sudo systemctl disable --now serial-getty@ttyAMA0",
    )


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("console=ttyAMA1 console=ttyAMA10,115200 rootwait", "console=ttyAMA10,115200 rootwait"),
        ("console=ttyAMA10,115200 console=ttyAMA1", "console=ttyAMA10,115200 "),
        ("console=ttyAMA1,115200 console=tty1 console=ttyAMA1 quiet", "console=tty1 quiet"),
        ("quiet console=serial7,9600 console=ttyAMA1  console=ttyAMA1 splash", "quiet splash"),
        ("netconsole=ttyAMA1 console=ttyAMA1", "netconsole=ttyAMA1 "),
    ],
)
@pytest.mark.parametrize("end", ["", "\n"])
def test_all_of_a_ports_words_and_no_others_go_out_of_the_command_line(tmp_path, words, left, end):
    machine = four_b(tmp_path, "/dev/ttyAMA1 c 0660 0:20", "/dev/serial7 -> ttyAMA1")
    file = machine.path("/boot/firmware/cmdline.txt")
    file.write_text(words + end)
    mend = found(ask(machine, "--port /dev/ttyAMA1"), "console")[0].mend
    script = re.fullmatch("sudo (sed .*) /boot/firmware/cmdline.txt && sudo systemctl disable .*; sudo reboot", mend)
    subprocess.run(f"{script[1]} {file}", shell=True, check=True)
    assert file.read_text() == left + end


def test_a_console_that_is_gone_from_the_file_goes_with_the_next_start(tmp_path):
    machine = four_b(tmp_path, "/proc/cmdline = console=ttyAMA0,115200 console=tty1")
    assert found(ask(machine), "console")[0].mend == "sudo reboot"


def test_a_console_without_a_file_is_the_boot_loaders(tmp_path):
    machine = recorded.unpack("/dev/ttyS0 c 0660 0:20\n/proc/cmdline = console=ttyS0,115200\nuser 0 0", tmp_path)
    finding = found(ask(machine, "--port /dev/ttyS0"), "console")[0]
    assert finding.mend == "take console=ttyS0,115200 out of the boot loader's command line"


def test_what_is_no_terminal_is_not_looked_at_further(tmp_path):
    machine = four_b(tmp_path, "/dev/null c 0666 0:0", "/proc/77/fd/0 -> /dev/null")
    findings = ask(machine, "--port /dev/null").findings
    assert [finding.text for finding in findings] == ["/dev/null, with no hardware behind it"]


def test_a_port_in_use_is_not_opened(tmp_path):
    machine = four_b(tmp_path, "/proc/77/cmdline = /usr/bin/python3\\0app.py\\0", "/proc/77/fd/5 -> /dev/ttyAMA0")

    def trial(device, line):
        raise AssertionError(f"{device} is opened")

    report = ask(machine, trial=trial)
    assert found(report, "holder")[0][2:] == ("/dev/ttyAMA0 is in use by python3 (process 77)", "sudo kill 77")
    assert found(report, "settings")[0].text == "the port is not tried: it is in use"


@pytest.mark.parametrize(
    ("cgroup", "text", "mend"),
    [
        (
            "/system.slice/system-app.slice/app@a\\x2db.service",
            "/dev/ttyAMA0 is in use by python3 (process 77 of the service app@a\\x2db)",
            "sudo systemctl stop 'app@a\\x2db'",
        ),
        ("/user.slice/user-1000.slice/session-3.scope", "/dev/ttyAMA0 is in use by python3 (process 77)", "sudo kill 77"),
        # Where nothing puts logins into sessions: who is stopped would be all that log in.
        ("/system.slice/ssh.service", "/dev/ttyAMA0 is in use by python3 (process 77)", "sudo kill 77"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "/dev/ttyAMA0 is in use by python3 (process 77)", "sudo kill 77"),
        (
            "/system.slice/system-serial\\x2dgetty.slice/serial-getty@ttyAMA0.service",
            "/dev/ttyAMA0 is in use by python3 (process 77)",
            "sudo systemctl disable --now serial-getty@ttyAMA0",
        ),
    ],
)
def test_who_has_the_port_is_stopped_as_what_it_is(tmp_path, cgroup, text, mend):
    lines = ["/proc/77/cmdline = /usr/bin/python3\\0app.py\\0", "/proc/77/fd/5 -> /dev/ttyAMA0", f"/proc/77/cgroup = 0::{cgroup}\\n"]
    assert found(ask(four_b(tmp_path, *lines)), "holder") == [("wrong", "holder", text, mend)]


def test_the_services_own_process_is_no_fault(tmp_path):
    report = ask(recorded.board("4b-service", tmp_path), trial=lambda *_: pytest.fail("it is opened"))
    assert report.wrong == 0
    assert [finding.level for finding in found(report, "holder")] == ["note"]


@pytest.mark.parametrize(
    ("lines", "mend"),
    [
        (["user 1000 1000"], "log out and in again: you are in the group, but not in this session"),
        (["user 1001 1001"], "sudo usermod -aG dialout 1001, then log out and in again"),
        (
            ["/dev/ttyAMA0 c 0600 0:0"],
            """echo 'SUBSYSTEM=="tty", KERNEL=="ttyAMA*", GROUP="dialout", MODE="0660"' | sudo tee /etc/udev/rules.d/90-ttyAMA.rules""",
        ),
        (["/dev/ttyAMA0 c 0640 0:20"], """echo 'SUBSYSTEM=="tty", KERNEL=="ttyAMA*", GROUP="dialout", MODE="0660"' | sudo tee"""),
        (["user 1000 1000", "/dev/ttyAMA0 c 0660 0:777"], "sudo usermod -aG 777 pi"),
    ],
)
def test_the_way_in_for_one_who_is_not_permitted(tmp_path, lines, mend):
    finding = found(ask(four_b(tmp_path, *lines)), "permission")[0]
    assert finding.level == "wrong"
    assert finding.mend.startswith(mend)


@pytest.mark.parametrize(("owner", "user"), [("0600 1000:0", "1000 1000"), ("0666 0:0", "1000 1000"), ("0600 0:0", "0 0")])
def test_who_may_use_the_port(tmp_path, owner, user):
    report = ask(four_b(tmp_path, f"/dev/ttyAMA0 c {owner}", f"user {user}"))
    assert found(report, "permission")[0].level == "ok"


def test_who_is_let_in_by_an_access_list_hears_that_a_service_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(Machine, "may_use", lambda self, path: True)
    machine = recorded.board("trixie-acm", tmp_path)
    text = "pi may use it while logged in at this machine, by an access list; a service needs the group plugdev"
    assert found(ask(machine), "permission")[1:] == [("note", "permission", text, "")]


def test_the_direction_pins_chip_is_missing_or_closed(tmp_path):
    machine = four_b(tmp_path)
    os.unlink(tmp_path / "dev/gpiochip0")
    assert found(ask(machine, "--hat waveshare-rs485-can-manual"), "gpio")[0].text.startswith("there is no GPIO chip")
    machine = recorded.board("5-trixie", tmp_path, "user 1000 1000,20")
    finding = found(ask(machine, "--hat pixtend-v2"), "gpio")[0]
    assert finding[2:] == (
        "pi may not use /dev/gpiochip0: it is for the group gpio",
        "log out and in again: you are in the group, but not in this session",
    )


def test_a_gpio_chip_of_root_wants_a_rule_of_its_own(tmp_path):
    machine = recorded.board("5-trixie", tmp_path, "/dev/gpiochip0 c 0600 0:0")
    finding = found(ask(machine, "--hat pixtend-v2"), "gpio")[0]
    assert finding.mend == (
        """echo 'SUBSYSTEM=="gpio", KERNEL=="gpiochip*", GROUP="gpio", MODE="0660"' | sudo tee /etc/udev/rules.d/90-gpiochip.rules"""
        " && sudo udevadm control --reload && sudo udevadm trigger"
    )


@pytest.mark.parametrize(
    ("trial", "words", "finding"),
    [
        (Trial("the port X is taken: free it"), "", ("wrong", "settings", "the port X is taken", "free it")),
        (Trial("no way out"), "", ("wrong", "settings", "no way out", "see `mbcore ports`")),
        (Trial(), "--hat uart-kernel-rts", ("wrong", "rs485", "the driver uart-pl011 has no RS-485 mode")),
        (Trial(mode=KernelMode(3)), "--hat generic-uart-gpio", ("wrong", "rs485", "the driver moves RTS itself")),
        (
            Trial(mode=KernelMode(3)),
            "--hat uart-kernel-rts",
            ("ok", "rs485", "the driver has an RS-485 mode, which is on, as by --direction-active high"),
        ),
        (Trial(mode=KernelMode(5)), "", ("ok", "rs485", "the driver has an RS-485 mode, which is on, as by --direction-active low")),
    ],
)
def test_what_came_of_opening_the_port(tmp_path, trial, words, finding):
    report = ask(four_b(tmp_path), words, lambda device, line: trial)
    got = found(report, finding[1])[-1]
    for part, wanted in zip(got, finding, strict=False):
        assert part.startswith(wanted)


def test_a_driver_without_rs485_is_no_fault_where_nobody_wants_it(tmp_path):
    assert not found(ask(four_b(tmp_path), "", lambda device, line: Trial()), "rs485")


@pytest.mark.parametrize("line", [LINE_FORMAT, {}])
def test_opening_reads_back_what_the_driver_has_and_leaves_the_port_as_it_was(monkeypatch, line):
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    try:
        assert try_port(os.ttyname(slave), line) == Trial()
        monkeypatch.setattr(rs485, "read_mode", lambda descriptor: KernelMode(1))
        assert try_port(os.ttyname(slave), line) == Trial(mode=KernelMode(1))
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)
    assert "no-such-port" in try_port("/dev/no-such-port", line).refusal


@pytest.mark.parametrize("line", [LINE_FORMAT, {}])
def test_a_port_that_goes_while_it_is_tried_is_told(monkeypatch, line):
    master, slave = pty.openpty()

    def gone(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(rs485, "read_mode", gone)
    try:
        assert "Input/output error" in try_port(os.ttyname(slave), line).refusal
    finally:
        os.close(master)
        os.close(slave)


def test_a_port_that_anothers_program_may_have_keeps_its_settings(tmp_path, monkeypatch):
    machine = four_b(tmp_path)
    monkeypatch.setattr(Machine, "sees_all_holders", False)
    lines = []
    report = ask(machine, trial=lambda device, line: lines.append(line) or Trial(mode=KernelMode(0)))
    assert lines == [{}]
    assert found(report, "settings") == [
        ("note", "settings", "it opens; no settings are tried, for another user's program may have it open", "sudo mbcore doctor")
    ]
    assert found(report, "rs485")[0].level == "ok"
    assert report.as_text().endswith("\nNothing wrong was found; the port's settings were not tried.")


def test_the_port_of_a_board_with_one_setting_is_tried_with_that(tmp_path):
    assert found(ask(four_b(tmp_path), "--hat monarco"), "settings")[0].text == "it opens with 115200 8N1"


def test_a_stale_overlay_is_found_whatever_the_board_is_and_keeps_its_pin(tmp_path):
    text = (recorded.FOLDER / "sc16is752-stale.txt").read_text().replace("int_pin=24", "int_pin=25")
    finding = found(ask(recorded.unpack(text, tmp_path)), "config")[0]
    assert finding.level == "wrong"
    assert "spi1-0,int_pin=25/" in finding.mend


def test_without_its_ports_a_stale_overlay_is_looked_for_where_they_would_be(tmp_path):
    text = "\n".join(line for line in (recorded.FOLDER / "sc16is752-stale.txt").read_text().splitlines() if "ttySC" not in line)
    report = ask(recorded.unpack(text, tmp_path))
    assert report.port == "/dev/ttySC0"
    assert [finding.subject for finding in report.findings if finding.level == "wrong"] == ["config", "port"]


def test_what_may_be_a_phantom_is_not_opened(tmp_path):
    lines = ["/boot/firmware/config.txt <<", "dtparam=i2c_arm=on", "dtoverlay=sc16is752-i2c", "dtoverlay=sc16is752-spi1", "."]
    report = ask(recorded.board("sc16is752", tmp_path, *lines), "--hat waveshare-serial-expansion", lambda *_: pytest.fail("it is opened"))
    assert found(report, "settings")[0].text == "the port is not tried: it may be a phantom"


def test_beside_what_may_be_a_phantom_another_port_is_opened(tmp_path):
    lines = ["/boot/firmware/config.txt <<", "dtoverlay=disable-bt", "dtoverlay=sc16is752-i2c", "dtoverlay=sc16is752-spi1", "."]
    report = ask(four_b(tmp_path, *lines), "--port /dev/ttyAMA0")
    assert found(report, "settings")[0].text == "it opens with 19200 8E1"
    assert any("phantom" in finding.text for finding in found(report, "config"))


@pytest.mark.parametrize(
    ("config", "mend"),
    [
        (["dtparam=i2c_arm=on", "dtoverlay=sc16is752-i2c"], None),
        (
            ["dtparam=i2c_arm=on", "dtoverlay = sc16is752-i2c,addr=0x49"],
            "sudo sed -i 's/^\\s*dtoverlay\\s*=\\s*sc16is752-i2c\\b.*/dtoverlay=sc16is752-i2c,int_pin=24,addr=0x48/' "
            "/boot/firmware/config.txt && sudo reboot",
        ),
        (
            ["dtoverlay=sc16is752-i2c,int_pin=5"],
            "sudo sed -i 's/^\\s*dtoverlay\\s*=\\s*sc16is752-i2c\\b.*/dtoverlay=sc16is752-i2c,int_pin=24,addr=0x48/' "
            "/boot/firmware/config.txt && printf '%s\\n' 'dtparam=i2c_arm=on' | sudo tee -a /boot/firmware/config.txt && sudo reboot",
        ),
    ],
)
def test_an_overlay_is_loaded_once_and_does_by_itself_what_its_readme_says(tmp_path, config, mend):
    machine = recorded.board("sc16is752", tmp_path, "/boot/firmware/config.txt <<", *config, ".")
    finding = found(ask(machine, "--hat waveshare-serial-expansion"), "config")[0]
    assert (finding.level, finding.mend) == (("wrong", mend) if mend else ("ok", ""))
    if mend:
        script, file = re.search("sed -i '(.*?)'", mend)[1], machine.path("/boot/firmware/config.txt")
        subprocess.run(["sed", "-i", script, file], check=True)
        assert "dtoverlay=sc16is752-i2c,int_pin=24,addr=0x48" in file.read_text().splitlines()
        assert file.read_text().count("sc16is752-i2c") == 1


@pytest.mark.parametrize(
    ("model", "config", "level"),
    [
        ("Raspberry Pi 2 Model B Rev 1.1", [], "ok"),
        ("Raspberry Pi 2 Model B Rev 1.1", ["enable_uart=0"], "wrong"),
        ("Raspberry Pi Compute Module 3 Rev 1.0", [], "ok"),
        ("Raspberry Pi 4 Model B Rev 1.4", ["dtoverlay=disable-bt"], "ok"),
        ("Raspberry Pi 4 Model B Rev 1.4", ["dtoverlay=disable-bt", "enable_uart=0"], "wrong"),
        ("Raspberry Pi 4 Model B Rev 1.4", [], "wrong"),
    ],
)
def test_the_firmware_enables_the_uart_itself_where_it_is_no_mini_uart(tmp_path, model, config, level):
    text = f"/sys/firmware/devicetree/base/model = {model}\\0\n/boot/firmware/config.txt <<\n" + "".join(f"{x}\n" for x in config) + ".\n"
    assert found(ask(recorded.unpack(text, tmp_path)), "config")[0].level == level


def test_a_port_that_is_not_the_boards_is_said(tmp_path):
    report = ask(recorded.board("sc16is752", tmp_path), "--hat waveshare-2ch-rs485 --port /dev/ttySC1")
    assert not any("is not the port of" in finding.text for finding in report.findings)
    first = ask(four_b(tmp_path), "--hat usb-ftdi --port /dev/ttyAMA0").findings[0]
    assert first[:2] == ("note", "board")
    assert first.text.startswith("/dev/ttyAMA0 is not the port of USB adapter with an FTDI chip, which is that of an adapter with the dri")
    with pytest.raises(ConfigurationError, match="uart3-kernel-rts is for a Raspberry Pi 4 or 5"):
        ask(recorded.board("zero-w-bullseye", tmp_path), "--hat uart3-kernel-rts --port /dev/ttyAMA0")


@pytest.mark.parametrize(("mode", "level"), [(KernelMode(0), "wrong"), (None, "wrong"), (KernelMode(3), "ok")])
def test_a_board_whose_driver_has_to_switch(tmp_path, mode, level):
    report = ask(four_b(tmp_path), "--hat revpi", lambda *_: Trial(mode=mode))
    assert [finding.level for finding in found(report, "rs485")] == [level]


@pytest.mark.parametrize(
    ("hat", "kernel", "levels"),
    [
        ("uart-kernel-rts", "6.6.51+rpt-rpi-v8", ["ok", "note"]),
        ("uart-kernel-rts", "6.12.47+rpt-rpi-v8", ["ok", "note"]),
        ("uart-kernel-rts", "6.13.0", ["ok"]),
        ("waveshare-serial-expansion", "6.6.51+rpt-rpi-v8", ["ok"]),
    ],
)
def test_a_driver_that_knew_one_level_only_in_older_kernels(tmp_path, hat, kernel, levels):
    machine = recorded.board("sc16is752", tmp_path, f"/proc/sys/kernel/osrelease = {kernel}\\n")
    findings = found(ask(machine, f"--hat {hat} --port /dev/ttySC0"), "rs485")
    assert [finding.level for finding in findings] == levels
    assert all("can't do --direction-active high" in finding.text for finding in findings[1:])


@pytest.mark.parametrize(
    ("board", "port", "config", "mend"),
    [
        ("4b-bookworm", "/dev/ttyAMA1", [], "printf '%s\\n' 'dtoverlay=uart3' | sudo tee -a"),
        ("4b-bookworm", "/dev/ttyAMA2", ["dtoverlay=uart3"], "choose one of /dev/ttyAMA0"),
        ("5-bookworm", "/dev/ttyAMA3", [], "printf '%s\\n' 'dtoverlay=uart3-pi5' | sudo tee -a"),
        ("5-bookworm", "/dev/ttyAMA3", ["dtoverlay=uart3-pi5"], "sudo reboot"),
    ],
)
def test_a_further_uart_that_is_not_there(tmp_path, board, port, config, mend):
    machine = recorded.board(board, tmp_path, "/boot/firmware/config.txt <<", "[all]", *config, ".")
    assert found(ask(machine, f"--port {port}"), "port")[0].mend.startswith(mend)
