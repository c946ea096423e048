"""What all requests and responses have in common; a user's own messages derive from ModbusRequest and ModbusResponse."""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, ClassVar

from mbcore.codec import encode_response
from mbcore.control import ModbusControlBlock
from mbcore.errors import FramingError, NotImplementedException

__all__ = [
    "ExceptionResponse", "IllegalFunctionRequest", "ModbusExceptions", "ModbusPDU", "ModbusRequest", "ModbusResponse", "RefusedRequest",
]

# An RTU frame around a PDU: the unit identifier before it, the CRC behind it.
RTU_OVERHEAD = 3


class ModbusPDU:
    """A message: ``encode`` and ``decode`` speak of its bytes after the function code.

    :param kwargs: ``unit``, ``transaction``, ``protocol`` (numbers, 0 unless given), ``skip_encode`` (the values are encoded already);
        others are left to subclasses
    """

    function_code: int
    _rtu_frame_size: ClassVar[int]
    _rtu_byte_count_pos: ClassVar[int]

    def __init__(self, **kwargs: Any) -> None:
        self.transaction_id: int = kwargs.get("transaction", 0)
        self.protocol_id: int = kwargs.get("protocol", 0)
        self.unit_id: int = kwargs.get("unit", 0)
        self.skip_encode: bool = kwargs.get("skip_encode", False)
        self.check = 0

    def encode(self) -> bytes:
        """Return the message's bytes after the function code."""
        raise NotImplementedException(f"{type(self).__name__} has no encode()")

    def decode(self, data: bytes) -> None:
        """Take the fields from the bytes after the function code."""
        raise NotImplementedException(f"{type(self).__name__} has no decode()")

    @classmethod
    def calculateRtuFrameSize(cls, buffer: bytes) -> int:
        """Return how many bytes the RTU frame at the head of ``buffer`` has, unit identifier and CRC included.

        :raises IndexError: the buffer ends before the byte that says it
        :raises NotImplementedException: the class has neither ``_rtu_frame_size`` nor ``_rtu_byte_count_pos``
        """
        size: int | None = getattr(cls, "_rtu_frame_size", None)
        if size is not None:
            return size
        position: int | None = getattr(cls, "_rtu_byte_count_pos", None)
        if position is not None:
            return position + buffer[position] + RTU_OVERHEAD
        raise NotImplementedException(
            f"the RTU frame size of {cls.__name__} is not known; give it _rtu_frame_size, _rtu_byte_count_pos or calculateRtuFrameSize()"
        )

    def _heading(self) -> dict[str, int]:
        return {"unit": self.unit_id, "transaction": self.transaction_id, "protocol": self.protocol_id}


class ModbusRequest(ModbusPDU):
    """Base of all requests.

    ``control`` is the control block that diagnostics and identification speak of, ``report`` hears of exceptions that a data block
    raised, as ``report(sentence, exception)``. A server sets them on the requests that it executes; a request without a control block
    speaks of the process-wide one, :func:`mbcore.device.process_control`.
    """

    control: ModbusControlBlock | None = None
    report: Callable[[str, BaseException], object] | None = None

    def execute(self, context: Any) -> "ModbusResponse":
        """Act on ``context`` (a slave context) and return the response."""
        raise NotImplementedException(f"{type(self).__name__} has no execute()")

    def doException(self, exception: int) -> "ExceptionResponse":
        """Return the exception response of this request with the code ``exception``, 1..255."""
        return ExceptionResponse(self.function_code, exception, **self._heading())


class ModbusResponse(ModbusPDU):
    """Base of all responses; one whose ``should_respond`` is False is not sent."""

    should_respond = True

    def isError(self) -> bool:
        """Return whether this is an exception response."""
        return self.function_code > 0x80


class ModbusExceptions(IntEnum):
    """The exception codes under pymodbus' names (AP 7)."""

    IllegalFunction = 0x01
    IllegalAddress = 0x02
    IllegalValue = 0x03
    SlaveFailure = 0x04
    Acknowledge = 0x05
    SlaveBusy = 0x06
    MemoryParityError = 0x08
    GatewayPathUnavailable = 0x0A
    GatewayNoResponse = 0x0B

    @classmethod
    def decode(cls, code: int | None) -> str | None:
        """Return the name of an exception code, None where it has none."""
        return next((member.name for member in cls if member == code), None)


class ExceptionResponse(ModbusResponse):
    """A request's refusal: its function code with 0x80 set, and the reason.

    :param function_code: the request's
    :param exception_code: 1..255, see :class:`ModbusExceptions`
    """

    ExceptionOffset = 0x80
    _rtu_frame_size = 5

    def __init__(self, function_code: int, exception_code: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.original_code = function_code
        self.function_code = function_code | self.ExceptionOffset
        self.exception_code = exception_code

    def encode(self) -> bytes:
        """Return the exception code as a byte."""
        return encode_response(self.function_code & 0x7F, exception_code=self.exception_code)[1:]

    def decode(self, data: bytes) -> None:
        """Take the exception code."""
        if not data:
            raise FramingError("an exception response without an exception code")
        self.exception_code = data[0]

    def __str__(self) -> str:
        return f"Exception Response({self.function_code}, {self.original_code}, {ModbusExceptions.decode(self.exception_code)})"


class IllegalFunctionRequest(ModbusRequest):
    """A request of a function that the server does not have; its response is exception 01."""

    ErrorCode = int(ModbusExceptions.IllegalFunction)

    def __init__(self, function_code: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.function_code = function_code

    def decode(self, data: bytes) -> None:
        """Pass over the data: what it means is not known."""

    def execute(self, context: Any = None) -> ModbusResponse:
        """Return the exception response."""
        return self.doException(self.ErrorCode)


class RefusedRequest(IllegalFunctionRequest):
    """A request whose class could not decode its bytes; its response is exception 03 unless the class named another code."""

    def __init__(self, function_code: int, exception_code: int = ModbusExceptions.IllegalValue, **kwargs: Any) -> None:
        super().__init__(function_code, **kwargs)
        self.ErrorCode = int(exception_code)
