"""Opening a serial port: what a driver silently makes of the settings is found out, and what it counts is read."""

import contextlib
import errno
import fcntl
import logging
import os
import pty
import termios

import pytest
import serial

from mbcore.errors import ConfigurationError, LineError
from mbcore.server import devices
from mbcore.server import port as ports
from mbcore.server.port import dropped_settings, kernel_counts, open_port, set_low_latency

FORMAT = {"baudrate": 19200, "bytesize": 8, "parity": "N", "stopbits": 1}


@pytest.fixture
def terminal():
    """The name of a pseudo-terminal, which drops parity and data bits as some UARTs do."""
    master, slave = pty.openpty()
    name = os.ttyname(slave)
    os.close(slave)
    yield name
    os.close(master)


@pytest.fixture
def uart(terminal, monkeypatch):
    """The same, taken for a UART."""
    monkeypatch.setattr(ports, "is_pseudo_terminal", lambda device: False)
    return terminal


def set_by_driver(monkeypatch, *, cflag=0, drop=0, speed=None):
    """Let the driver add flags or drop them, or run at another speed."""
    read, write, ask = termios.tcgetattr, termios.tcsetattr, fcntl.ioctl

    def tcgetattr(descriptor):
        attributes = read(descriptor)
        attributes[2] = attributes[2] & ~drop | cflag
        return attributes

    def tcsetattr(*args):
        with contextlib.suppress(termios.error):  # of libc, which knows that this is a pseudo-terminal
            write(*args)

    def ioctl(descriptor, request, answer, *rest):
        result = ask(descriptor, request, answer, *rest)
        if speed and request == 0x802C542A:
            memoryview(answer).cast("I")[10] = speed
        return result

    monkeypatch.setattr(termios, "tcgetattr", tcgetattr)
    monkeypatch.setattr(termios, "tcsetattr", tcsetattr)
    monkeypatch.setattr(fcntl, "ioctl", ioctl)


@pytest.mark.parametrize(
    ("asked", "driver", "dropped"),
    [
        ({}, {}, ""),
        ({"parity": "E"}, {}, "parity N instead of E"),
        ({"parity": "E"}, {"cflag": termios.PARENB}, ""),
        ({"parity": "O"}, {"cflag": termios.PARENB, "drop": termios.PARODD}, "parity E instead of O"),
        ({}, {"cflag": termios.PARENB | termios.PARODD}, "parity O instead of N"),
        ({"parity": "M"}, {"cflag": termios.PARENB | termios.PARODD}, ""),
        ({"parity": "S"}, {"cflag": termios.PARENB}, ""),
        ({"bytesize": 7}, {}, "8 data bits instead of 7"),
        ({"stopbits": 2}, {}, ""),
        ({"stopbits": 1.5}, {}, ""),
        ({"stopbits": 2}, {"drop": termios.CSTOPB}, "1 stop bit instead of 2"),
        ({}, {"cflag": termios.CSTOPB}, "2 stop bits instead of 1"),
        ({"baudrate": 250_000}, {}, ""),
        ({"baudrate": 115_200}, {"speed": 116_279}, ""),
        ({"baudrate": 115_200}, {"speed": 9600}, "9600 Bd instead of 115200"),
        ({"parity": "E", "bytesize": 7}, {"speed": 9600}, "9600 Bd instead of 19200, 8 data bits instead of 7, parity N instead of E"),
    ],
)
def test_what_the_driver_drops_is_read_back(uart, monkeypatch, asked, driver, dropped):
    set_by_driver(monkeypatch, **driver)
    settings = FORMAT | asked
    if not dropped:
        with open_port(uart, **settings) as port:
            assert dropped_settings(port, **settings) == ""
        return
    with pytest.raises(ConfigurationError) as caught:
        open_port(uart, **settings)
    assert str(caught.value) == (
        f"the serial line {uart} cannot be set up: its driver has silently set {dropped};"
        " use an adapter that can do it, or set every device of the line to what this one can"
    )
    # Nothing of it stays open.
    monkeypatch.undo()
    open_port(uart, **FORMAT).close()


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("by", ["driver", "compatible"])
def test_the_mini_uart_is_named_with_its_overlay(uart, monkeypatch, tmp_path, depth, by):
    """Its driver drops parity and the second stop bit (8250_bcm2835aux); the serial core puts devices between (Linux 6.5)."""
    place = tmp_path / "devices" / "3f215040.serial"
    inner = place.joinpath(*["3f215040.serial:0", "3f215040.serial:0.0"][:depth])
    inner.mkdir(parents=True)
    if by == "driver":
        driver = tmp_path / "drivers" / "bcm2835-aux-uart"
        driver.mkdir(parents=True)
        (place / "driver").symlink_to(driver)
    else:
        (place / "of_node").mkdir()
        (place / "of_node" / "compatible").write_text("brcm,bcm2835-aux-uart\0")
    name = tmp_path / "tty" / os.path.basename(uart)
    name.mkdir(parents=True)
    (name / "device").symlink_to(inner)
    monkeypatch.setattr(devices, "SYSFS", tmp_path / "tty")
    with pytest.raises(ConfigurationError) as caught:
        open_port(uart, **FORMAT | {"parity": "E"})
    assert str(caught.value) == (
        f"the serial line {uart} cannot be set up: its driver has silently set parity N instead of E; it is the Pi's mini UART,"
        " which has no parity and one stop bit: write dtoverlay=disable-bt in /boot/firmware/config.txt, reboot and use /dev/ttyAMA0,"
        ' or set every device of the line to parity="N", stopbits=1'
    )


