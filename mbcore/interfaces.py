"""The classes that pymodbus' users derive their own contexts, framers, decoders and payload builders from."""

from typing import Any, ClassVar, Self

from mbcore.errors import NotImplementedException, ParameterException

__all__ = ["IModbusDecoder", "IModbusFramer", "IModbusSlaveContext", "IPayloadBuilder", "Singleton"]


class Singleton:
    """A class with one instance: every call gives the same, each subclass its own."""

    _instance: ClassVar[Any] = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if "_instance" not in cls.__dict__:
            cls._instance = super().__new__(cls)
        instance: Self = cls._instance
        return instance


def _missing(owner: object, signature: str) -> NotImplementedException:
    return NotImplementedException(f"{type(owner).__name__} must implement {signature}")


class IModbusDecoder:
    """From a PDU to a message."""

    def decode(self, message: bytes) -> Any:
        """Return the message that a PDU is."""
        raise _missing(self, "decode(message)")

    def lookupPduClass(self, function_code: int) -> Any:
        """Return the class for a function code."""
        raise _missing(self, "lookupPduClass(function_code)")

    def register(self, function: Any = None) -> None:
        """Make a class known."""
        raise _missing(self, "register(function)")


class IModbusFramer:
    """From bytes to frames and back."""

    def checkFrame(self) -> bool:
        """Return whether a whole valid frame is at the head of the buffer."""
        raise _missing(self, "checkFrame()")

    def advanceFrame(self) -> None:
        """Drop the frame at the head of the buffer."""
        raise _missing(self, "advanceFrame()")

    def addToFrame(self, message: bytes) -> None:
        """Append bytes to the buffer."""
        raise _missing(self, "addToFrame(message)")

    def isFrameReady(self) -> bool:
        """Return whether the buffer may hold a frame."""
        raise _missing(self, "isFrameReady()")

    def getFrame(self) -> bytes:
        """Return the PDU of the frame at the head of the buffer."""
        raise _missing(self, "getFrame()")

    def populateResult(self, result: Any) -> None:
        """Write what the frame's head says into a message."""
        raise _missing(self, "populateResult(result)")

    def processIncomingPacket(self, data: bytes, callback: Any) -> None:
        """Append bytes, and call back with each message that they complete."""
        raise _missing(self, "processIncomingPacket(data, callback)")

    def buildPacket(self, message: Any) -> bytes:
        """Return the frame of a message."""
        raise _missing(self, "buildPacket(message)")


class IModbusSlaveContext:
    """One unit's data."""

    _tables: ClassVar[dict[int, str]] = {1: "c", 2: "d", 3: "h", 4: "i", 5: "c", 6: "h", 15: "c", 16: "h", 22: "h", 23: "h"}

    def decode(self, fx: int) -> str:
        """Return the letter of the table that a function acts on: d discrete inputs, c coils, h holding and i input registers.

        :raises ParameterException: it acts on none
        """
        try:
            return self._tables[fx]
        except KeyError:
            raise ParameterException(f"function code {fx!r} acts on no table") from None

    def reset(self) -> None:
        """Set everything to its default."""
        raise _missing(self, "reset()")

    def validate(self, fx: int, address: int, count: int = 1) -> bool:
        """Return whether ``count`` values from ``address`` are there."""
        raise _missing(self, "validate(fx, address, count=1)")

    def getValues(self, fx: int, address: int, count: int = 1) -> list[Any]:
        """Return ``count`` values from ``address``."""
        raise _missing(self, "getValues(fx, address, count=1)")

    def setValues(self, fx: int, address: int, values: Any) -> None:
        """Write ``values`` from ``address`` on."""
        raise _missing(self, "setValues(fx, address, values)")


class IPayloadBuilder:
    """What makes registers out of values."""

    def build(self) -> Any:
        """Return the payload as a list of two bytes each."""
        raise _missing(self, "build()")
