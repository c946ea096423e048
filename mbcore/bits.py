"""Bits <-> bytes, the first bit in the lowest place of the first byte (AP 6.1)."""

from collections.abc import Iterable


def pack_bitstring(bits: Iterable[object]) -> bytes:
    """The bytes of ``bits``, anything true being 1; the last byte is filled up with zeros."""
    octets = bytearray()
    for index, bit in enumerate(bits):
        if index % 8 == 0:
            octets.append(0)
        if bit:
            octets[-1] |= 1 << index % 8
    return bytes(octets)


def unpack_bitstring(string: Iterable[int]) -> list[bool]:
    """The bits of the bytes in ``string``, eight for each."""
    return [bool(octet >> place & 1) for octet in string for place in range(8)]
