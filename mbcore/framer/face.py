"""pymodbus' methods over the compiled framers, for a script that takes frames apart itself. Delimits and checks nothing of its own.

``_buffer`` is what was added and not yet dropped, ``_header`` what the frame found last says of itself; both may be assigned. Given to a
server as ``framer=``, these are the compiled framers: a server calls none of the methods here.
"""

from binascii import unhexlify
from collections.abc import Callable, Iterable
from functools import cached_property
from struct import unpack_from
from typing import Any, ClassVar

from mbcore.errors import ConfigurationError
from mbcore.framer import ascii, binary, rtu, socket, tls
from mbcore.framer.base import Framer, build_adu, first_frame

__all__ = ["ModbusAsciiFramer", "ModbusBinaryFramer", "ModbusFramer", "ModbusRtuFramer", "ModbusSocketFramer", "ModbusTlsFramer"]

# What a script may leave untaken, bytes.
MAX_PENDING = 65536


class ModbusFramer(Framer):
    """Base of the framers below.

    :param decoder: what :meth:`processIncomingPacket` decodes with, a ServerDecoder or ClientDecoder
    :param client: what :meth:`sendPacket` and :meth:`recvPacket` use, an object with ``send(data)`` and ``recv(size)``
    """

    # How many bytes stand before the function code, as pymodbus counts them: of ASCII without the colon, of binary without the brace.
    _hsize: ClassVar[int] = 1
    # How many bytes of a frame the header's "len" leaves out.
    _uncounted: ClassVar[int] = 0
    # The header where there is no frame.
    _empty: ClassVar[dict[str, Any]] = {"uid": 0, "len": 0}

    decoder: Any = None
    client: Any = None
    _buffer: bytes = b""

    def __init__(self, decoder: Any = None, client: Any = None) -> None:
        # A server gives neither: its framer then is no larger than the compiled one.
        if decoder is not None or client is not None:
            self.decoder = decoder
            self.client = client

    @cached_property
    def _header(self) -> dict[str, Any]:
        return dict(self._empty)

    def addToFrame(self, message: bytes | bytearray | memoryview) -> None:
        """Put ``message``, bytes off the wire, behind what is there; beyond 64 KiB the oldest bytes are lost."""
        self._buffer = (self._buffer + bytes(memoryview(message)))[-MAX_PENDING:]

    def checkFrame(self) -> bool:
        """Return whether a whole, undamaged frame is there; what stands before it is dropped."""
        before, self._header, pdu = self._look(self._buffer)
        self._buffer = self._buffer[before:]
        return pdu is not None

    def isFrameReady(self) -> bool:
        """Return whether a frame is there; the same as :meth:`checkFrame`."""
        return self.checkFrame()

    def advanceFrame(self) -> None:
        """Drop the frame that :meth:`checkFrame` found."""
        if self._header["len"]:
            self._buffer = self._buffer[self._header["len"] + self._uncounted :]
        self._header = dict(self._empty)

    def getFrame(self) -> bytes:
        """Return the PDU of the first frame, b"" where there is none."""
        return self._look(self._buffer)[2] or b""

    def getRawFrame(self) -> bytes:
        """Return all bytes that were added and not yet dropped."""
        return self._buffer

    def resetFrame(self) -> None:
        """Drop all bytes."""
        self._buffer = b""
        self._header = dict(self._empty)

    def populateResult(self, result: Any) -> None:
        """Set ``unit_id``, ``transaction_id`` and ``protocol_id`` of the message ``result`` from the frame's head; 0 where it has none."""
        result.unit_id = self._header.get("uid", 0)
        result.transaction_id = self._header.get("tid", 0)
        result.protocol_id = self._header.get("pid", 0)

    def processIncomingPacket(
        self, data: bytes, callback: Callable[[Any], object], unit: int | Iterable[int] = (), single: bool = False, **kwargs: Any
    ) -> None:
        """Add ``data`` and call ``callback(message)`` for every frame of one of the units.

        What the decoder does not know is passed over.

        :param unit: a unit id or several; where 0 or 255 is among them, or ``single`` is true, every unit's
        :raises ConfigurationError: the framer was made without a decoder
        """
        if self.decoder is None:
            raise ConfigurationError("this framer has no decoder: make it with decoder=ServerDecoder() or ClientDecoder()")
        units = [unit] if isinstance(unit, int) else list(unit)
        self.addToFrame(data)
        while self.checkFrame():
            message = self.decoder.decode(self.getFrame()) if self._validate_unit_id(units, single) else None
            if message is not None:
                self.populateResult(message)
            self.advanceFrame()
            if message is not None:
                callback(message)

    def buildPacket(self, message: Any) -> bytes:
        """Return the ADU around ``message``, an object with function_code, encode(), unit_id, transaction_id and protocol_id."""
        pdu = bytes([message.function_code]) + message.encode()
        return build_adu(self, pdu, message.unit_id, message.transaction_id, message.protocol_id)

    def sendPacket(self, message: bytes) -> Any:
        """Send an ADU through the client and return what its ``send`` returns; the silence between frames is the client's to keep.

        :raises ConfigurationError: the framer was made without a client
        """
        return self._asked().send(message)

    def recvPacket(self, size: int) -> Any:
        """Return what the client's ``recv(size)`` does.

        :raises ConfigurationError: the framer was made without a client
        """
        return self._asked().recv(size)

    def decode_data(self, data: bytes) -> dict[str, int]:
        """Return what the head of the ADU ``data`` says, whole or not: ``unit`` and ``fcode``; nothing where it is too short.

        With MBAP framing ``tid``, ``pid`` and ``length`` too, inside TLS ``fcode`` alone.
        """
        return {"unit": data[0], "fcode": data[1]} if len(data) > 1 else {}

    def _validate_unit_id(self, units: Iterable[int], single: bool) -> bool:
        """Whether the frame found is one of these units', or every unit's count."""
        wanted = set(units)
        return single or not wanted.isdisjoint((0, 0xFF, self._header["uid"])) or not wanted

    def _look(self, data: bytes) -> tuple[int, dict[str, Any], bytes | None]:
        """How many bytes stand before the first frame in ``data``, its header and its PDU."""
        before, length, unit_id, transaction_id, protocol_id, pdu = first_frame(self, data)
        header = dict(self._empty)
        if pdu is not None:
            known = {"uid": unit_id, "tid": transaction_id, "pid": protocol_id, "len": length - self._uncounted}
            header.update({name: known[name] for name in header.keys() & known.keys()}, **self._checked(data[before : before + length]))
        return before, header, pdu

    def _checked(self, adu: bytes) -> dict[str, Any]:
        """The frame's checksum under the header's name for it."""
        return {}

    def _asked(self) -> Any:
        if self.client is None:
            raise ConfigurationError("this framer has no client: make it with client=, an object with send(data) and recv(size)")
        return self.client


