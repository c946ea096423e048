"""The binary framer."""

from mbcore.framer.face import ModbusBinaryFramer

__all__ = [
    "ModbusBinaryFramer",
]
