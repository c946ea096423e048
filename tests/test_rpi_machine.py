"""What is read of a machine: families of boards, config.txt with its filters, console, groups, who holds a port."""

import os
from pathlib import Path

import pytest
import recorded

from mbcore.rpi.machine import BLUETOOTH, FAMILIES, Holder, Machine, Owner
from mbcore.server.devices import Hardware


def machine(tmp_path, *lines):
    return recorded.unpack("\n".join(lines), tmp_path)


def of_model(tmp_path, model, *lines):
    return machine(tmp_path, f"/sys/firmware/devicetree/base/model = {model}\\0", *lines)


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("Raspberry Pi Model B Rev 2", "1"),
        ("Raspberry Pi Model A Plus Rev 1.1", "1"),
        ("Raspberry Pi Compute Module Rev 1.0", "1"),
        ("Raspberry Pi Zero Rev 1.3", "zero"),
        ("Raspberry Pi Zero W Rev 1.1", "zero-w"),
        ("Raspberry Pi Zero 2 W Rev 1.0", "zero-2-w"),
        ("Raspberry Pi Zero 2 Rev 1.0", "zero-2-w"),
        ("Raspberry Pi 2 Model B Rev 1.2", "2"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "3"),
        ("Raspberry Pi Compute Module 3 Plus Rev 1.0", "cm3"),
        ("Raspberry Pi 4 Model B Rev 1.5", "4"),
        ("Raspberry Pi 400 Rev 1.0", "4"),
        ("Raspberry Pi Compute Module 4 Rev 1.1", "4"),
        ("Raspberry Pi Compute Module 4S Rev 1.0", "4"),
        ("Raspberry Pi 5 Model B Rev 1.0", "5"),
        ("Raspberry Pi 500 Rev 1.0", "5"),
        ("Raspberry Pi Compute Module 5 Rev 1.0", "5"),
        ("Raspberry Pi 6 Model B", "other"),
        ("Orange Pi Zero 2", "other"),
        ("", "other"),
    ],
)
def test_the_family_tells_which_uart_is_on_the_header(tmp_path, model, family):
    assert of_model(tmp_path, model).family == family
    assert family in FAMILIES


def test_bluetooth_is_a_matter_of_some_families():
    assert set(FAMILIES) > BLUETOOTH


@pytest.mark.parametrize(
    ("model", "section", "holds"),
    [
        ("Raspberry Pi 4 Model B Rev 1.4", "pi4", True),
        ("Raspberry Pi 4 Model B Rev 1.4", "PI4", True),
        ("Raspberry Pi 4 Model B Rev 1.4", "all", True),
        ("Raspberry Pi 4 Model B Rev 1.4", "cm4", False),
        ("Raspberry Pi 4 Model B Rev 1.4", "none", False),
        ("Raspberry Pi 4 Model B Rev 1.4", "pi400", False),
        ("Raspberry Pi 4 Model B Rev 1.4", "EDID=VSC-TD2220", False),
        ("Raspberry Pi Compute Module 4 Rev 1.1", "cm4", True),
        ("Raspberry Pi Compute Module 4S Rev 1.1", "cm4", False),
        ("Raspberry Pi Compute Module 4S Rev 1.1", "cm4s", True),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "pi3+", True),
        ("Raspberry Pi 3 Model B Rev 1.2", "pi3+", False),
        ("Raspberry Pi Zero 2 W Rev 1.0", "pi0", True),
        ("Raspberry Pi Zero 2 W Rev 1.0", "pi02", True),
        ("Raspberry Pi Zero 2 W Rev 1.0", "pi3", True),
        ("Raspberry Pi Zero W Rev 1.1", "pi0w", True),
        ("Raspberry Pi Zero Rev 1.3", "pi0w", False),
        ("Raspberry Pi 5 Model B Rev 1.0", "pi5", True),
        ("Raspberry Pi 5 Model B Rev 1.0", "pi4", False),
    ],
)
def test_a_filter_of_config_holds_for_its_boards(tmp_path, model, section, holds):
    text = ["/boot/firmware/config.txt <<", f"[{section}]", "dtparam=spi=on", "."]
    assert of_model(tmp_path, model, *text).configured("dtparam=spi=on") is holds


