"""Opens a serial port for this process alone, and says why when that fails. Knows neither Twisted nor Modbus."""

import errno
import os
from typing import Any

import serial

from mbcore.errors import ConfigurationError, LineError

try:
    import termios
except ImportError:  # pragma: no cover - not a POSIX system
    termios = None  # type: ignore[assignment]


def open_port(device: str, **settings: Any) -> Any:
    """The open ``serial.Serial`` of ``device``.

    :param settings: pyserial's own: baudrate, bytesize, parity, stopbits, and what else it takes
    :raises LineError: when the port is absent, busy, not permitted or no serial port
    :raises ConfigurationError: when it does not know the speed or the character format
    """
    try:
        return _open(device, settings)
    except ValueError as error:
        raise ConfigurationError(f"the serial line {device} cannot be set up: {error}") from error
    except OSError as error:
        refused = LineError(_refusal(device, error))
        refused.errno = error.errno
        raise refused from error


def _open(device: str, settings: dict[str, Any]) -> serial.Serial:
    if termios is None:
        return serial.Serial(device, exclusive=True, **settings)
    try:
        return serial.Serial(device, exclusive=True, **settings)
    except termios.error as error:
        if not os.path.realpath(device).startswith("/dev/pts/"):
            raise ValueError("its driver refuses {baudrate} {bytesize}{parity}{stopbits}".format_map(settings)) from error
        # A pseudo-terminal carries bytes and has no character format; Debian's libc says so when nothing else is left to be set.
        return serial.Serial(device, exclusive=True, **(settings | {"bytesize": 8, "parity": "N"}))


def _refusal(device: str, error: OSError) -> str:
    """Why a port does not open, and the way out."""
    match error.errno:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return f"there is no serial port {device}: plug the adapter in, or choose one of those in /dev/serial/by-id"
        case errno.EACCES | errno.EPERM:
            return f"the serial port {device} is not permitted to this user: run `sudo usermod -aG dialout $USER` and log in again"
        case errno.EBUSY | errno.EWOULDBLOCK:
            return f"the serial port {device} is in use by another program: stop it (`sudo fuser -v {device}` names it), or choose another"
        case _:
            return f"the serial port {device} does not open: {error}; choose a serial device"
