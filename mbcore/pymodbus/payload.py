"""Values in any byte and word order."""

from mbcore.payload import BinaryPayloadBuilder, BinaryPayloadDecoder, Endian

__all__ = [
    "BinaryPayloadBuilder",
    "BinaryPayloadDecoder",
    "Endian",
]