def test_a_pseudo_terminal_has_no_character_format_and_opens(terminal):
    with open_port(terminal, **FORMAT | {"parity": "E"}) as port:
        assert dropped_settings(port, **FORMAT | {"parity": "E"}) == "parity N instead of E"


def test_a_driver_that_refuses_aloud_is_heard(uart, monkeypatch):
    def refuse(*args):
        raise termios.error(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(termios, "tcsetattr", refuse)
    with pytest.raises(ConfigurationError, match=r"cannot be set up: its driver refuses 19200 8N1$"):
        open_port(uart, **FORMAT)


@pytest.mark.parametrize("rts", [True, False, None])
def test_rts_is_told_before_the_port_is_opened(terminal, monkeypatch, rts):
    written = []
    monkeypatch.setattr(serial.Serial, "_update_dtr_state", lambda port: None)  # a pseudo-terminal has neither
    monkeypatch.setattr(serial.Serial, "_update_rts_state", lambda port: written.append(port.rts))
    with open_port(terminal, rts, **FORMAT) as port:
        assert port.name == terminal
    assert written == [rts is not False]


def failing(monkeypatch, name, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(termios, name, fail)


@pytest.mark.parametrize("name", ["tcgetattr", "tcsetattr", "tcflush"])
def test_a_device_that_goes_while_it_is_opened_is_absent(terminal, monkeypatch, name):
    failing(monkeypatch, name, termios.error(errno.EIO, "Input/output error"))
    with pytest.raises(LineError, match=f"the serial port {terminal} has no working device behind it: plug the adapter in again") as caught:
        open_port(terminal, **FORMAT)
    assert caught.value.errno == errno.EIO


def test_what_is_no_serial_port_is_said_so():
    with pytest.raises(LineError, match="/dev/null is not a serial port: choose a serial device") as caught:
        open_port("/dev/null", **FORMAT)
    assert caught.value.errno == errno.ENOTTY


def test_a_reason_without_a_number_is_told_as_it_is(monkeypatch):
    def refuse(*args, **settings):
        raise serial.SerialException("it is Monday")

    monkeypatch.setattr(serial, "Serial", refuse)
    with pytest.raises(LineError, match="the serial port /dev/ttyX does not open: it is Monday; choose a serial device") as caught:
        open_port("/dev/ttyX", **FORMAT)
    assert caught.value.errno is None


def test_without_termios_a_port_is_left_as_pyserial_sets_it_up(terminal, monkeypatch):
    monkeypatch.setattr(ports, "termios", None)
    monkeypatch.setattr(ports, "fcntl", None)
    with open_port(terminal, **FORMAT | {"parity": "E"}) as port:
        assert dropped_settings(port, **FORMAT | {"parity": "E"}) == ""
        assert kernel_counts(port) == {}


class Adapter:
    def __init__(self, error=None):
        self.error = error
        self.asked = []

    def set_low_latency_mode(self, wanted):
        self.asked.append(wanted)
        if self.error:
            raise self.error


@pytest.mark.parametrize(("target", "asked"), [("ttyUSB0", [True]), ("ttyACM1", [True]), ("ttyAMA0", []), ("ttyS0", [])])
def test_usb_adapters_are_asked_for_low_latency_whatever_they_are_called(tmp_path, target, asked):
    (tmp_path / target).touch()
    name = tmp_path / "usb-FTDI"
    name.symlink_to(target)
    adapter = Adapter()
    set_low_latency(adapter, str(name))
    assert adapter.asked == asked


@pytest.mark.parametrize("error", [ValueError("no such flag"), OSError(errno.ENOTTY, "no such flag"), NotImplementedError("no such flag")])
def test_an_adapter_without_low_latency_does_as_well(caplog, error):
    caplog.set_level(logging.DEBUG)
    set_low_latency(Adapter(error), "/dev/ttyUSB0")
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert "no low latency mode" in caplog.text


class Uart:
    def fileno(self):
        return 99


def test_the_kernels_counters_are_read_from_their_places(monkeypatch):
    """struct serial_icounter_struct: cts, dsr, rng, dcd, rx, tx, frame, overrun, parity, brk, buf_overrun."""

    def ioctl(descriptor, request, counts):
        assert (descriptor, request, len(counts)) == (99, 0x545D, 80)
        memoryview(counts).cast("i")[:11] = memoryview(b"".join(i.to_bytes(4, "little") for i in range(100, 111))).cast("i")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert kernel_counts(Uart()) == {
        "framing_errors": 106,
        "character_overruns": 107,
        "parity_errors": 108,
        "breaks": 109,
        "buffer_overruns": 110,
    }


def test_a_driver_that_does_not_count_has_no_counters(terminal):
    with open_port(terminal, **FORMAT) as port:
        assert kernel_counts(port) == {}
    assert kernel_counts(port) == {}  # it is closed
