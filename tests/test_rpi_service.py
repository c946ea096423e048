"""The service: what is written and run, in which order; the unit held against systemd's own tools; nothing done that was not shown."""

import re
import subprocess
from pathlib import Path

import pytest
import recorded
from live import programs

from mbcore.errors import ConfigurationError
from mbcore.rpi import service
from mbcore.rpi.service import FOLDER, RULES, UNIT, WANTED, File, Removal, carry_out, explain, plan_install, plan_remove, show, udev_rule

PROGRAM = ("/usr/bin/env", "mbcore")
PACKAGE = ("/usr",)
ADAPTER = "/dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0"
# The highest "exposure level" of `systemd-analyze security` that the unit may have; a bare one has 9.6.
EXPOSURE = 2.0


@pytest.fixture
def machine(tmp_path):
    return recorded.board("4b-bookworm", tmp_path, "user 0 0")


def install(machine, name="plant", words=("rtu", "/dev/ttyAMA0")):
    return plan_install(machine, name, words, PROGRAM, PACKAGE)


def commands(steps):
    return [step for step in steps if not isinstance(step, File | Removal)]


def files(steps):
    return {step.path: step.text for step in steps if isinstance(step, File)}


# ---- the unit ----


@pytest.fixture
def systemd_analyze():
    return programs.need("systemd-analyze", "systemd")


