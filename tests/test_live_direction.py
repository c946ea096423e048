"""Direction control at the system-call boundary: what a process asks of a driver, in which order, and what it makes of the answers."""

import time
from itertools import pairwise

import pytest
from live.line import Line
from live.shim import CHIP, DRIVERS

pytestmark = pytest.mark.live

KERNEL = """
import os, sys
from mbcore.server import devices, rs485
devices.SYSFS = sys.argv[2]
fd = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
try:
    mode = rs485.kernel_mode(fd, sys.argv[1], **eval(sys.argv[3]))
    print(mode.flags, mode.delay_before, mode.delay_after)
except Exception as error:
    print(type(error).__name__, error)
os.close(fd)
"""

GPIO = """
import os, sys
from mbcore.server.rs485 import request_gpio
chip, line, active = sys.argv[1], int(sys.argv[2]), sys.argv[3]
fd = request_gpio(chip, line, active=active)
try:
    request_gpio(chip, line)
except Exception as error:
    print(type(error).__name__, error)
os.close(fd)
os.close(request_gpio(chip, line))
"""

REPLY = """
import fcntl, os, struct, sys, termios, time
def ioctl(request, value):
    return struct.unpack("=i", fcntl.ioctl(fd, request, struct.pack("=i", value)))[0]
fd = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
ioctl(termios.TIOCMBIS, termios.TIOCM_RTS)
os.write(fd, bytes.fromhex("0103020007"))
time.sleep(0.001)
while not ioctl(0x5459, 0):
    time.sleep(0.0001)
ioctl(termios.TIOCMBIC, termios.TIOCM_RTS)
os.close(fd)
"""


@pytest.fixture
def line():
    line = Line()
    yield line
    line.close()


@pytest.fixture
def sysfs(tmp_path, line):
    """sysfs(driver) -> the folder that says so of the line's device end."""

    def show(driver):
        device = tmp_path / "tty" / line.device_end.rpartition("/")[2] / "device"
        device.mkdir(parents=True)
        (tmp_path / "bus/spi/drivers" / driver).mkdir(parents=True)
        (device / "driver").symlink_to(tmp_path / "bus/spi/drivers" / driver)
        return tmp_path / "tty"

    return show


def summary(calls):
    return [(call.name, call.argument, call.result) for call in calls]


def test_the_mode_is_read_set_and_read_back(line, shim):
    watched = shim(DRIVERS["uart-pl011"], device=line.device_end, mode="TERMINATE_BUS")
    said = watched.run(KERNEL, line.device_end, "/none", {"delay_before": 0.002})
    assert said == "35 0.002 0.0\n"
    opened, *asked, closed = watched.calls("open", "close", "TIOCGRS485", "TIOCSRS485", "TIOCMBIS", "TIOCMBIC")
    assert (opened.name, opened.argument, closed.name) == ("open", line.device_end, "close")
    assert summary(asked) == [
        ("TIOCGRS485", "TERMINATE_BUS,0,0", 0),
        ("TIOCSRS485", "ENABLED|RTS_ON_SEND|TERMINATE_BUS,2,0", 0),
        ("TIOCGRS485", "ENABLED|RTS_ON_SEND|TERMINATE_BUS,2,0", 0),
    ]


def test_the_other_polarity_of_the_sc16is7xx_is_refused_and_the_mode_undone(line, shim, sysfs):
    watched = shim(DRIVERS["sc16is7xx"], device=line.device_end)
    said = watched.run(KERNEL, line.device_end, sysfs("sc16is7xx"), {})
    assert said == (
        f'ConfigurationError the driver sc16is7xx of {line.device_end} switches with direction_active="low" only: give that,'
        ' or use direction="gpio" if the transceiver wants the other\n'
    )
    assert summary(watched.calls("TIOCGRS485", "TIOCSRS485")) == [
        ("TIOCGRS485", "off,0,0", 0),
        ("TIOCSRS485", "ENABLED|RTS_ON_SEND,0,0", 0),
        ("TIOCGRS485", "ENABLED|RTS_AFTER_SEND,0,0", 0),
        ("TIOCSRS485", "off,0,0", 0),
    ]


def test_the_polarity_of_the_sc16is7xx_is_taken(line, shim, sysfs):
    watched = shim(DRIVERS["sc16is7xx"], device=line.device_end)
    assert watched.run(KERNEL, line.device_end, sysfs("sc16is7xx"), {"active": "low"}) == "5 0.0 0.0\n"


@pytest.mark.parametrize(
    ("script", "wish", "sentence"),
    [
        (DRIVERS["sc16is7xx"], {"active": "low", "delay_after": 0.001}, "takes no delay after sending and delay_after is 0.001"),
        ("TIOCSRS485=ENOTTY", {}, "has no RS-485 mode"),
        (DRIVERS["ftdi_sio"], {}, "has no RS-485 mode"),
        ("TIOCSRS485=EINVAL", {}, 'refuses direction_active="high"'),
        ("drop=ENABLED", {}, "accepts the RS-485 mode and does not enter it"),
        ("drop=RTS_ON_SEND,RTS_AFTER_SEND", {}, "accepts the RS-485 mode and does not enter it"),
        ("longest_delay=0", {"delay_before": 0.001}, "makes delay_before=0.0 of 0.001"),
    ],
)
def test_a_driver_that_does_not_do_as_asked(line, shim, sysfs, script, wish, sentence):
    said = shim(script, device=line.device_end).run(KERNEL, line.device_end, sysfs("sc16is7xx"), wish)
    assert said.startswith(f"ConfigurationError the driver sc16is7xx of {line.device_end} {sentence}")


