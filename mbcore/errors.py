"""The exceptions of mbcore.

    ModbusError
        FramingError                  bytes that are no frame or no message (client side: a server's peer never causes an exception)
        RequestError                  a request is refused; carries the exception code that the master gets
            NoSuchSlaveException      pymodbus' name for "no such unit": 0x0B
        ConfigurationError            a user's mistake; also a ValueError
        LineError                     a port or a serial line cannot be opened; also an OSError

A peer's bytes lead to an exception response, silence or a counter; a user's mistake leads to one of these, with a sentence that names the
value and the way out.
"""

from mbcore.constants import ExceptionCode


class ModbusError(Exception):
    """Base of all errors that mbcore raises."""


class FramingError(ModbusError):
    """Bytes that are not a frame, or a PDU that is not a message of its function."""


class RequestError(ModbusError):
    """A request is refused with an exception response.

    Raise it in an overridden ``validate``, ``getValues`` or ``setValues`` to choose what the master is told.

    :param exception_code: 1..255, see :class:`mbcore.constants.ExceptionCode` (Application Protocol V1.1b3, clause 7)
    :param message: a sentence for the log
    """

    def __init__(self, exception_code: int, message: str = "") -> None:
        if not 1 <= exception_code <= 255:
            raise ConfigurationError(f"exception code {exception_code!r} is not one of 1..255; see mbcore.constants.ExceptionCode")
        self.exception_code = int(exception_code)
        super().__init__(message or f"the request is refused with exception code {self.exception_code}")


class NoSuchSlaveException(RequestError):
    """There is no such unit; a master is told 0x0B, gateway target device failed to respond."""

    def __init__(self, message: str = "no such unit") -> None:
        super().__init__(ExceptionCode.GATEWAY_TARGET_DEVICE_FAILED_TO_RESPOND, message)


class ConfigurationError(ModbusError, ValueError):
    """A value that the application or the user gave cannot be used; the sentence names it and the way out."""


class ParameterException(ConfigurationError):
    """An address or a value that a data block or a context cannot take."""


class NotImplementedException(ModbusError, NotImplementedError):
    """A method that a user's own data block or context must implement."""


class LineError(ModbusError, OSError):
    """A network port or a serial line cannot be opened; the sentence names it, the reason and the way out."""
