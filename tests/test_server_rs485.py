"""Direction control: what the user may wish, what is asked of the kernel, and one sentence for every refusal."""

import errno
import fcntl
import os
import pty
import struct
import subprocess
import termios

import pytest
from live import programs

from mbcore.errors import ConfigurationError, LineError
from mbcore.server import rs485
from mbcore.server.rs485 import Direction, KernelMode, check_direction, check_rts, kernel_mode, read_mode, request_gpio

ENABLED, ON_SEND, AFTER_SEND, HEARS_ITSELF, TERMINATED = 1, 2, 4, 16, 32
PORT = "/dev/ttyX0"
CHIP = "/dev/gpiochip0"
FD = 99


@pytest.fixture
def sysfs(tmp_path, monkeypatch):
    """sysfs(port, *drivers): the devices of a port, from the hardware down, each with the "bus/name" of its driver."""
    monkeypatch.setattr("mbcore.server.devices.SYSFS", tmp_path / "class/tty")

    def add(port, *drivers):
        folder = tmp_path / "devices"
        for depth, driver in enumerate(drivers):
            folder = folder / str(depth)
            folder.mkdir(parents=True)
            bus, name = driver.split("/")
            (tmp_path / "bus" / bus / "drivers" / name).mkdir(parents=True)
            (folder / "driver").symlink_to(tmp_path / "bus" / bus / "drivers" / name)
        (tmp_path / "class/tty" / port).mkdir(parents=True)
        (tmp_path / "class/tty" / port / "device").symlink_to(folder)

    return add


class Driver:
    """A driver behind an ioctl: what it accepts, and a record of what it was asked.

    :param keeps: the flags that it knows; others it drops without a word
    :param forces: the flags that it sets on its own account when RS-485 is on
    :param most: the longest delay in milliseconds, to which it shortens others
    :param refusals: an error per name of an ioctl
    """

    def __init__(self, keeps=0xFF, forces=0, most=100, mode=(0, 0, 0), **refusals):
        self.keeps, self.forces, self.most, self.refusals = keeps, forces, most, refusals
        self.mode = mode
        self.asked = []
        self.rts = None

    def __call__(self, fd, request, argument):
        assert fd == FD
        name = {0x542E: "TIOCGRS485", 0x542F: "TIOCSRS485", 0x5416: "TIOCMBIS", 0x5417: "TIOCMBIC"}[request]
        self.asked.append(name)
        if name in self.refusals:
            raise OSError(self.refusals[name], os.strerror(self.refusals[name]))
        if name == "TIOCSRS485":
            flags, before, after = struct.unpack("=3I20x", argument)
            flags &= self.keeps
            if flags & ENABLED:
                flags |= self.forces
            self.mode = flags, min(before, self.most), min(after, self.most)
        elif name != "TIOCGRS485":
            assert struct.unpack("=i", argument) == (termios.TIOCM_RTS,)
            self.rts = name == "TIOCMBIS"
        return struct.pack("=3I20x", *self.mode)


@pytest.fixture
def driver(monkeypatch):
    """driver(...): the Driver that from now on answers."""

    def make(**keywords):
        made = Driver(**keywords)
        monkeypatch.setattr(fcntl, "ioctl", made)
        return made

    return make


# The kernel's numbers -------------------------------------------------------------------------------------------------------------------

