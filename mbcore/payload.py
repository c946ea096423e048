"""Values of any type <-> bytes, registers or coils, in any byte and word order. Knows no tables and no frames.

A value of several registers is cut into 16-bit words: ``wordorder`` says which comes first, ``byteorder`` which byte of a word does.
"""

import struct
from collections.abc import Iterable
from typing import Any, Self

from mbcore.bits import pack_bitstring, unpack_bitstring
from mbcore.compat import make_byte_string
from mbcore.defaults import Endian
from mbcore.errors import ParameterException
from mbcore.interfaces import IPayloadBuilder

__all__ = ["BinaryPayloadBuilder", "BinaryPayloadDecoder", "Endian"]


def _order(byteorder: str, wordorder: str, octets: bytes) -> bytes:
    """Between a number's bytes as the network has them and its words in the orders wanted; the way back is the same."""
    words = list(struct.unpack(f">{len(octets) // 2}H", octets))
    if wordorder == Endian.Little:
        words.reverse()
    return struct.pack(f"{_struct_order(byteorder)}{len(words)}H", *words)


def _struct_order(byteorder: str) -> str:
    # "@" would align as well: "=" is the machine's byte order alone.
    return "=" if byteorder == Endian.Auto else byteorder


class BinaryPayloadBuilder(IPayloadBuilder):
    """Builds a payload value by value.

    :param payload: bytes, or a list of them, to begin with
    :param byteorder: Endian.Little or Endian.Big: the bytes within a word
    :param wordorder: Endian.Big or Endian.Little: the words within a value
    :param repack: True: :meth:`to_registers` reads the bytes in ``byteorder`` instead of Modbus' own order
    """

    def __init__(
        self,
        payload: bytes | Iterable[bytes] | None = None,
        byteorder: str = Endian.Little,
        wordorder: str = Endian.Big,
        repack: bool = False,
    ) -> None:
        self._payload = [bytes(payload)] if isinstance(payload, bytes | bytearray) else list(payload or ())
        self._byteorder = byteorder
        self._wordorder = wordorder
        self._repack = repack

    def to_string(self) -> bytes:
        """Return the payload as it is, without padding."""
        return b"".join(self._payload)

    def __str__(self) -> str:
        return self.to_string().decode("utf-8", "backslashreplace")

    def reset(self) -> None:
        """Empty the payload."""
        self._payload = []

    def build(self) -> list[bytes]:
        """Return the payload as a list of two bytes each; an odd one gets a zero byte at its end."""
        octets = self.to_string()
        octets += bytes(len(octets) % 2)
        return [octets[index : index + 2] for index in range(0, len(octets), 2)]

    def to_registers(self) -> list[int]:
        """Return the payload as registers."""
        order = _struct_order(self._byteorder) if self._repack else ">"
        registers: list[int] = [struct.unpack(order + "H", octets)[0] for octets in self.build()]
        return registers

    def to_coils(self) -> list[bool]:
        """Return the payload as coils, 16 for each register, its highest bit first."""
        return [bool(register >> place & 1) for register in self.to_registers() for place in range(15, -1, -1)]

    def add_bits(self, values: Iterable[object]) -> None:
        """Add bits, the first in the lowest place; the last byte is filled up with zeros."""
        self._payload.append(pack_bitstring(values))

    def add_8bit_uint(self, value: int) -> None:
        """Add a number 0..255."""
        self._add("B", value)

    def add_16bit_uint(self, value: int) -> None:
        """Add a number 0..65535."""
        self._add("H", value)

    def add_32bit_uint(self, value: int) -> None:
        """Add a number 0..2**32 - 1."""
        self._add("I", value)

    def add_64bit_uint(self, value: int) -> None:
        """Add a number 0..2**64 - 1."""
        self._add("Q", value)

    def add_8bit_int(self, value: int) -> None:
        """Add a number -128..127."""
        self._add("b", value)

    def add_16bit_int(self, value: int) -> None:
        """Add a number -32768..32767."""
        self._add("h", value)

    def add_32bit_int(self, value: int) -> None:
        """Add a number -2**31..2**31 - 1."""
        self._add("i", value)

    def add_64bit_int(self, value: int) -> None:
        """Add a number -2**63..2**63 - 1."""
        self._add("q", value)

    def add_16bit_float(self, value: float) -> None:
        """Add a number in half precision."""
        self._add("e", value)

    def add_32bit_float(self, value: float) -> None:
        """Add a number in single precision."""
        self._add("f", value)

    def add_64bit_float(self, value: float) -> None:
        """Add a number in double precision."""
        self._add("d", value)

    def add_string(self, value: str | bytes) -> None:
        """Add text (as UTF-8) or bytes, in no order but their own."""
        self._payload.append(bytes(make_byte_string(value)))

    def _add(self, kind: str, value: float) -> None:
        octets = struct.pack(">" + kind, value)
        self._payload.append(octets if len(octets) == 1 else _order(self._byteorder, self._wordorder, octets))