def test_a_port_that_goes_while_the_mode_is_set(line, shim):
    watched = shim("TIOCGRS485=EIO@2", device=line.device_end)
    said = watched.run(KERNEL, line.device_end, "/none", {})
    assert said.startswith(f"LineError the serial port {line.device_end} does not answer")


@pytest.mark.parametrize(("active", "flags"), [("high", "OUTPUT"), ("low", "OUTPUT|ACTIVE_LOW")])
def test_a_gpio_line_is_ours_until_it_is_closed(shim, active, flags):
    watched = shim()
    said = watched.run(GPIO, CHIP, 17, active)
    assert said == f"LineError line 17 of {CHIP} is in use: free it (`gpioinfo` shows by whom), or choose another direction_line\n"
    assert [(call.name, call.target, call.result == "EBUSY") for call in watched.calls("GPIO_V2_GET_LINE", "close")] == [
        ("GPIO_V2_GET_LINE", "chip", False),
        ("close", "chip", False),
        ("GPIO_V2_GET_LINE", "chip", True),
        ("close", "chip", False),
        ("close", "line", False),
        ("GPIO_V2_GET_LINE", "chip", False),
        ("close", "chip", False),
        ("close", "line", False),
    ]
    assert watched.calls("GPIO_V2_GET_LINE")[0].argument == f"17,{flags},mbcore"


def test_a_chip_without_permission(shim):
    watched = shim(open_chip="EACCES")
    with pytest.raises(AssertionError, match=r"LineError: .* is not permitted to this user: run `sudo usermod -aG gpio"):
        watched.run(GPIO, CHIP, 17, "high")


# The boundary itself --------------------------------------------------------------------------------------------------------------------


def test_the_record_shows_a_reply_with_its_times(line, shim):
    watched = shim(device=line.device_end, character_time=0.002, busy=3)
    before = time.monotonic()
    watched.run(REPLY, line.device_end)
    after = time.monotonic()
    calls = [call for call in watched.calls() if call.target == "port" or call.name == "clock_nanosleep"]
    assert [call.name for call in calls[:6]] == ["open", "TIOCMBIS", "write", "clock_nanosleep", "TIOCSERGETLSR", "clock_nanosleep"]
    assert [call.name for call in calls[-3:]] == ["TIOCSERGETLSR", "TIOCMBIC", "close"]
    assert before < calls[0].begin < calls[-1].end < after
    assert all(earlier.end <= later.begin for earlier, later in pairwise(calls))
    [up], [sent], [down] = (watched.calls(name) for name in ("TIOCMBIS", "write", "TIOCMBIC"))
    assert (up.argument, sent.data, sent.result, down.argument) == ("RTS", bytes.fromhex("0103020007"), 5, "RTS")
    assert down.begin - sent.begin > 5 * 0.002
    asked = [call.argument for call in watched.calls("TIOCSERGETLSR")]
    assert len(asked) > 3
    assert set(asked[:-1]) == {"busy"}
    assert asked[-1] == "empty"


def test_a_copy_of_a_descriptor_is_watched_and_its_child_is_not(line, shim):
    watched = shim(device=line.device_end)
    watched.run(
        "import os, subprocess, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)\n"
        "copy = os.dup(fd)\n"
        "os.close(fd)\n"
        "subprocess.run(['true'], check=True)\n"
        "os.write(copy, b'x')\n",
        line.device_end,
    )
    assert [(call.name, call.argument) for call in watched.calls("open", "close", "write")] == [
        ("open", line.device_end), ("close", "-"), ("write", "78"),
    ]


def test_calls_fail_from_the_one_that_the_script_names(line, shim):
    watched = shim(device=line.device_end, write="EIO@2")
    said = watched.run(
        "import os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)\n"
        "for data in b'a', b'b', b'c':\n"
        "    try:\n"
        "        print(os.write(fd, data))\n"
        "    except OSError as error:\n"
        "        print(error.strerror)\n",
        line.device_end,
    )
    assert said == "1\nInput/output error\nInput/output error\n"
    assert [call.result for call in watched.calls("write")] == [1, "EIO", "EIO"]


@pytest.mark.parametrize("word", ["TIOCSRS485", "TIOCSRS845=EIO", "drop=RTS", "write=EXX"])
def test_a_script_with_a_slip_of_the_pen_ends_the_process(shim, word):
    with pytest.raises(AssertionError, match=r"shim: .*unknown|shim: a word without ="):
        shim(word).run("print('no')")