HEADERS = """
#include <stddef.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <linux/gpio.h>
#include <linux/serial.h>
#define SHOW(name, value) printf("%s %llu\\n", name, (unsigned long long)(value))
int main(void) {
    SHOW("_TIOCGRS485", TIOCGRS485);
    SHOW("_TIOCSRS485", TIOCSRS485);
    SHOW("_ENABLED", SER_RS485_ENABLED);
    SHOW("_RTS_ON_SEND", SER_RS485_RTS_ON_SEND);
    SHOW("_RTS_AFTER_SEND", SER_RS485_RTS_AFTER_SEND);
    SHOW("_RX_DURING_TX", SER_RS485_RX_DURING_TX);
    SHOW("_TERMINATE_BUS", SER_RS485_TERMINATE_BUS);
    SHOW("_GPIO_GET_CHIPINFO", GPIO_GET_CHIPINFO_IOCTL);
    SHOW("_GPIO_V2_GET_LINE", GPIO_V2_GET_LINE_IOCTL);
    SHOW("_GPIO_ACTIVE_LOW", GPIO_V2_LINE_FLAG_ACTIVE_LOW);
    SHOW("_GPIO_OUTPUT", GPIO_V2_LINE_FLAG_OUTPUT);
    SHOW("serial_rs485", sizeof(struct serial_rs485));
    SHOW("serial_rs485.flags", offsetof(struct serial_rs485, flags));
    SHOW("serial_rs485.before", offsetof(struct serial_rs485, delay_rts_before_send));
    SHOW("serial_rs485.after", offsetof(struct serial_rs485, delay_rts_after_send));
    SHOW("chip_info", sizeof(struct gpiochip_info));
    SHOW("chip_info.lines", offsetof(struct gpiochip_info, lines));
    SHOW("line_request", sizeof(struct gpio_v2_line_request));
    SHOW("line_request.offset", offsetof(struct gpio_v2_line_request, offsets[0]));
    SHOW("line_request.consumer", offsetof(struct gpio_v2_line_request, consumer));
    SHOW("line_request.flags", offsetof(struct gpio_v2_line_request, config.flags));
    SHOW("line_request.num_lines", offsetof(struct gpio_v2_line_request, num_lines));
    SHOW("line_request.fd", offsetof(struct gpio_v2_line_request, fd));
    return 0;
}
"""


def offsets(layout, *fields):
    """Where the fields of a packed structure begin, each marked by a value of its own."""
    packed = layout.pack(*[value for _, value in fields])
    return {name: packed.index(value if isinstance(value, bytes) else value.to_bytes(4, "little")) for name, value in fields if name}


def test_constants_and_structures_are_those_of_the_kernel_headers(tmp_path):
    compiler = programs.need("cc", "build-essential")
    (tmp_path / "headers.c").write_text(HEADERS)
    subprocess.run([compiler, "-Wall", "-Werror", "-o", tmp_path / "headers", tmp_path / "headers.c"], check=True)
    said = subprocess.run([tmp_path / "headers"], capture_output=True, text=True, check=True).stdout
    kernel = {name: int(value) for name, value in map(str.split, said.splitlines())}

    ours = {name: getattr(rs485, name) for name in kernel if name.startswith("_")}
    mode, chip, line = rs485._SERIAL_RS485, rs485._GPIO_CHIP_INFO, rs485._GPIO_LINE_REQUEST
    ours |= {"serial_rs485": mode.size, "chip_info": chip.size, "line_request": line.size}
    a, b, c, d = 0x11111111, 0x22222222, 0x33333333, 0x44444444
    ours |= offsets(mode, ("serial_rs485.flags", a), ("serial_rs485.before", b), ("serial_rs485.after", c))
    ours |= offsets(chip, (None, b""), (None, b""), ("chip_info.lines", a))
    request = [("offset", a), ("consumer", b"xxxx"), ("flags", b), ("num_lines", c), ("fd", d)]
    ours |= offsets(line, *[(f"line_request.{name}", value) for name, value in request])
    assert ours == kernel


# What the user wishes -------------------------------------------------------------------------------------------------------------------


def test_nothing_wished_leaves_the_direction_to_the_adapter():
    assert check_direction() == Direction("auto", CHIP, None, "high", 0.0, 0.0) == Direction()