def test_the_unit_is_sound_for_systemd(machine, tmp_path, systemd_analyze):
    unit = tmp_path / "mbcore@plant.service"
    unit.write_text(service.unit(machine, PROGRAM, PACKAGE))
    checked = subprocess.run([systemd_analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    # Other units of this system may be unsound.
    assert "mbcore" not in checked.stderr
    assert checked.returncode == 0, checked.stderr


def test_the_unit_exposes_little(machine, tmp_path, systemd_analyze):
    unit = tmp_path / "mbcore@.service"
    unit.write_text(service.unit(machine, PROGRAM, PACKAGE))
    command = [systemd_analyze, "security", "--offline=true", "--no-pager", unit]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(re.search(r"Overall exposure level for mbcore@\w*\.service: ([\d.]+)", said)[1]) <= EXPOSURE


def test_the_unit_holds_what_the_field_has_taught(machine):
    lines = service.unit(machine, PROGRAM, PACKAGE).splitlines()
    for line in (
        "Type=notify",
        "WatchdogSec=10",
        "Restart=always",
        "StartLimitIntervalSec=0",
        "DynamicUser=yes",
        "SupplementaryGroups=dialout gpio",
        "AmbientCapabilities=CAP_NET_BIND_SERVICE",
        "DevicePolicy=closed",
        "DeviceAllow=char-ttyAMA rw",
        "DeviceAllow=char-gpiochip rw",
        "EnvironmentFile=/etc/mbcore/%i.env",
        "ExecStart=/usr/bin/env mbcore serve $MBCORE_ARGS",
        "SystemCallFilter=sched_setattr",
    ):
        assert line in lines
    # It is one of @resources: the later line holds.
    assert lines.index("SystemCallFilter=~@privileged @resources") < lines.index("SystemCallFilter=sched_setattr")
    # Else systemd leaves out of the list what no driver is loaded for yet, as for an adapter that is not plugged in.
    modules = "modprobe@usbserial.service modprobe@cdc_acm.service modprobe@sc16is7xx.service"
    for line in (f"Wants={modules}", f"After={modules}"):
        assert lines.index("[Unit]") < lines.index(line) < lines.index("[Service]")
    # In [Service] it would be ignored.
    assert lines.index("StartLimitIntervalSec=0") < lines.index("[Service]")


@pytest.mark.parametrize(
    ("groups", "line"),
    [("dialout:x:20:\\n", "SupplementaryGroups=dialout"), ("gpio:x:9:\\n", "SupplementaryGroups=gpio"), ("root:x:0:\\n", None)],
)
def test_groups_that_the_system_does_not_have_would_keep_the_unit_from_starting(tmp_path, groups, line):
    text = service.unit(recorded.unpack(f"/etc/group = {groups}", tmp_path), PROGRAM, PACKAGE)
    assert re.findall("SupplementaryGroups=.*", text) == ([line] if line else [])


@pytest.mark.parametrize("which", ["program", "places"])
@pytest.mark.parametrize("place", ["/home/pi/venv/bin/mbcore", "/root/x", "/run/user/1000/x"])
def test_a_program_that_the_service_does_not_see_is_refused(machine, which, place):
    places = {"program": PROGRAM, "places": PACKAGE} | {which: (place,)}
    with pytest.raises(ConfigurationError, match=r"can't be run by a service, to which .* is closed: install mbcore under /opt/mbcore"):
        service.unit(machine, **places)


def test_a_program_behind_a_closed_folder_or_without_the_right_to_run_is_refused(machine, tmp_path):
    tmp_path.chmod(0o700)
    program = tmp_path / "mbcore"
    program.write_text("")
    with pytest.raises(ConfigurationError, match=r"is closed: install mbcore .* \./WHEEL, the wheel for this system, which"):
        service.unit(machine, (str(program),), PACKAGE)
    with pytest.raises(ConfigurationError, match="to which /usr/none is closed"):
        service.unit(machine, ("/usr/none",), PACKAGE)


@pytest.mark.parametrize("place", ["/opt/my tools/mbcore", "/opt/it's/mbcore", '/opt/"a"/mbcore', "/opt/$a/mbcore", "/opt/100%/mbcore"])
@pytest.mark.parametrize("words", [(), ("-m", "mbcore")])
def test_a_program_whose_name_a_unit_can_not_have_is_refused(machine, place, words):
    with pytest.raises(ConfigurationError, match=r"can't stand in a unit, for its blanks, .*: install mbcore under /opt/mbcore") as caught:
        service.unit(machine, (place, *words), PACKAGE)
    assert str(caught.value).startswith(repr(place))


# ---- installing ----


def test_installing_writes_the_unit_and_the_words_and_starts_it(machine):
    steps = install(machine, words=["rtu", "/dev/ttyAMA0", "-b", "9600"])
    assert files(steps).keys() == {UNIT, "/etc/mbcore/plant.env"}
    assert files(steps)["/etc/mbcore/plant.env"].splitlines()[1:] == ['MBCORE_ARGS="rtu /dev/ttyAMA0 -b 9600"']
    assert commands(steps) == [
        ("systemctl", "daemon-reload"),
        ("systemctl", "enable", "mbcore@plant"),
        ("systemctl", "restart", "mbcore@plant"),
    ]


@pytest.mark.parametrize(
    ("device", "served"),
    [("/dev/ttyUSB0", "/dev/mbcore-plant"), (ADAPTER, ADAPTER)],
)
def test_an_adapter_gets_a_rule_and_a_name_that_stays(tmp_path, device, served):
    steps = install(recorded.board("usb-ftdi", tmp_path), words=["rtu", device])
    assert f'MBCORE_ARGS="rtu {served}"\n' in files(steps)["/etc/mbcore/plant.env"]
    assert files(steps)[f"{RULES}/90-mbcore-plant.rules"].splitlines()[1:] == [
        'SUBSYSTEM=="tty", ATTRS{idVendor}=="0403", ATTRS{idProduct}=="6001", ATTRS{serial}=="A50285BI",'
        ' SYMLINK+="mbcore-plant", GROUP="dialout", MODE="0660"',
        'SUBSYSTEM=="usb-serial", DRIVER=="ftdi_sio", ATTRS{idVendor}=="0403", ATTRS{idProduct}=="6001", ATTRS{serial}=="A50285BI",'
        ' ATTR{latency_timer}="1"',
    ]
    assert commands(steps)[1:3] == [("udevadm", "control", "--reload"), ("udevadm", "trigger", "--settle", "--subsystem-match=tty")]


def test_a_device_that_is_named_is_not_named_again(tmp_path):
    machine = recorded.board("usb-ftdi", tmp_path, "/srv/bus -> /dev/ttyUSB0")
    steps = plan_install(machine, "plant", ["rtu", "/srv/bus"], PROGRAM, PACKAGE, "/srv/bus")
    assert 'MBCORE_ARGS="rtu /srv/bus"\n' in files(steps)["/etc/mbcore/plant.env"]


def test_an_adapter_without_a_serial_number_is_known_by_its_socket(tmp_path):
    machine = recorded.board("usb-ch340", tmp_path)
    rule = udev_rule("a", service.describe(machine, "/dev/ttyUSB1"))
    assert rule.splitlines()[1:] == [
        'SUBSYSTEM=="tty", KERNELS=="1-1.4", ATTRS{idVendor}=="1a86", ATTRS{idProduct}=="7523",'
        ' SYMLINK+="mbcore-a", GROUP="dialout", MODE="0660"'
    ]


def test_installing_again_without_words_keeps_those_in_place(machine, tmp_path):
    with pytest.raises(ConfigurationError, match="say what plant is to serve: mbcore service install plant rtu /dev/ttyUSB0"):
        install(machine, words=[])
    recorded.unpack("/etc/mbcore/plant.env = kept", tmp_path)
    assert files(install(machine, words=[])).keys() == {UNIT}


RULE = f"{RULES}/90-mbcore-plant.rules"
UDEV = [("udevadm", "control", "--reload"), ("udevadm", "trigger", "--settle", "--subsystem-match=tty")]


def test_the_rule_has_the_last_word_on_the_adapters_group():
    # Of the files of all folders, in the order of their names; these two give serial ports to a group.
    assert sorted(["60-openocd.rules", "50-udev-default.rules", RULE.rpartition("/")[2]])[-1] == RULE.rpartition("/")[2]


@pytest.mark.parametrize("words", [["rtu", "/dev/ttyAMA0"], ["tcp", "0.0.0.0"]])
def test_the_rule_of_an_adapter_that_is_not_served_any_more_is_removed(tmp_path, words):
    steps = install(recorded.board("4b-bookworm", tmp_path, f"{RULE} = of an adapter"), words=words)
    assert steps[3:6] == [Removal(RULE), *UDEV]


@pytest.mark.parametrize("words", [[], ["rtu", "/dev/mbcore-plant", "-b", "9600"]])
def test_the_rule_of_an_adapter_that_is_not_plugged_in_stays(tmp_path, words):
    steps = install(recorded.board("4b-bookworm", tmp_path, f"{RULE} = of an adapter", f"{FOLDER}/plant.env = words"), words=words)
    assert not [step for step in steps if isinstance(step, Removal)]
    assert UDEV[0] not in steps


def test_an_adapter_with_two_ports_is_known_by_the_name_that_tells_them_apart(tmp_path):
    usb = "/sys/devices/platform/scb/usb1/1-1/1-1.3"
    lines = [f"{usb}/idVendor = 0403\\n", f"{usb}/idProduct = 6010\\n", f"{usb}/serial = FT2\\n"]
    for number in (0, 1):
        folder = f"{usb}/1-1.3:1.{number}/ttyUSB{number}"
        lines += [
            f"{folder}/driver -> /sys/bus/usb-serial/drivers/ftdi_sio",
            f"/sys/class/tty/ttyUSB{number}/device -> {folder}",
            f"/dev/ttyUSB{number} c 0660 0:20",
            f"/dev/serial/by-id/usb-FTDI_FT2-if0{number}-port0 -> /dev/ttyUSB{number}",
        ]
    steps = install(recorded.unpack("\n".join(lines), tmp_path), words=["rtu", "/dev/ttyUSB1"])
    assert files(steps).keys() == {UNIT, "/etc/mbcore/plant.env"}
    assert 'MBCORE_ARGS="rtu /dev/serial/by-id/usb-FTDI_FT2-if01-port0"' in files(steps)["/etc/mbcore/plant.env"]


def test_a_network_server_has_no_adapter(machine):
    assert len(files(install(machine, words=["tcp", "0.0.0.0"]))) == 2


@pytest.mark.parametrize("name", ["", "-x", "a b", "../x", "a/b", "ä", "x" * 42])
def test_what_is_no_name_is_refused(machine, name):
    for plan in (lambda: install(machine, name), lambda: plan_remove(machine, name, False), lambda: show(machine, name)):
        with pytest.raises(ConfigurationError, match="is no name of a service"):
            plan()


@pytest.mark.parametrize("word", ["a b", 'a"b', "a'b", "$HOME", "%i", "a\\b", ""])
def test_words_that_systemd_would_take_apart_are_refused(machine, word):
    with pytest.raises(ConfigurationError, match="can't stand in a service's words"):
        install(machine, words=["tcp", word])


# ---- removing and showing ----


def installed(machine, *names):
    """Carry out the installation, but for the commands."""
    for name in names:
        carry_out(machine, install(machine, name), "", lambda command: 0)
        link = machine.path(f"{WANTED}/mbcore@{name}.service")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(UNIT)


def test_removing_the_last_one_removes_the_template_and_leaves_the_words(machine):
    installed(machine, "plant")
    steps = plan_remove(machine, "plant", False)
    assert steps == [
        ("systemctl", "disable", "--now", "mbcore@plant"),
        Removal(f"{RULES}/90-mbcore-plant.rules"),
        Removal(UNIT),
        ("systemctl", "daemon-reload"),
        ("udevadm", "control", "--reload"),
    ]
    carry_out(machine, steps, "", lambda command: 0)
    assert machine.exists(f"{FOLDER}/plant.env")
    assert not machine.exists(UNIT)


def test_purging_removes_the_words_and_others_keep_the_template(machine):
    installed(machine, "plant", "shed")
    carry_out(machine, plan_remove(machine, "plant", True), "", lambda command: 0)
    assert not machine.exists(f"{FOLDER}/plant.env")
    assert machine.exists(UNIT)
    assert service.instances(machine) == ["shed"]


def test_another_one_that_is_not_enabled_keeps_the_template(machine):
    installed(machine, "plant", "shed")
    machine.path(f"{WANTED}/mbcore@shed.service").unlink()
    assert Removal(UNIT) not in plan_remove(machine, "plant", True)


def test_what_is_not_installed_is_said_with_what_is(machine):
    for ask in (lambda: plan_remove(machine, "plant", False), lambda: show(machine, "plant")):
        with pytest.raises(ConfigurationError, match="there is no service plant: installed is none"):
            ask()
    installed(machine, "a", "b")
    with pytest.raises(ConfigurationError, match="there is no service plant: installed is a, b"):
        show(machine, "plant")


def test_a_half_removed_one_can_be_removed(machine):
    installed(machine, "plant")
    machine.path(f"{FOLDER}/plant.env").unlink()
    assert plan_remove(machine, "plant", False)[0] == ("systemctl", "disable", "--now", "mbcore@plant")


def test_showing_prints_what_is_installed(machine):
    installed(machine, "plant")
    said = show(machine, "plant")
    assert said.startswith(f"==> {UNIT} <==\n# Made by")
    assert 'MBCORE_ARGS="rtu /dev/ttyAMA0"' in said
    assert RULES not in said
    assert "It starts with the system." in said
    machine.path(f"{WANTED}/mbcore@plant.service").unlink()
    assert "It does not start with the system." in show(machine, "plant")


# ---- doing it ----


def test_the_steps_are_shown_whole(machine):
    installed(machine, "plant")
    steps = install(machine)
    said = explain(steps)
    assert all(text in said for text in files(steps).values())
    assert said.endswith("# systemctl daemon-reload\n# systemctl enable mbcore@plant\n# systemctl restart mbcore@plant")
    assert f"# rm -f {UNIT}" in explain(plan_remove(machine, "plant", False))


def test_who_is_not_root_is_told_how_and_nothing_is_done(tmp_path):
    machine = recorded.board("4b-bookworm", tmp_path)
    with pytest.raises(PermissionError, match="run sudo mbcore service install plant, or add --dry-run"):
        carry_out(machine, install(machine), "mbcore service install plant", lambda command: 1 / 0)
    assert not machine.exists(UNIT)


def test_files_and_commands_come_in_order(machine):
    run = []

    def note(command):
        run.append((command, machine.exists(UNIT)))
        return 0

    carry_out(machine, install(machine), "", note)
    assert run[0] == (("systemctl", "daemon-reload"), True)
    assert machine.path(UNIT).stat().st_mode & 0o777 == 0o644
    carry_out(machine, [Removal("/none")], "", note)


def test_a_command_that_fails_ends_it(machine):
    run = []

    def fail(command):
        run.append(command)
        return 5

    with pytest.raises(OSError, match="`systemctl daemon-reload` has failed with exit code 5"):
        carry_out(machine, install(machine), "", fail)
    assert len(run) == 1


def test_a_service_that_does_not_start_yet_is_installed_all_the_same(machine):
    with pytest.raises(OSError, match="mbcore@plant is installed") as caught:
        carry_out(machine, install(machine), "", lambda command: command[1] == "restart")
    why = "journalctl -u mbcore@plant -e says why"
    assert str(caught.value) == f"mbcore@plant is installed and does not start yet, it is tried again every 2 s: {why}"
    assert "RestartSec=2" in machine.read(UNIT).splitlines()


def test_commands_are_run_by_the_system(machine, tmp_path):
    carry_out(machine, [("/bin/sh", "-c", f"touch {tmp_path}/done")], "")
    assert Path(tmp_path, "done").exists()
    with pytest.raises(OSError, match="there is no /none/systemctl: this system is not run by systemd"):
        carry_out(machine, [("/none/systemctl", "x")], "")