# The compiled class stands first: it is the one that makes the object.


class ModbusSocketFramer(socket.ModbusSocketFramer, ModbusFramer):
    """Modbus TCP: a head with the length in front of each PDU."""

    _hsize = 7
    _uncounted = 6
    _empty: ClassVar[dict[str, Any]] = {"tid": 0, "pid": 0, "len": 0, "uid": 0}

    def decode_data(self, data: bytes) -> dict[str, int]:
        return dict(zip(("tid", "pid", "length", "unit", "fcode"), unpack_from(">HHHBB", data), strict=True)) if len(data) > 7 else {}


class ModbusRtuFramer(rtu.ModbusRtuFramer, ModbusFramer):
    """Modbus RTU: binary frames with a CRC-16, told apart by their length and by silence."""

    _min_frame_size = 4
    _empty: ClassVar[dict[str, Any]] = {"uid": 0, "len": 0, "crc": b"\x00\x00"}

    def populateHeader(self, data: bytes | None = None) -> None:
        """Take the header from the frame that ``data`` begins with; None: the buffer.

        :raises IndexError: there is no whole, undamaged frame
        """
        before, header, pdu = self._look(self._buffer if data is None else data)
        if before or pdu is None:
            raise IndexError("these bytes begin with no whole RTU frame")
        self._header = header

    def _checked(self, adu: bytes) -> dict[str, Any]:
        return {"crc": adu[-2:]}


class ModbusAsciiFramer(ascii.ModbusAsciiFramer, ModbusFramer):
    """Modbus ASCII: frames in hex digits with an LRC."""

    _hsize = 2
    _start = b":"
    _end = b"\r\n"
    _uncounted = len(_end)
    _empty: ClassVar[dict[str, Any]] = {"lrc": "0000", "len": 0, "uid": 0}

    def decode_data(self, data: bytes) -> dict[str, int]:
        try:
            unit_id, function_code = unhexlify(data[1:5])
        except ValueError:
            return {}
        return {"unit": unit_id, "fcode": function_code}

    def _checked(self, adu: bytes) -> dict[str, Any]:
        return {"lrc": int(adu[-4:-2], 16)}


class ModbusBinaryFramer(binary.ModbusBinaryFramer, ModbusFramer):
    """Frames between braces, with a CRC-16."""

    _start = b"{"
    _end = b"}"
    # The bytes that are doubled.
    _repeat: ClassVar[list[int]] = list(_end + _start)
    _uncounted = len(_end)
    _empty: ClassVar[dict[str, Any]] = {"crc": 0, "len": 0, "uid": 0}

    def decode_data(self, data: bytes) -> dict[str, int]:
        return super().decode_data(data[1:])

    def _checked(self, adu: bytes) -> dict[str, Any]:
        return {"crc": int.from_bytes(adu[-3:-1], "big")}


class ModbusTlsFramer(tls.ModbusTlsFramer, ModbusFramer):
    """A PDU and nothing else, as pymodbus 2.5.3 sends it inside TLS."""

    _hsize = 0
    _empty: ClassVar[dict[str, Any]] = {"len": 0}

    def decode_data(self, data: bytes) -> dict[str, int]:
        return {"fcode": data[0]} if data else {}

    def _validate_unit_id(self, units: Iterable[int], single: bool) -> bool:
        return True
