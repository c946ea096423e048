"""The exceptions of mbcore.

    ModbusException                       pymodbus' base class: who catches it catches everything that mbcore raises
        ModbusError                       the base of mbcore's own
            FramingError                  bytes that are no frame or no message (client side: a server's peer never causes an exception)
                InvalidMessageReceivedException
            RequestError                  a request is refused; carries the exception code that the master gets
                NoSuchSlaveException      "no such unit": 0x0B
            ConfigurationError            a user's mistake; also a ValueError
                ParameterException        an address or a value that a block or a context cannot take
                MessageRegisterException  a class that cannot become a message of its own
            LineError                     a port or a serial line cannot be opened; also an OSError
            NotImplementedException       a method that the user's own class must have; also a NotImplementedError
            ModbusIOException, ConnectionException, TimeOutException    what pymodbus' clients raise and its users catch

A peer's bytes lead to an exception response, silence or a counter; a user's mistake leads to one of these, with a sentence that names the
value and the way out. Those with a name of pymodbus say "Modbus Error: " and their kind before the sentence, as they do there.
"""


class ModbusException(Exception):
    """pymodbus' base class.

    :param string: a sentence
    """

    _prefix = "Modbus Error: "

    def __init__(self, string: object = "") -> None:
        super().__init__(string)

    def __str__(self) -> str:
        return self._prefix + super().__str__()

    @property
    def string(self) -> str:
        """What is said without "Modbus Error: "."""
        return str(self).removeprefix("Modbus Error: ")

    def isError(self) -> bool:
        """Return True: this stands where a response might."""
        return True


class ModbusError(ModbusException):
    """Base of all errors that mbcore raises."""

    _prefix = ""


class FramingError(ModbusError):
    """Bytes that are not a frame, or a PDU that is not a message of its function."""


class InvalidMessageReceivedException(FramingError):
    """A message that cannot be decoded."""

    _prefix = "Modbus Error: [Invalid Message] "


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

    _prefix = "Modbus Error: [No Such Slave] "

    def __init__(self, message: str = "no such unit") -> None:
        from mbcore.constants import ExceptionCode  # a server's start would wait for it

        super().__init__(ExceptionCode.GATEWAY_TARGET_DEVICE_FAILED_TO_RESPOND, message)


class ConfigurationError(ModbusError, ValueError):
    """A value that the application or the user gave cannot be used; the sentence names it and the way out."""


class ParameterException(ConfigurationError):
    """An address or a value that a data block or a context cannot take."""

    _prefix = "Modbus Error: [Invalid Parameter] "


class MessageRegisterException(ConfigurationError):
    """A class that cannot become a request or a response of its own."""

    _prefix = "Modbus Error: [Error registering message] "


class NotImplementedException(ModbusError, NotImplementedError):
    """A method that a user's own data block or context must implement."""

    _prefix = "Modbus Error: [Not Implemented] "


class LineError(ModbusError, OSError):
    """A network port or a serial line cannot be opened; the sentence names it, the reason and the way out."""

    @classmethod
    def numbered(cls, string: str, number: int | None) -> "LineError":
        """Return one that has the system's number for the reason as its ``errno``; None: there is none."""
        error = cls(string)
        error.errno = number
        return error


class ModbusIOException(ModbusError):
    """A response did not come, or not whole.

    :param function_code: of the request that it was to answer, kept as ``fcode``
    """

    _prefix = "Modbus Error: [Input/Output] "

    def __init__(self, string: object = "", function_code: int | None = None) -> None:
        self.fcode = function_code
        super().__init__(string)

    @property
    def message(self) -> str:
        """The sentence and its kind."""
        return self.string


class ConnectionException(ModbusError):
    """A connection cannot be made, or is lost."""

    _prefix = "Modbus Error: [Connection] "


class TimeOutException(ModbusError):
    """A response did not come in time."""

    _prefix = "Modbus Error: [Timeout] "