@pytest.mark.parametrize(
    ("keywords", "direction"),
    [
        ({"direction": "auto", "rtscts": True}, Direction("auto")),
        ({"direction": "kernel", "delay_before": 0.001, "delay_after": 0.01}, Direction("kernel", delay_before=0.001, delay_after=0.01)),
        ({"direction": "rts", "direction_active": "low", "delay_after": 0.00025}, Direction("rts", active="low", delay_after=0.00025)),
        ({"direction": "gpio", "direction_line": 0}, Direction("gpio", line=0)),
        ({"direction": "gpio", "direction_line": 4, "delay_before": 1, "rtscts": True}, Direction("gpio", line=4, delay_before=1.0)),
        ({"direction": "gpio", "direction_line": 4, "direction_chip": "/dev/gpiochip4"}, Direction("gpio", "/dev/gpiochip4", 4)),
        ({"direction": "gpio", "direction_line": 4, "direction_chip": "pinctrl-rp1"}, Direction("gpio", "pinctrl-rp1", 4)),
    ],
)
def test_a_wish_that_can_be_met(keywords, direction):
    assert check_direction(**keywords) == direction


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"direction": "RTS"}, "direction is 'RTS': give one of 'auto', 'kernel', 'rts', 'gpio'"),
        ({"direction": ["rts"]}, "direction is ['rts']: give one of 'auto', 'kernel', 'rts', 'gpio'"),
        ({"direction": "rts", "direction_active": 1}, "direction_active is 1: give one of 'high', 'low'"),
        ({"direction": "rts", "delay_before": -0.1}, "delay_before is -0.1: give seconds, 0 to 1"),
        ({"direction": "rts", "delay_after": 1.5}, "delay_after is 1.5: give seconds, 0 to 1"),
        ({"direction": "rts", "delay_after": float("nan")}, "delay_after is nan: give seconds, 0 to 1"),
        ({"direction": "rts", "delay_after": True}, "delay_after is True: give seconds, 0 to 1"),
        ({"direction": "rts", "delay_after": "1"}, "delay_after is '1': give seconds, 0 to 1"),
        (
            {"direction": "kernel", "delay_before": 0.0015},
            'delay_before is 0.0015: with direction="kernel" give whole milliseconds, such as 0.002; "rts" and "gpio" take any delay',
        ),
        ({"direction": "gpio", "direction_line": None}, "direction_line is None: give its number on /dev/gpiochip0, see `gpioinfo`"),
        ({"direction": "gpio", "direction_line": -1}, "direction_line is -1: give its number on /dev/gpiochip0, see `gpioinfo`"),
        ({"direction": "gpio", "direction_line": True}, "direction_line is True: give its number on /dev/gpiochip0, see `gpioinfo`"),
        ({"direction": "gpio", "direction_line": "4"}, "direction_line is '4': give its number on /dev/gpiochip0, see `gpioinfo`"),
        (
            {"direction": "gpio", "direction_line": 4, "direction_chip": ""},
            "direction_chip is '': give a GPIO chip, such as \"/dev/gpiochip0\" or \"pinctrl-rp1\"",
        ),
        (
            {"direction": "gpio", "direction_line": 4, "direction_chip": 0},
            'direction_chip is 0: give a GPIO chip, such as "/dev/gpiochip0" or "pinctrl-rp1"',
        ),
        (
            {"direction_line": 4},
            'direction_line is 4, which has no use with direction="auto": leave it out, or give direction="gpio"',
        ),
        (
            {"direction": "rts", "direction_chip": "/dev/gpiochip4"},
            "direction_chip is '/dev/gpiochip4', which has no use with direction=\"rts\": leave it out, or give direction=\"gpio\"",
        ),
        (
            {"direction_active": "low"},
            "direction_active is 'low', which has no use with direction=\"auto\": leave it out,"
            ' or give direction="kernel" or direction="rts" or direction="gpio"',
        ),
        (
            {"delay_after": 0.001},
            'delay_after is 0.001, which has no use with direction="auto": leave it out,'
            ' or give direction="kernel" or direction="rts" or direction="gpio"',
        ),
        (
            {"direction": "rts", "rtscts": True},
            'direction="rts" and rtscts=True both want RTS: RS-485 has no flow control, leave rtscts out',
        ),
        (
            {"direction": "kernel", "rtscts": True},
            'direction="kernel" and rtscts=True both want RTS: RS-485 has no flow control, leave rtscts out',
        ),
    ],
    ids=repr,
)
def test_a_wish_that_makes_no_sense_is_one_sentence(keywords, sentence):
    with pytest.raises(ConfigurationError) as caught:
        check_direction(**keywords)
    assert str(caught.value) == sentence


# kernel ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("active", "flag"), [("high", ON_SEND), ("low", AFTER_SEND)])
def test_the_mode_is_set_and_read_back(driver, active, flag):
    made = driver()
    mode = kernel_mode(FD, PORT, active=active, delay_before=0.001, delay_after=0.02)
    assert made.mode == (ENABLED | flag, 1, 20)
    assert mode == (ENABLED | flag, 0.001, 0.02)
    assert (mode.enabled, mode.active) == (True, active)
    assert made.asked == ["TIOCGRS485", "TIOCSRS485", "TIOCGRS485"]


