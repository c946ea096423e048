"""The bytes of the communication event log (12 Get Comm Event Log, AP 6.10) as objects."""

from mbcore.bits import pack_bitstring, unpack_bitstring
from mbcore.errors import NotImplementedException, ParameterException

__all__ = ["CommunicationRestartEvent", "EnteredListenModeEvent", "ModbusEvent", "RemoteReceiveEvent", "RemoteSendEvent", "decode_event"]


class ModbusEvent:
    """One entry of the log. Two are equal that are the same byte."""

    def encode(self) -> bytes:
        """Return the byte that stands in the log."""
        raise NotImplementedException(f"{type(self).__name__} must implement encode()")

    def decode(self, event: bytes) -> None:
        """Take over what the byte says.

        :raises ParameterException: it is not one byte, or says nothing of this kind
        """
        raise NotImplementedException(f"{type(self).__name__} must implement decode(event)")

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return self.encode() == other.encode() if isinstance(other, ModbusEvent) else NotImplemented

    # What decode changes is no key of a dict.
    __hash__ = None  # type: ignore[assignment]


class _FlagsEvent(ModbusEvent):
    """An event whose bits have names, from the lowest; None is a bit that is not used."""

    _flags: tuple[str | None, ...]
    # The bit that tells the kind.
    _kind: int

    def encode(self) -> bytes:
        flags = pack_bitstring(bool(name and getattr(self, name)) for name in self._flags)
        return bytes([flags[0] | self._kind])

    def decode(self, event: bytes) -> None:
        if len(event) != 1:
            raise ParameterException(f"{event!r} is not the one byte of an event")
        for name, flag in zip(self._flags, unpack_bitstring(event), strict=False):
            if name:
                setattr(self, name, flag)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}=True' for name in self._flags if name and getattr(self, name))})"


class RemoteReceiveEvent(_FlagsEvent):
    """A message came in; stored before it is acted on.

    :param overrun: a character overrun
    :param listen: the server is in listen-only mode
    :param broadcast: the message is a broadcast
    :param error: a communication error
    """

    _flags = (None, "error", None, None, "overrun", "listen", "broadcast")
    _kind = 0x80

    def __init__(self, *, overrun: bool = False, listen: bool = False, broadcast: bool = False, error: bool = False) -> None:
        self.overrun = overrun
        self.listen = listen
        self.broadcast = broadcast
        self.error = error


class RemoteSendEvent(_FlagsEvent):
    """A message was acted on, whether it was answered or not.

    :param read: answered with exception 1..3
    :param slave_abort: answered with exception 4
    :param slave_busy: answered with exception 5 or 6
    :param slave_nak: answered with exception 7
    :param write_timeout: the answer could not be written in time
    :param listen: the server is in listen-only mode
    """

    _flags = ("read", "slave_abort", "slave_busy", "slave_nak", "write_timeout", "listen")
    _kind = 0x40

    def __init__(
        self,
        *,
        read: bool = False,
        slave_abort: bool = False,
        slave_busy: bool = False,
        slave_nak: bool = False,
        write_timeout: bool = False,
        listen: bool = False,
    ) -> None:
        self.read = read
        self.slave_abort = slave_abort
        self.slave_busy = slave_busy
        self.slave_nak = slave_nak
        self.write_timeout = write_timeout
        self.listen = listen


class _PlainEvent(ModbusEvent):
    """An event that is always the same byte."""

    value: int

    def encode(self) -> bytes:
        return bytes([self.value])

    def decode(self, event: bytes) -> None:
        if event != self.encode():
            raise ParameterException(f"{event!r} is no byte of a {type(self).__name__}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class EnteredListenModeEvent(_PlainEvent):
    """The server went into listen-only mode."""

    value = 0x04


class CommunicationRestartEvent(_PlainEvent):
    """The server's communication was restarted."""

    value = 0x00


def decode_event(code: int) -> ModbusEvent:
    """The event that a byte of the log is.

    :raises ParameterException: there is none
    """
    event: ModbusEvent
    if code & 0x80:
        event = RemoteReceiveEvent()
    elif code & 0x40:
        event = RemoteSendEvent()
    else:
        event = EnteredListenModeEvent() if code else CommunicationRestartEvent()
    event.decode(bytes([code]))
    return event
