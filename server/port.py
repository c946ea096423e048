"""Opens a serial port for this process alone, checks what its driver made of the settings, and says why when that fails.

Knows neither Twisted nor Modbus.
"""

import errno
import logging
import os
from typing import Any

import serial

from mbcore.errors import ConfigurationError, LineError

from .devices import find_hardware

try:
    import fcntl
    import termios
except ImportError:  # pragma: no cover - not a POSIX system
    fcntl = termios = None  # type: ignore[assignment]

# What a driver that refuses settings makes termios raise.
SettingError: type[Exception] = OSError if termios is None else termios.error

_log = logging.getLogger(__name__)

#: Errors that say that a device is not there, or has just gone: waiting may cure them.
ABSENT = frozenset({errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EIO})

#: The keywords of pyserial that say how a character looks on the wire.
FORMAT = ("baudrate", "bytesize", "parity", "stopbits")

# struct termios2, which has the speed as the driver set it: four flags, c_line and c_cc, then the speeds in and out.
_TCGETS2, _TERMIOS2_SIZE, _TERMIOS2_OSPEED = 0x802C542A, 44, 10
# A divider need not hit a speed exactly; what is further off is another speed. Characters are misread from about 4 % on.
_SPEED_TOLERANCE = 0.03
# struct serial_icounter_struct: 20 ints, counted since the driver was loaded.
_TIOCGICOUNT, _ICOUNTER_SIZE = 0x545D, 80
_ICOUNTER = {"framing_errors": 6, "character_overruns": 7, "parity_errors": 8, "breaks": 9, "buffer_overruns": 10}
#: Those of :func:`kernel_counts` that tell of characters lost for want of time.
OVERRUNS = ("character_overruns", "buffer_overruns")


def open_port(device: str, rts: bool | None = None, **settings: Any) -> Any:
    """The open ``serial.Serial`` of ``device``.

    :param rts: how the signal is left after opening, True set; None: as pyserial leaves it, set
    :param settings: pyserial's own: baudrate, bytesize, parity, stopbits, and what else it takes
    :raises LineError: when the port is absent, busy, not permitted or no serial port; its ``errno`` says which
    :raises ConfigurationError: when it does not know the speed or the character format, or its driver drops a part of them
    """
    try:
        return _open(device, rts, settings)
    except ValueError as error:
        raise ConfigurationError(f"the serial line {device} cannot be set up: {error}") from error
    except (OSError, SettingError) as error:
        number = _number(error)
        raise LineError.numbered(_refusal(device, error, number), number) from error


def dropped_settings(port: Any, *, baudrate: int, bytesize: int, parity: str, stopbits: float) -> str:
    """What an open port's driver has silently made of its settings, where that is not what was asked for; else an empty string."""
    if termios is None:
        return ""
    cflag = termios.tcgetattr(port.fileno())[2]
    dropped = []
    speed = _speed(port.fileno())
    if abs(speed - baudrate) > _SPEED_TOLERANCE * baudrate:
        dropped.append(f"{speed} Bd instead of {baudrate}")
    bits = next(bits for bits in (5, 6, 7, 8) if cflag & termios.CSIZE == getattr(termios, f"CS{bits}"))
    if bits != bytesize:
        dropped.append(f"{bits} data bits instead of {bytesize}")
    got = ("O" if cflag & termios.PARODD else "E") if cflag & termios.PARENB else "N"
    # Mark and space are odd and even parity that stick.
    if got != {"M": "O", "S": "E"}.get(parity, parity):
        dropped.append(f"parity {got} instead of {parity}")
    stops = 2 if cflag & termios.CSTOPB else 1
    if stops != (1 if stopbits == 1 else 2):
        dropped.append(f"{stops} stop bit{'s'[: stops - 1]} instead of {stopbits}")
    return ", ".join(dropped)


def set_low_latency(port: Any, device: str) -> None:
    """Have a USB adapter hand on bytes at once rather than every 16 ms, where its driver knows how; no right is needed for it."""
    if os.path.basename(os.path.realpath(device)).startswith(("ttyUSB", "ttyACM")):
        try:
            port.set_low_latency_mode(True)
        except (ValueError, OSError, NotImplementedError) as error:
            _log.debug("serial line %s: no low latency mode: %s", device, error)