CONFIG = """
dtparam=spi=on,i2c_arm   # two in one line
#enable_uart=1
 dtoverlay = uart3 , rs485,ctsrts
dtoverlay=sc16is752-i2c,int_pin=24,addr=0x4A
dtoverlay=spi1-1cs,cs0_spidev=no
a line without a sign
[all]
include more.txt
include
"""


@pytest.mark.parametrize(
    ("line", "there"),
    [
        ("dtparam=spi=on", True),
        ("dtparam=spi", True),
        ("dtparam=i2c_arm=on", True),
        ("dtparam=i2c_arm=on,spi=on", True),
        ("dtparam=spi=off", False),
        ("enable_uart=1", False),
        ("enable_uart=1 or dtparam=spi=on", True),
        ("dtoverlay=uart3", True),
        ("dtoverlay=uart3,rs485", True),
        ("dtoverlay=uart3,rs485,ctsrts=on", True),
        ("dtoverlay=uart3,rs485=off", False),
        ("dtoverlay=uart4", False),
        ("dtoverlay=sc16is752-i2c,addr=0x4a", True),
        ("dtoverlay=spi1-1cs,cs0_spidev=off", True),
        ("gpio=17=a3", True),
        ("uart_2ndstage=1", False),
    ],
)
def test_lines_of_config_that_mean_the_same_are_equal(tmp_path, line, there):
    config = ["/boot/config.txt <<", *CONFIG.splitlines(), ".", "/boot/more.txt = gpio=17=a3\\ninclude more.txt\\n"]
    assert of_model(tmp_path, "Raspberry Pi 4 Model B", *config).configured(line) is there


@pytest.mark.parametrize(
    ("config", "line", "there"),
    [
        ("enable_uart=1 [all] enable_uart=0", "enable_uart=1", False),
        ("enable_uart=0 [all] enable_uart=1", "enable_uart=1", True),
        ("enable_uart=1 [pi5] enable_uart=0", "enable_uart=1", True),
        ("dtparam=spi=on,i2c_arm=on dtparam=spi=off", "dtparam=spi=on", False),
        ("dtparam=spi=on,i2c_arm=on dtparam=spi=off", "dtparam=i2c_arm=on", True),
        ("dtoverlay=uart3 dtoverlay=uart4", "dtoverlay=uart3", True),
        ("gpio=17=a3 gpio=18=op", "gpio=17=a3", True),
        ("dtoverlay=pi3-disable-bt", "dtoverlay=disable-bt", True),
        ("dtoverlay=pi3-miniuart-bt", "dtoverlay=miniuart-bt", True),
        ("dtoverlay=disable-bt", "dtoverlay=pi3-disable-bt", True),
        ("dtoverlay=uart3 dtparam=ctsrts", "dtoverlay=uart3,ctsrts", True),
        ("dtoverlay=uart3 dtparam=ctsrts,rs485=off dtoverlay=uart4", "dtoverlay=uart3,ctsrts,rs485=off", True),
        ("dtoverlay=uart3 dtparam=ctsrts dtoverlay=uart4", "dtoverlay=uart4,ctsrts", False),
        ("dtoverlay=uart3 dtoverlay= dtparam=ctsrts", "dtoverlay=uart3,ctsrts", False),
        ("dtparam=ctsrts dtoverlay=uart3", "dtoverlay=uart3,ctsrts", False),
        ("dtoverlay=uart3 dtparam=spi=on", "dtparam=spi=on", True),
    ],
)
def test_what_later_lines_of_config_do_to_earlier_ones(tmp_path, config, line, there):
    text = ["/boot/config.txt <<", *config.split(), "."]
    assert of_model(tmp_path, "Raspberry Pi 4 Model B", *text).configured(line) is there


@pytest.mark.parametrize(
    ("files", "there"),
    [
        (["/boot/config.txt = ", "/boot/overlays/a.dtbo = "], True),
        (["/boot/config.txt = ", "/boot/overlays/b.dtbo = "], False),
        (["/boot/config.txt = "], None),
        (["/overlays/a.dtbo = "], None),
    ],
)
def test_whether_the_system_has_an_overlay(tmp_path, files, there):
    assert machine(tmp_path, *files).has_overlay("a") is there


def test_terminals_go_by_their_names_or_by_sysfs(tmp_path):
    found = machine(tmp_path, "/sys/class/tty/rfcomm0/dev = 216:0")
    names = ("/dev/ttyS7", "/dev/pts/3", "/dev/rfcomm0", "/dev/null", "/dev/sda")
    assert [found.is_terminal(name) for name in names] == [True, True, True, False, False]