def test_the_mode_leaves_the_termination_and_the_receiver_alone(driver):
    made = driver(mode=(ENABLED | AFTER_SEND | HEARS_ITSELF | TERMINATED, 7, 7))
    kernel_mode(FD, PORT)
    assert made.mode == (ENABLED | ON_SEND | HEARS_ITSELF | TERMINATED, 0, 0)


@pytest.mark.parametrize(
    ("keywords", "wish", "sentence"),
    [
        # sc16is7xx before Linux 6.13 knows RTS_AFTER_SEND alone, and forces it.
        (
            {"keeps": ENABLED | AFTER_SEND, "forces": AFTER_SEND},
            {},
            "the driver uart-pl011 of /dev/ttyX0 switches with direction_active=\"low\" only: give that,"
            " or use direction=\"gpio\" if the transceiver wants the other",
        ),
        (
            {"keeps": ENABLED | ON_SEND, "forces": ON_SEND},
            {"active": "low"},
            "the driver uart-pl011 of /dev/ttyX0 switches with direction_active=\"high\" only: give that,"
            " or use direction=\"gpio\" if the transceiver wants the other",
        ),
        (
            {"keeps": ON_SEND},
            {},
            'the driver uart-pl011 of /dev/ttyX0 accepts the RS-485 mode and does not enter it: use direction="rts" or "gpio"',
        ),
        (
            {"keeps": ENABLED},
            {},
            'the driver uart-pl011 of /dev/ttyX0 accepts the RS-485 mode and does not enter it: use direction="rts" or "gpio"',
        ),
        (
            {},
            {"delay_before": 0.5},
            'the driver uart-pl011 of /dev/ttyX0 makes delay_before=0.1 of 0.5: give delay_before=0.1, or use direction="rts" or "gpio"',
        ),
        (
            {"most": 0},
            {"delay_after": 0.002},
            'the driver uart-pl011 of /dev/ttyX0 makes delay_after=0.0 of 0.002: give delay_after=0.0, or use direction="rts" or "gpio"',
        ),
    ],
)
def test_what_a_driver_drops_without_a_word_is_refused_and_undone(driver, sysfs, keywords, wish, sentence):
    sysfs("ttyX0", "amba/uart-pl011")
    made = driver(**keywords)
    with pytest.raises(ConfigurationError) as caught:
        kernel_mode(FD, PORT, **wish)
    assert str(caught.value) == sentence
    assert made.asked == ["TIOCGRS485", "TIOCSRS485", "TIOCGRS485", "TIOCSRS485"]
    assert made.mode == (0, 0, 0)


@pytest.mark.parametrize(
    ("drivers", "beginning"),
    [
        ((), "the serial port /dev/ttyX0"),
        (("amba/uart-pl011",), "the driver uart-pl011 of /dev/ttyX0"),
        (("pnp/serial", "serial-base/ctrl", "serial-base/port"), "the driver serial of /dev/ttyX0"),  # from Linux 6.5 on
    ],
)
@pytest.mark.parametrize("refused", ["TIOCSRS485", "TIOCGRS485"])
def test_a_driver_without_the_mode(driver, sysfs, drivers, beginning, refused):
    if drivers:
        sysfs("ttyX0", *drivers)
    driver(**{refused: errno.ENOTTY})
    with pytest.raises(ConfigurationError) as caught:
        kernel_mode(FD, PORT)
    assert str(caught.value) == (
        f'{beginning} has no RS-485 mode: use direction="rts" or "gpio", or "auto" with a transceiver that switches itself'
    )


@pytest.mark.parametrize("name", ["usb-serial/ftdi_sio", "usb-serial/ch341-uart", "usb-serial/cp210x", "usb/cdc_acm"])
def test_a_usb_adapter_without_the_mode(driver, sysfs, name):
    sysfs("ttyX0", name)
    driver(TIOCSRS485=errno.ENOTTY)
    with pytest.raises(ConfigurationError) as caught:
        kernel_mode(FD, PORT)
    driver_name = name.split("/")[1]
    assert str(caught.value) == (
        f'the driver {driver_name} of /dev/ttyX0 has no RS-485 mode: a USB adapter switches by itself, use direction="auto"'
    )


