"""Who turns an RS-485 transceiver round: checks what the user wants, asks the kernel for it, and says why it refuses. Sends nothing itself.

A transceiver shares one pair of wires for both directions; something has to switch it to sending and back:

    auto      the adapter's own circuit; nothing is done here
    kernel    the UART's driver moves RTS (TIOCSRS485)
    rts       the serial loop moves RTS around every reply
    gpio      the serial loop moves a line of a GPIO chip around every reply

``direction_active`` is the state while sending. For a GPIO line, "high" is the pin's level. For RTS it is the signal's state as drivers
count it: set, which is RTS_ON_SEND, TIOCM_RTS, ``Serial.rts = True``. Which level a board makes of it differs: a Pi's own UART makes
"high" a high pin in "kernel" but a low one in "rts", since RTS is active low there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from typing import Any, NamedTuple

from mbcore.errors import ConfigurationError, LineError

from .devices import find_hardware

DEFAULT_CHIP = "/dev/gpiochip0"
LONGEST_DELAY = 1.0  # seconds; a master has given up long before

# Whose keywords: what has a meaning beyond its default under which direction.
_USED = {
    "auto": frozenset[str](),
    "kernel": frozenset({"direction_active", "delay_before", "delay_after"}),
    "rts": frozenset({"direction_active", "delay_before", "delay_after"}),
    "gpio": frozenset({"direction_active", "delay_before", "delay_after", "direction_chip", "direction_line"}),
}

# linux/serial.h; the numbers of the ioctls are those of ARM, x86 and RISC-V (asm-generic/ioctls.h).
_TIOCGRS485 = 0x542E
_TIOCSRS485 = 0x542F
_ENABLED = 1 << 0
_RTS_ON_SEND = 1 << 1
_RTS_AFTER_SEND = 1 << 2
_RX_DURING_TX = 1 << 4
_TERMINATE_BUS = 1 << 5
_SERIAL_RS485 = struct.Struct("=3I20x")  # flags, delay_rts_before_send, delay_rts_after_send
_RTS_FLAGS = {"high": _RTS_ON_SEND, "low": _RTS_AFTER_SEND}

# linux/gpio.h, version 2 (since Linux 5.10).
_GPIO_GET_CHIPINFO = 0x8044B401
_GPIO_V2_GET_LINE = 0xC250B407
_GPIO_ACTIVE_LOW = 1 << 1
_GPIO_OUTPUT = 1 << 3
_GPIO_CHIP_INFO = struct.Struct("=32s32sI")  # name, label, lines
_GPIO_LINE_REQUEST = struct.Struct("=I252x32sQ264xI24xi")  # offsets[0], consumer, config.flags, num_lines, fd

_DEVICES = "/dev"


class Direction(NamedTuple):
    """How a line's transceiver is switched; made by :func:`check_direction`."""

    kind: str = "auto"  # "auto", "kernel", "rts" or "gpio"
    chip: str = DEFAULT_CHIP
    line: int | None = None  # of the chip; a number for "gpio" alone
    active: str = "high"  # the state while sending, "high" or "low"
    delay_before: float = 0.0  # seconds from switching to the first byte
    delay_after: float = 0.0  # seconds from the end of the last byte to switching back

    @property
    def idle_rts(self) -> bool | None:
        """RTS while nothing is sent; None: whatever it is."""
        return self.active == "low" if self.kind == "rts" else None


class KernelMode(NamedTuple):
    """A driver's RS-485 mode."""

    flags: int  # SER_RS485_... of linux/serial.h
    delay_before: float = 0.0  # seconds
    delay_after: float = 0.0

    @property
    def enabled(self) -> bool:
        """Whether the driver moves RTS."""
        return bool(self.flags & _ENABLED)

    @property
    def active(self) -> str | None:
        """RTS while sending, "high" or "low"; None where it never changes."""
        return {_RTS_ON_SEND: "high", _RTS_AFTER_SEND: "low"}.get(self.flags & (_RTS_ON_SEND | _RTS_AFTER_SEND))