def test_who_asks_holds_nothing(tmp_path):
    lines = [f"/proc/{number}/fd/0 -> /dev/ttyAMA0" for number in (77, 78)]
    found = machine(tmp_path, "/dev/ttyAMA0 c 0660 0:20", "/proc/78/comm = sh", *lines, "/proc/self -> /proc/77")
    assert found.holders("/dev/ttyAMA0") == [Holder(78, "sh")]


@pytest.mark.parametrize(
    ("files", "folder"),
    [(["/boot/firmware/config.txt", "/boot/config.txt"], "/boot/firmware"), (["/boot/config.txt"], "/boot"), ([], "")],
)
def test_the_boot_folder_of_debian_12_and_of_earlier_ones(tmp_path, files, folder):
    found = machine(tmp_path, *(f"{file} = " for file in files))
    assert found.boot_folder == folder
    assert found.config_file == f"{folder or '/boot/firmware'}/config.txt"
    assert found.command_line_file == f"{folder or '/boot/firmware'}/cmdline.txt"
    assert found.config == ()


@pytest.mark.parametrize(("text", "last"), [("", "all"), ("[pi4]", "pi4"), ("[pi4]\n[all]", "all"), ("# [pi4]", "all")])
def test_the_filter_at_the_end_of_config(tmp_path, text, last):
    assert machine(tmp_path, "/boot/config.txt <<", *text.splitlines(), ".").last_section == last


def test_the_console_by_every_name(tmp_path):
    found = machine(
        tmp_path,
        "/dev/ttyAMA0 c 0660 0:20",
        "/dev/serial0 -> ttyAMA0",
        "/proc/cmdline = quiet console=ttyS1,9600 console=tty1 xconsole=ttyS2",
        "/boot/config.txt = ",
        "/boot/cmdline.txt = console=serial0,115200 console=tty1",
    )
    assert found.consoles() == {"/dev/ttyS1": "console=ttyS1,9600", "/dev/ttyAMA0": "console=serial0,115200"}


def test_names_lead_to_devices(tmp_path):
    found = machine(tmp_path, "/dev/ttyUSB0 c 0660 0:20", "/dev/serial/by-id/a -> ../../ttyUSB0")
    assert found.device("/dev/serial/by-id/a") == "/dev/ttyUSB0"
    assert found.device("/dev/none") == "/dev/none"
    (tmp_path / "dev/out").symlink_to("/nowhere/else")
    assert found.device("/dev/out") == "/nowhere/else"


def test_groups_and_users(tmp_path):
    files = ["/etc/group = dialout:x:20:pi,eve\\ngpio:x:986:\\nbroken\\n", "/etc/passwd = pi:x:1000:1000::/home/pi:/bin/sh"]
    found = machine(tmp_path, *files, "user 1000 20")
    assert (found.group_name(20), found.group_name(7)) == ("dialout", "7")
    assert found.group_members("dialout") == {"pi", "eve"}
    assert found.group_members("gpio") == found.group_members("video") == frozenset()
    assert (found.has_group("gpio"), found.has_group("gp")) == (True, False)
    assert found.user_name() == "pi"
    assert found.may_use("/dev/none") is False


def test_a_devices_owner_by_default_is_the_file_systems(tmp_path):
    file = tmp_path / "port"
    file.write_text("")
    file.chmod(0o600)
    assert Machine(tmp_path).may_use("/port")
    assert not Machine(tmp_path, uid=os.geteuid() + 1, gids={-1}).may_use("/port")
    assert not Machine(tmp_path, uid=1).may_use("/none")


def test_on_this_machine_the_kernel_says_who_may_use_a_device(monkeypatch):
    """It knows of access lists, as logind's for who sits at it."""
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((path, mode)) or path == "/dev/ttyX")
    here = Machine(owner=lambda path: Owner(0o660, os.geteuid() + 1, -1))
    assert (here.may_use("/dev/ttyX"), here.may_use("/dev/ttyY")) == (True, False)
    assert asked == [("/dev/ttyX", os.R_OK | os.W_OK), ("/dev/ttyY", os.R_OK | os.W_OK)]
    somebody = Machine(uid=os.geteuid() + 2, owner=lambda path: Owner(0o660, os.geteuid() + 1, -1))
    assert not somebody.may_use("/dev/ttyX")
    assert len(asked) == 2