class BinaryPayloadDecoder:
    """Reads a payload value by value, from its beginning.

    :param payload: the bytes
    :param byteorder: Endian.Little or Endian.Big: the bytes within a word
    :param wordorder: Endian.Big or Endian.Little: the words within a value
    :raises struct.error: when read past the end
    """

    def __init__(self, payload: bytes | str, byteorder: str = Endian.Little, wordorder: str = Endian.Big) -> None:
        self._payload: bytes = make_byte_string(payload)
        self._pointer = 0
        self._byteorder = byteorder
        self._wordorder = wordorder

    @classmethod
    def fromRegisters(cls, registers: list[int], byteorder: str = Endian.Little, wordorder: str = Endian.Big) -> Self:
        """A decoder of registers, as a master reads them.

        :raises ParameterException: ``registers`` is not a list
        """
        if not isinstance(registers, list):
            raise ParameterException(f"registers are a list of numbers 0..65535, not {registers!r}")
        return cls(struct.pack(f">{len(registers)}H", *registers), byteorder, wordorder)

    @classmethod
    def fromCoils(cls, coils: list[Any], byteorder: str = Endian.Little, wordorder: str = Endian.Big) -> Self:
        """A decoder of coils as :meth:`BinaryPayloadBuilder.to_coils` makes them, the highest bit of each byte first.

        Coils that fill no whole byte are the lowest bits of the first one.

        :raises ParameterException: ``coils`` is not a list
        """
        if not isinstance(coils, list):
            raise ParameterException(f"coils are a list of bits, not {coils!r}")
        padded = [False] * (-len(coils) % 8) + coils
        return cls(b"".join(pack_bitstring(chunk[::-1]) for chunk in cls.bit_chunks(padded)), byteorder, wordorder)

    @classmethod
    def bit_chunks(cls, coils: list[Any], size: int = 8) -> list[list[Any]]:
        """``coils`` in pieces of ``size``."""
        return [coils[index : index + size] for index in range(0, len(coils), size)]

    def reset(self) -> None:
        """Go back to the beginning."""
        self._pointer = 0

    def skip_bytes(self, nbytes: int) -> None:
        """Pass over ``nbytes`` bytes."""
        self._pointer += nbytes

    def decode_bits(self) -> list[bool]:
        """Read the eight bits of a byte, the lowest first."""
        return unpack_bitstring(self._take(1))

    def decode_string(self, size: int = 1) -> bytes:
        """Read ``size`` bytes; fewer are left at the end."""
        start = self._pointer
        self._pointer += size
        return self._payload[start : self._pointer]

    def decode_8bit_uint(self) -> int:
        """Read a number 0..255."""
        return self._integer("B")

    def decode_16bit_uint(self) -> int:
        """Read a number 0..65535."""
        return self._integer("H")

    def decode_32bit_uint(self) -> int:
        """Read a number 0..2**32 - 1."""
        return self._integer("I")

    def decode_64bit_uint(self) -> int:
        """Read a number 0..2**64 - 1."""
        return self._integer("Q")

    def decode_8bit_int(self) -> int:
        """Read a number -128..127."""
        return self._integer("b")

    def decode_16bit_int(self) -> int:
        """Read a number -32768..32767."""
        return self._integer("h")

    def decode_32bit_int(self) -> int:
        """Read a number -2**31..2**31 - 1."""
        return self._integer("i")

    def decode_64bit_int(self) -> int:
        """Read a number -2**63..2**63 - 1."""
        return self._integer("q")

    def decode_16bit_float(self) -> float:
        """Read a number in half precision."""
        return self._float("e")

    def decode_32bit_float(self) -> float:
        """Read a number in single precision."""
        return self._float("f")

    def decode_64bit_float(self) -> float:
        """Read a number in double precision."""
        return self._float("d")

    def _integer(self, kind: str) -> int:
        value: int = self._read(kind)
        return value

    def _float(self, kind: str) -> float:
        value: float = self._read(kind)
        return value

    def _read(self, kind: str) -> Any:
        octets = self._take(struct.calcsize(">" + kind))
        return struct.unpack(">" + kind, octets if len(octets) == 1 else _order(self._byteorder, self._wordorder, octets))[0]

    def _take(self, size: int) -> bytes:
        octets = self.decode_string(size)
        if len(octets) < size:
            raise struct.error(f"the payload of {len(self._payload)} bytes ends before byte {self._pointer}")
        return octets