def check_direction(
    *,
    direction: str = "auto",
    direction_chip: str = DEFAULT_CHIP,
    direction_line: int | None = None,
    direction_active: str = "high",
    delay_before: float = 0.0,
    delay_after: float = 0.0,
    rtscts: bool = False,
) -> Direction:
    """The direction that a user's keywords mean.

    :param direction: "auto", "kernel", "rts" or "gpio"
    :param direction_chip: the GPIO chip's device or its label, such as "pinctrl-rp1", for "gpio"
    :param direction_line: the number of its line, 0 or more, for "gpio"
    :param direction_active: the state while sending, "high" or "low"
    :param delay_before: seconds from switching to the first byte, 0..1; whole milliseconds for "kernel"
    :param delay_after: seconds from the end of the last byte to switching back, likewise
    :param rtscts: whether RTS is taken by flow control
    :raises ConfigurationError: for a value outside of that, for one that the direction has no use for, and for RTS wanted twice
    """
    _check_word("direction", direction, tuple(_USED))
    _check_word("direction_active", direction_active, tuple(_RTS_FLAGS))
    for name, seconds in (("delay_before", delay_before), ("delay_after", delay_after)):
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST_DELAY:
            raise ConfigurationError(f"{name} is {seconds!r}: give seconds, 0 to {LONGEST_DELAY:g}")
        if direction == "kernel":
            _milliseconds(name, seconds)
    if not isinstance(direction_chip, str) or not direction_chip:
        raise ConfigurationError(f'direction_chip is {direction_chip!r}: give a GPIO chip, such as "{DEFAULT_CHIP}" or "pinctrl-rp1"')
    wanted = {
        "direction_chip": direction_chip,
        "direction_line": direction_line,
        "direction_active": direction_active,
        "delay_before": delay_before,
        "delay_after": delay_after,
    }
    defaults = dict(zip(wanted, Direction()[1:], strict=True))
    for name, value in wanted.items():
        if value != defaults[name] and name not in _USED[direction]:
            users = " or ".join(f'direction="{kind}"' for kind, used in _USED.items() if name in used)
            raise ConfigurationError(f'{name} is {value!r}, which has no use with direction="{direction}": leave it out, or give {users}')
    if direction == "gpio" and (isinstance(direction_line, bool) or not isinstance(direction_line, int) or direction_line < 0):
        raise ConfigurationError(f"direction_line is {direction_line!r}: give its number on {direction_chip}, see `gpioinfo`")
    if rtscts and direction in ("kernel", "rts"):
        raise ConfigurationError(f'direction="{direction}" and rtscts=True both want RTS: RS-485 has no flow control, leave rtscts out')
    return Direction(direction, direction_chip, direction_line, direction_active, float(delay_before), float(delay_after))


def read_mode(fd: int) -> KernelMode | None:
    """The RS-485 mode of the open serial port ``fd`` (TIOCGRS485), or None where its driver knows of none.

    A driver of the kernel's serial core without RS-485 says "not enabled" instead.

    :raises OSError: when the port has gone
    """
    try:
        return _unpack(_read(fd))
    except OSError as error:
        if error.errno == errno.ENOTTY:
            return None
        raise


def kernel_mode(fd: int, device: str, *, active: str = "high", delay_before: float = 0.0, delay_after: float = 0.0) -> KernelMode:
    """Let the driver of the open serial port ``fd`` switch the transceiver, and see that it does as asked.

    Whether the receiver hears what is sent, and the bus termination, stay as they are. The mode is not undone when the server stops:
    with it the kernel holds the transceiver in reception after the port is closed; without it RTS goes off, which is "send" on a board
    that sends by a high pin. An adapter that was unplugged has forgotten it, so this is called after every opening.

    :param device: the port's name, for the sentences
    :param active: RTS while sending, "high" or "low"
    :param delay_before: seconds, whole milliseconds, from RTS to the first byte
    :param delay_after: seconds, whole milliseconds, from the last byte to RTS
    :returns: the mode as read back
    :raises ConfigurationError: when the driver has no RS-485, refuses this or does something else; its mode is then as before
    :raises LineError: when the port has gone
    """
    from fcntl import ioctl

    _check_word("direction_active", active, tuple(_RTS_FLAGS))
    delays = _milliseconds("delay_before", delay_before), _milliseconds("delay_after", delay_after)
    try:
        before = _read(fd)
        kept = _unpack(before).flags & (_RX_DURING_TX | _TERMINATE_BUS)
        ioctl(fd, _TIOCSRS485, _SERIAL_RS485.pack(_ENABLED | _RTS_FLAGS[active] | kept, *delays))
        mode = _unpack(_read(fd))
        # Some drivers drop what they can't do without a word.
        difference = _difference(mode, active, delays)
        if difference:
            ioctl(fd, _TIOCSRS485, before)
    except OSError as error:
        raise _mode_refused(error, device, active, delays) from error
    if difference:
        raise ConfigurationError(f"{_driver_of(device)} {difference}")
    return mode