def test_the_driver_is_found_behind_a_stable_name(driver, sysfs, tmp_path):
    sysfs("ttyX0", "usb-serial/ftdi_sio")
    link = tmp_path / "usb-FTDI_FT232R-if00-port0"
    link.symlink_to(PORT)
    driver(TIOCSRS485=errno.ENOTTY)
    with pytest.raises(ConfigurationError, match=f"the driver ftdi_sio of {link} has no"):
        kernel_mode(FD, str(link))


def test_a_pseudo_terminal_has_no_mode():
    ours, theirs = pty.openpty()
    name = os.ttyname(theirs)
    try:
        assert read_mode(theirs) is None
        with pytest.raises(ConfigurationError) as caught:
            kernel_mode(theirs, name)
    finally:
        os.close(ours)
        os.close(theirs)
    assert str(caught.value) == f'the serial port {name} has no RS-485 mode: a pseudo-terminal has no direction, use direction="auto"'


def test_the_sc16is7xx_takes_no_delay_after_sending(driver, sysfs):
    sysfs("ttyX0", "spi/sc16is7xx")
    driver(TIOCSRS485=errno.EINVAL)
    with pytest.raises(ConfigurationError) as caught:
        kernel_mode(FD, PORT, active="low", delay_after=0.005)
    assert str(caught.value) == (
        "the driver sc16is7xx of /dev/ttyX0 takes no delay after sending and delay_after is 0.005: leave it out, the chip is in time"
    )


@pytest.mark.parametrize(("name", "delay"), [("spi/sc16is7xx", 0.0), ("platform/other", 0.005)])
def test_another_refusal_names_what_was_wished(driver, sysfs, name, delay):
    sysfs("ttyX0", name)
    driver(TIOCSRS485=errno.EINVAL)
    with pytest.raises(ConfigurationError) as caught:
        kernel_mode(FD, PORT, delay_after=delay)
    assert str(caught.value) == (
        f'the driver {name.split("/")[1]} of /dev/ttyX0 refuses direction_active="high", delay_before=0.0, delay_after={delay}:'
        ' try without delays and with the other direction_active, or use direction="rts" or "gpio"'
    )


def test_a_port_that_has_gone_is_no_mistake_of_the_user(driver):
    driver(TIOCSRS485=errno.EIO)
    with pytest.raises(LineError, match=r"^the serial port /dev/ttyX0 does not answer: .*; is it still plugged in\?$") as caught:
        kernel_mode(FD, PORT)
    assert caught.value.errno == errno.EIO


def test_kernel_mode_takes_no_part_of_a_millisecond(driver):
    made = driver()
    with pytest.raises(ConfigurationError, match=r"^delay_after is 0\.0004: .* whole milliseconds, such as 0\.001;"):
        kernel_mode(FD, PORT, delay_after=0.0004)
    assert not made.asked


@pytest.mark.parametrize("function", [kernel_mode, check_rts, request_gpio])
def test_the_state_while_sending_is_one_of_two_words(function):
    with pytest.raises(ConfigurationError, match=r"^direction_active is 'up': give one of 'high', 'low'$"):
        function(0, 0, active="up")


def test_the_mode_is_read(driver):
    driver(mode=(ENABLED | AFTER_SEND | TERMINATED, 3, 4))
    assert read_mode(FD) == KernelMode(ENABLED | AFTER_SEND | TERMINATED, 0.003, 0.004)
    driver()
    assert read_mode(FD) == (0, 0.0, 0.0)
    assert (read_mode(FD).enabled, read_mode(FD).active) == (False, None)


