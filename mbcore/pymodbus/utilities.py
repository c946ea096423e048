"""Bits, checksums and small helpers."""

from mbcore.bits import pack_bitstring, unpack_bitstring
from mbcore.checksum import checkCRC, checkLRC, computeCRC, computeLRC
from mbcore.compat import (
    default,
    dict_property,
    hexlify_packets,
    make_byte_string,
    rtuFrameSize,
)
from mbcore.transaction import ModbusTransactionState

__all__ = [
    "ModbusTransactionState",
    "checkCRC",
    "checkLRC",
    "computeCRC",
    "computeLRC",
    "default",
    "dict_property",
    "hexlify_packets",
    "make_byte_string",
    "pack_bitstring",
    "rtuFrameSize",
    "unpack_bitstring",
]