def check_rts(fd: int, device: str, *, active: str = "high") -> None:
    """Switch the transceiver of the open serial port ``fd`` to reception by RTS, and see that this works.

    Where RTS is clear while sending, it stays set when the port is closed, so that the transceiver does not hold the bus then (HUPCL).
    On opening, the kernel sets RTS: where that means to send, the bus is held until this is called.

    :param device: the port's name, for the sentences
    :param active: RTS while sending, "high" or "low"
    :raises ConfigurationError: when the driver has no RTS, or moves it itself
    :raises LineError: when the port has gone
    """
    import termios
    from fcntl import ioctl

    _check_word("direction_active", active, tuple(_RTS_FLAGS))
    try:
        mode = read_mode(fd)
        if mode is None or not mode.enabled:
            ioctl(fd, termios.TIOCMBIC if active == "high" else termios.TIOCMBIS, struct.pack("=i", termios.TIOCM_RTS))
            if active == "low":
                attributes = termios.tcgetattr(fd)
                attributes[2] &= ~termios.HUPCL
                termios.tcsetattr(fd, termios.TCSANOW, attributes)
            return
    except (OSError, termios.error) as error:
        if error.args[0] in (errno.ENOTTY, errno.EINVAL):
            raise ConfigurationError(
                f'{_driver_of(device)} has no RTS: use direction="gpio", or direction="auto" with an adapter that switches itself'
            ) from error
        raise _gone(OSError(*error.args), device) from error
    raise ConfigurationError(
        f"{_driver_of(device)} is in RS-485 mode, set by the device tree or another program, and moves RTS itself:"
        ' use direction="kernel"'
    )


def request_gpio(chip: str, line: int, *, active: str = "high", consumer: str = "mbcore") -> int:
    """Take a line of a GPIO chip as an output in the state of reception.

    :param chip: the chip's device, such as "/dev/gpiochip0", or its label, such as "pinctrl-rp1", which kernels don't change
    :param line: the number of its line
    :param active: the pin's level while sending, "high" or "low"
    :param consumer: the name that `gpioinfo` shows for the line, at most 31 bytes
    :returns: the line's own file descriptor, not inherited by other programs, for GPIO_V2_LINE_SET_VALUES_IOCTL, where 1 means to send;
        closing it gives the line back
    :raises ConfigurationError: when the chip has no such line, or is no chip
    :raises LineError: when there is no such chip, or it or the line is busy or not permitted
    """
    from fcntl import ioctl

    _check_word("direction_active", active, tuple(_RTS_FLAGS))
    # A line that is not told a value starts as inactive.
    flags = _GPIO_OUTPUT | (_GPIO_ACTIVE_LOW if active == "low" else 0)
    try:
        chip_fd = os.open(chip if chip.startswith("/") else _find_chip(chip), os.O_RDWR | os.O_CLOEXEC)
        try:
            _, lines = _about_chip(chip_fd)
            if not 0 <= line < lines:
                raise ConfigurationError(f"{chip} has no line {line}: choose one of 0..{lines - 1}, see `gpioinfo`, or another chip")
            answer = ioctl(chip_fd, _GPIO_V2_GET_LINE, _GPIO_LINE_REQUEST.pack(line, consumer.encode()[:31], flags, 1, 0))
        finally:
            os.close(chip_fd)
    except OSError as error:
        raise _gpio_refused(error, chip, line) from error
    fd: int = _GPIO_LINE_REQUEST.unpack(answer)[-1]
    os.set_inheritable(fd, False)
    return fd


def _check_word(name: str, value: Any, words: tuple[str, ...]) -> None:
    if value not in words:
        raise ConfigurationError(f"{name} is {value!r}: give one of {', '.join(map(repr, words))}")


def _milliseconds(name: str, seconds: float) -> int:
    """What the kernel counts delays in."""
    milliseconds = round(seconds * 1000)
    if abs(seconds * 1000 - milliseconds) > 1e-6:
        raise ConfigurationError(
            f'{name} is {seconds!r}: with direction="kernel" give whole milliseconds, such as {max(milliseconds, 1) / 1000};'
            ' "rts" and "gpio" take any delay'
        )
    return milliseconds


def _read(fd: int) -> bytes:
    from fcntl import ioctl

    return ioctl(fd, _TIOCGRS485, bytes(_SERIAL_RS485.size))


def _unpack(answer: bytes) -> KernelMode:
    flags, before, after = _SERIAL_RS485.unpack(answer)
    return KernelMode(flags, before / 1000, after / 1000)