def test_reading_the_mode_of_a_port_that_has_gone_raises(driver):
    driver(TIOCGRS485=errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        read_mode(FD)


# rts ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusals", [{}, {"TIOCGRS485": errno.ENOTTY}])
@pytest.mark.parametrize(("active", "set_now"), [("high", False), ("low", True)])
def test_rts_is_switched_to_reception_and_stays_so_on_closing(driver, monkeypatch, active, set_now, refusals):
    attributes = [0, 0, termios.HUPCL | termios.CREAD, 0, 0, 0, []]
    monkeypatch.setattr(termios, "tcgetattr", lambda fd: list(attributes))
    monkeypatch.setattr(termios, "tcsetattr", lambda fd, when, new: attributes.__setitem__(slice(None), new))
    made = driver(**refusals)
    check_rts(FD, PORT, active=active)
    assert made.rts is set_now
    # The kernel clears RTS on closing where HUPCL is set.
    assert attributes[2] == termios.CREAD | (0 if set_now else termios.HUPCL)


@pytest.mark.parametrize("error", [errno.ENOTTY, errno.EINVAL])
def test_a_driver_without_rts(driver, sysfs, error):
    sysfs("ttyX0", "usb-serial/odd")
    driver(TIOCMBIC=error)
    with pytest.raises(ConfigurationError) as caught:
        check_rts(FD, PORT)
    assert str(caught.value) == (
        'the driver odd of /dev/ttyX0 has no RTS: use direction="gpio", or direction="auto" with an adapter that switches itself'
    )


def test_a_driver_that_moves_rts_itself_does_not_heed_us(driver, sysfs):
    sysfs("ttyX0", "amba/uart-pl011")
    made = driver(mode=(ENABLED | ON_SEND, 0, 0))
    with pytest.raises(ConfigurationError) as caught:
        check_rts(FD, PORT)
    assert str(caught.value) == (
        "the driver uart-pl011 of /dev/ttyX0 is in RS-485 mode, set by the device tree or another program, and moves RTS itself:"
        ' use direction="kernel"'
    )
    assert made.rts is None


def test_rts_of_a_port_that_has_gone(driver):
    driver(TIOCMBIC=errno.EIO)
    with pytest.raises(LineError, match="/dev/ttyX0 does not answer") as caught:
        check_rts(FD, PORT)
    assert caught.value.errno == errno.EIO


def test_a_port_that_goes_after_rts_was_moved(driver, monkeypatch):
    def gone(_fd):
        raise termios.error(errno.EIO, "Input/output error")

    monkeypatch.setattr(termios, "tcgetattr", gone)
    driver()
    with pytest.raises(LineError, match="/dev/ttyX0 does not answer") as caught:
        check_rts(FD, PORT, active="low")
    assert caught.value.errno == errno.EIO


# gpio -----------------------------------------------------------------------------------------------------------------------------------


class Chip:
    """A GPIO chip of 28 lines behind an ioctl; `granted` is the descriptor of the line that it hands out."""

    def __init__(self, monkeypatch, refusal=None):
        self.refusal = refusal
        self.request = None
        self.granted = None
        self.chip_fd = None
        self.open = os.open
        monkeypatch.setattr(os, "open", self.opened)
        monkeypatch.setattr(fcntl, "ioctl", self.ioctl)

    def opened(self, path, flags):
        assert (path, flags) == (CHIP, os.O_RDWR | os.O_CLOEXEC)
        self.chip_fd = self.open(os.devnull, flags)
        return self.chip_fd

    def ioctl(self, fd, request, argument):
        assert fd == self.chip_fd
        if request == 0x8044B401:
            return b"gpiochip0".ljust(32, b"\0") + b"pinctrl-bcm2711".ljust(32, b"\0") + struct.pack("=I", 28)
        assert request == 0xC250B407
        self.request = argument
        if self.refusal:
            raise OSError(self.refusal, os.strerror(self.refusal))
        self.granted = self.open(os.devnull, os.O_RDWR)
        os.set_inheritable(self.granted, True)
        return argument[:-4] + struct.pack("=i", self.granted)


@pytest.mark.parametrize(("active", "flags"), [("high", 8), ("low", 8 | 2)])
def test_a_line_is_taken_as_an_output_that_begins_in_reception(monkeypatch, active, flags):
    chip = Chip(monkeypatch)
    fd = request_gpio(CHIP, 17, active=active)
    assert fd == chip.granted
    assert not os.get_inheritable(fd)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(chip.chip_fd)
    expected = bytearray(592)
    expected[0] = 17
    expected[256:262] = b"mbcore"
    expected[288] = flags
    expected[560] = 1  # one line; no attribute gives it a value, so it is inactive
    expected[588:592] = chip.request[588:592]
    assert chip.request == bytes(expected)


def test_a_long_consumer_is_cut(monkeypatch):
    chip = Chip(monkeypatch)
    os.close(request_gpio(CHIP, 17, consumer="c" * 40))
    assert chip.request[256:288] == b"c" * 31 + b"\0"


@pytest.mark.parametrize("line", [28, -1, 1 << 40])
def test_a_line_that_the_chip_lacks(monkeypatch, line):
    chip = Chip(monkeypatch)
    with pytest.raises(ConfigurationError) as caught:
        request_gpio(CHIP, line)
    assert str(caught.value) == f"/dev/gpiochip0 has no line {line}: choose one of 0..27, see `gpioinfo`, or another chip"
    assert chip.request is None


@pytest.mark.parametrize(
    ("refusal", "kind", "sentence"),
    [
        (errno.EBUSY, LineError,
         "line 17 of /dev/gpiochip0 is in use: free it (`gpioinfo` shows by whom), or choose another direction_line"),
        (errno.EINVAL, ConfigurationError,
         "/dev/gpiochip0 hands out no line 17: choose a GPIO chip (of Linux 5.10 or later) as direction_chip"),
        (errno.EPERM, LineError, "/dev/gpiochip0 is not permitted to this user: run `sudo usermod -aG gpio $USER` and log in again"),
        (errno.EIO, LineError, "line 17 of /dev/gpiochip0 cannot be had: [Errno 5] Input/output error; choose another direction_line"),
    ],
)
def test_a_line_that_is_refused(monkeypatch, refusal, kind, sentence):
    chip = Chip(monkeypatch, refusal)
    with pytest.raises(kind) as caught:
        request_gpio(CHIP, 17)
    assert str(caught.value) == sentence
    assert kind is ConfigurationError or caught.value.errno == refusal
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(chip.chip_fd)


@pytest.fixture
def devices(monkeypatch, tmp_path):
    """devices(**labels): chips in /dev; a chip without a label does not tell it. Returns the folder and which device's line was taken."""
    monkeypatch.setattr(rs485, "_DEVICES", str(tmp_path))
    taken = []

    def ioctl(fd, request, argument):
        device = os.readlink(f"/proc/self/fd/{fd}")
        label = (tmp_path / device).read_bytes()
        if not label:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        if request == 0x8044B401:
            return struct.pack("=32s32sI", b"name", label, 54)
        taken.append(device)
        return argument[:-4] + struct.pack("=i", os.open(os.devnull, os.O_RDWR))

    def make(**labels):
        monkeypatch.setattr(fcntl, "ioctl", ioctl)
        for name, label in labels.items():
            (tmp_path / name).write_text(label)
        (tmp_path / "gpiochip9").symlink_to("gpiochip10")
        (tmp_path / "gpiomem").touch()
        return tmp_path, taken

    return make


def test_a_chip_is_found_by_its_label(devices):
    folder, taken = devices(gpiochip0="gpio-brcmstb@107d508500", gpiochip1="", gpiochip10="pinctrl-rp1")
    os.close(request_gpio("pinctrl-rp1", 4))
    assert taken == [f"{folder}/gpiochip10"]


@pytest.mark.parametrize("chip", ["/dev/gpiochip-none", "pinctrl-none"])
def test_a_chip_that_is_not_there(devices, chip):
    folder, _ = devices(gpiochip0="pinctrl-bcm2711", gpiochip1="", null="")
    with pytest.raises(LineError) as caught:
        request_gpio(chip, 17)
    assert str(caught.value) == f"there is no GPIO chip {chip}: choose {folder}/gpiochip0 (pinctrl-bcm2711) or {folder}/gpiochip1"
    assert caught.value.errno == errno.ENOENT


def test_a_system_without_chips(devices):
    devices(null="")
    with pytest.raises(LineError, match=r"^there is no GPIO chip /dev/gpiochip-none: this system has none, so choose another direction$"):
        request_gpio("/dev/gpiochip-none", 17)


def test_a_device_that_is_no_chip():
    with pytest.raises(ConfigurationError, match=r"^/dev/null hands out no line 17: choose a GPIO chip"):
        request_gpio(os.devnull, 17)