def kernel_counts(port: Any) -> dict[str, int]:
    """What the port's driver has counted: framing and parity errors, breaks, overruns of the chip and of the kernel's buffer.

    Empty where the driver does not count, or is gone.
    """
    if fcntl is None:
        return {}
    counts = bytearray(_ICOUNTER_SIZE)
    try:
        fcntl.ioctl(port.fileno(), _TIOCGICOUNT, counts)
    except OSError:
        return {}
    numbers = memoryview(counts).cast("i")
    return {name: numbers[index] for name, index in _ICOUNTER.items()}


def is_pseudo_terminal(device: str) -> bool:
    """Whether it carries bytes without a speed and a character format."""
    return os.path.realpath(device).startswith("/dev/pts/")


def _open(device: str, rts: bool | None, settings: dict[str, Any]) -> Any:
    try:
        port = _new_port(device, rts, settings)
    except SettingError as error:
        if error.args[0] != errno.EINVAL:
            raise
        if not is_pseudo_terminal(device):
            raise ValueError("its driver refuses {baudrate} {bytesize}{parity}{stopbits}".format_map(settings)) from error
        # Debian's libc says so when nothing else is left to be set.
        port = _new_port(device, rts, settings | {"bytesize": 8, "parity": "N"})
    try:
        _check(port, device, settings)
    except BaseException:
        port.close()
        raise
    return port


def _new_port(device: str, rts: bool | None, settings: dict[str, Any]) -> Any:
    if rts is None:
        return serial.Serial(device, exclusive=True, **settings)
    # pyserial sets it while it opens the port unless it was told before.
    port = serial.Serial(exclusive=True, **settings)
    port.rts = rts
    port.port = device
    port.open()
    return port


def _check(port: Any, device: str, settings: dict[str, Any]) -> None:
    if termios is None:
        return
    # A break, which an RS-485 pair without bias makes, must not flush the input.
    attributes = termios.tcgetattr(port.fileno())
    attributes[0] &= ~termios.BRKINT
    termios.tcsetattr(port.fileno(), termios.TCSANOW, attributes)
    dropped = dropped_settings(port, **{name: settings[name] for name in FORMAT})
    if dropped and not is_pseudo_terminal(device):
        raise ValueError(f"its driver has silently set {dropped}; {_way_out(device)}")


def _way_out(device: str) -> str:
    """What to do where a driver drops settings."""
    if find_hardware(device).mini_uart:
        return (
            "it is the Pi's mini UART, which has no parity and one stop bit: write dtoverlay=disable-bt in /boot/firmware/config.txt,"
            ' reboot and use /dev/ttyAMA0, or set every device of the line to parity="N", stopbits=1'
        )
    return "use an adapter that can do it, or set every device of the line to what this one can"


def _speed(descriptor: int) -> int:
    settings = bytearray(_TERMIOS2_SIZE)
    fcntl.ioctl(descriptor, _TCGETS2, settings)
    return memoryview(settings).cast("I")[_TERMIOS2_OSPEED]


def _number(error: Exception) -> int | None:
    """The errno of what a port did not open for; pyserial hides some behind a text."""
    cause = error.__context__ if isinstance(error.__context__, SettingError) and not getattr(error, "errno", None) else error
    number = cause.args[0] if isinstance(cause, SettingError) else getattr(cause, "errno", None)
    return number if isinstance(number, int) else None


def _refusal(device: str, error: Exception, number: int | None) -> str:
    """Why a port does not open, and the way out."""
    match number:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return f"there is no serial port {device}: plug the adapter in, or choose one of those in /dev/serial/by-id"
        case errno.EIO:
            return f"the serial port {device} has no working device behind it: plug the adapter in again, or choose another port"
        case errno.EACCES:
            return f"the serial port {device} is not permitted to this user: run `sudo usermod -aG dialout $USER` and log in again"
        case errno.EPERM:  # the device controller of a service or a container; the mode of the file makes it EACCES
            return (
                f"the serial port {device} is not on the list of devices of the service or container that this runs in: restart that,"
                " or put the port on its list (DeviceAllow= of systemd, --device of docker)"
            )
        case errno.EBUSY | errno.EWOULDBLOCK:
            return f"the serial port {device} is in use by another program: stop it (`sudo fuser -v {device}` names it), or choose another"
        case errno.ENOTTY:
            return f"{device} is not a serial port: choose a serial device, e.g. one of those in /dev/serial/by-id"
        case _:
            return f"the serial port {device} does not open: {error}; choose a serial device"
