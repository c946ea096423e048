"""A number in registers: one typed value <-> its 16-bit registers. Knows no tables and no frames.

Modbus says how one register travels; how two of them make a number is up to the device. Its four ways are named as in most manuals, by the
bytes of the number from the most significant, A, to the least, D.
"""

import struct
from collections.abc import Iterable

from mbcore.errors import ConfigurationError

TYPES = {"uint16": "H", "int16": "h", "uint32": "I", "int32": "i", "float32": "f"}
ORDERS = ("ABCD", "CDAB", "BADC", "DCBA")


def register_count(kind: str) -> int:
    """How many registers one value of the type ``kind`` takes."""
    return struct.calcsize(_format(kind)) // 2


def to_registers(value: float, kind: str = "uint16", order: str = "ABCD") -> list[int]:
    """The registers of ``value`` as ``kind``, in the byte order ``order``; :class:`ConfigurationError` when the type can't hold it."""
    try:
        octets = struct.pack(_format(kind), value)
    except (struct.error, OverflowError) as error:
        raise ConfigurationError(f"{value!r} is no {kind}, which holds {_range(kind)}") from error
    return list(struct.unpack(f">{len(octets) // 2}H", _reorder(octets, order)))


def from_registers(registers: Iterable[int], kind: str = "uint16", order: str = "ABCD") -> float:
    """The value that ``registers``, as many as :func:`register_count` says, hold as ``kind``; an ``int`` but for ``float32``."""
    octets = b"".join(register.to_bytes(2, "big") for register in registers)
    value: float = struct.unpack(_format(kind), _reorder(octets, order))[0]
    return value


def _format(kind: str) -> str:
    if kind not in TYPES:
        raise ConfigurationError(f"{kind!r} is no type of a value; use one of {', '.join(TYPES)}")
    return ">" + TYPES[kind]


def _reorder(octets: bytes, order: str) -> bytes:
    # Each of the four orders is its own inverse.
    if order not in ORDERS:
        raise ConfigurationError(f"{order!r} is no byte order; use one of {', '.join(ORDERS)}")
    words = [octets[index : index + 2] for index in range(0, len(octets), 2)]
    if order in ("CDAB", "DCBA"):
        words.reverse()
    if order in ("BADC", "DCBA"):
        words = [word[::-1] for word in words]
    return b"".join(words)


def _range(kind: str) -> str:
    if kind == "float32":
        return "magnitudes up to 3.4e38"
    bits = 8 * struct.calcsize(_format(kind))
    low, high = (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return f"whole numbers {low}..{high}"