def _difference(mode: KernelMode, active: str, delays: tuple[int, int]) -> str:
    """What a driver does other than asked, or nothing."""
    if not mode.enabled or mode.active is None:
        return 'accepts the RS-485 mode and does not enter it: use direction="rts" or "gpio"'
    if mode.active != active:
        return f'switches with direction_active="{mode.active}" only: give that, or use direction="gpio" if the transceiver wants the other'
    for name, is_, asked in (("delay_before", mode.delay_before, delays[0]), ("delay_after", mode.delay_after, delays[1])):
        if is_ != asked / 1000:
            return f'makes {name}={is_} of {asked / 1000}: give {name}={is_}, or use direction="rts" or "gpio"'
    return ""


def _mode_refused(error: OSError, device: str, active: str, delays: tuple[int, int]) -> Exception:
    """Why a driver does not enter the RS-485 mode, and the way out."""
    hardware = find_hardware(device)
    if error.errno == errno.ENOTTY:
        if hardware.bus.startswith("usb"):
            way = 'a USB adapter switches by itself, use direction="auto"'
        elif os.path.realpath(device).startswith("/dev/pts/"):
            way = 'a pseudo-terminal has no direction, use direction="auto"'
        else:
            way = 'use direction="rts" or "gpio", or "auto" with a transceiver that switches itself'
        return ConfigurationError(f"{_driver_of(device)} has no RS-485 mode: {way}")
    if error.errno != errno.EINVAL:
        return _gone(error, device)
    if hardware.driver == "sc16is7xx" and delays[1]:
        return ConfigurationError(
            f"{_driver_of(device)} takes no delay after sending and delay_after is {delays[1] / 1000}: leave it out, the chip is in time"
        )
    return ConfigurationError(
        f'{_driver_of(device)} refuses direction_active="{active}", delay_before={delays[0] / 1000}, delay_after={delays[1] / 1000}:'
        ' try without delays and with the other direction_active, or use direction="rts" or "gpio"'
    )


def _gpio_refused(error: OSError, chip: str, line: int) -> Exception:
    """Why a line of a GPIO chip is not ours, and the way out."""
    match error.errno:
        case errno.ENOTTY | errno.EINVAL:
            return ConfigurationError(f"{chip} hands out no line {line}: choose a GPIO chip (of Linux 5.10 or later) as direction_chip")
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            found = [f"{device} ({label})" if label else device for device, label in _chips().items()]
            way = f"choose {' or '.join(found)}" if found else "this system has none, so choose another direction"
            sentence = f"there is no GPIO chip {chip}: {way}"
        case errno.EBUSY:
            sentence = f"line {line} of {chip} is in use: free it (`gpioinfo` shows by whom), or choose another direction_line"
        case errno.EACCES | errno.EPERM:
            sentence = f"{chip} is not permitted to this user: run `sudo usermod -aG gpio $USER` and log in again"
        case _:
            sentence = f"line {line} of {chip} cannot be had: {error}; choose another direction_line"
    return LineError.numbered(sentence, error.errno)


def _about_chip(fd: int) -> tuple[str, int]:
    """A GPIO chip's label and how many lines it has."""
    from fcntl import ioctl

    _, label, lines = _GPIO_CHIP_INFO.unpack(ioctl(fd, _GPIO_GET_CHIPINFO, bytes(_GPIO_CHIP_INFO.size)))
    return label.rstrip(b"\0").decode(errors="replace"), lines


def _chips() -> dict[str, str]:
    """The devices of all GPIO chips, and their labels where they tell us."""
    found = {}
    for name in sorted(os.listdir(_DEVICES)):
        device = os.path.join(_DEVICES, name)
        if name.startswith("gpiochip") and not os.path.islink(device):
            found[device] = ""
            with contextlib.suppress(OSError), open(device, "rb", buffering=0) as chip:
                found[device] = _about_chip(chip.fileno())[0]
    return found


def _find_chip(label: str) -> str:
    """The device of a GPIO chip; the kernel has renumbered them more than once."""
    for device, its_label in _chips().items():
        if its_label == label:
            return device
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), label)


def _gone(error: OSError, device: str) -> Exception:
    return LineError.numbered(f"the serial port {device} does not answer: {error}; is it still plugged in?", error.errno)


def _driver_of(device: str) -> str:
    """The beginning of a sentence on what a driver does."""
    name = find_hardware(device).driver
    return f"the driver {name} of {device}" if name else f"the serial port {device}"