def test_versions_of_kernels_are_compared_as_numbers(tmp_path):
    found = machine(tmp_path, "/proc/sys/kernel/osrelease = 6.12.34+rpt-rpi-v8\\n")
    assert [found.kernel_at_least(version) for version in ("0", "6.6.51", "6.12.34", "6.12.100", "7")] == [True, True, True, False, False]
    assert not machine(tmp_path / "none", "# nothing").kernel_at_least("0")


def test_who_holds_a_port_by_file_and_by_terminal(tmp_path):
    found = machine(
        tmp_path,
        "/dev/ttyAMA0 c 0660 0:20",
        "/dev/serial0 -> ttyAMA0",
        "/sys/class/tty/ttyAMA0/dev = 204:64\\n",
        "/proc/self/cmdline = not a number",
        "/proc/10/comm = kworker\\n",
        "/proc/10/fd/1 -> /dev/ttyAMA0",
        "/proc/11/cmdline = /sbin/agetty\\0-\\0vt220\\0",
        "/proc/11/stat = 11 (a (ge) tty) S 1 11 11 52288 11 0\\n",
        "/proc/12/stat = 12 (bash) S 1 12 12 34816 12 0\\n",
        "/proc/12/fd/0 -> /dev/pts/0",
        "/proc/13/cmdline = ends",
        "/proc/13/stat = 13\\n",
    )
    assert found.holders("/dev/serial0") == [Holder(10, "kworker"), Holder(11, "agetty")]
    assert found.holders("/dev/ttyS9") == []


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/system-mbcore.slice/mbcore@plant.service", "mbcore@plant.service"),
        ("0::/system.slice/app.service", "app.service"),
        ("0::/system.slice/app.service/worker/payload", "app.service"),
        ("0::/plant.slice/app.service", "app.service"),
        ("0::/system.slice/_cpu.service", "cpu.service"),
        # Version 1, and both side by side.
        ("12:devices:/system.slice/x.service\\n1:name=systemd:/system.slice/app.service\\n0::/", "app.service"),
        ("1:name=systemd:/user.slice/user-1000.slice/session-3.scope\\n0::/user.slice/user-1000.slice/session-3.scope", ""),
        ("5:cpu,cpuacct:/system.slice/x.service", ""),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/app.service", ""),
        ("0::/system.slice/docker-0a.scope", ""),
        ("0::/machine.slice/machine-a.scope/payload/system.slice/app.service", ""),
        ("0::/lxc.payload.a/system.slice/app.service", ""),
        ("0::/init.scope", ""),
        ("0::/", ""),
        ("no line of this kind", ""),
    ],
)
def test_the_service_that_holds_a_port(tmp_path, cgroup, unit):
    found = machine(tmp_path, "/dev/ttyAMA0 c 0660 0:20", "/proc/10/fd/1 -> /dev/ttyAMA0", f"/proc/10/cgroup = {cgroup}\\n")
    assert found.holders("/dev/ttyAMA0") == [Holder(10, "", unit)]


def test_the_hardware_behind_the_serial_core(tmp_path):
    found = recorded.board("4b-bookworm", tmp_path).hardware("/dev/ttyAMA0")
    assert found[:3] == ("uart-pl011", "amba", "arm,pl011 arm,primecell")
    assert isinstance(found, Hardware)
    assert found.folder.name == "fe201000.serial"
    assert not found.mini_uart
    assert recorded.board("4b-mini-uart", tmp_path / "2").hardware("/dev/serial0").mini_uart
    assert recorded.board("usb-ftdi", tmp_path / "3").hardware("/dev/ttyUSB0")[:2] == ("ftdi_sio", "usb-serial")


def test_of_this_machine_something_is_read():
    here = Machine()
    assert here.kernel == os.uname().release
    assert here.root == Path("/")


def test_a_recording_with_a_line_of_no_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a line of no kind: 'x'"):
        machine(tmp_path, "x")


def test_whether_a_files_last_line_has_an_end(tmp_path):
    found = machine(tmp_path)
    assert not found.lacks_line_feed("/boot/config.txt"), "there is none"
    file = found.path("/boot/config.txt")
    file.parent.mkdir()
    for text, lacks in ("", False), ("a\n", False), ("a\nb", True):
        file.write_text(text)
        assert found.lacks_line_feed("/boot/config.txt") is lacks
