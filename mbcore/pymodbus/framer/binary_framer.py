"""The binary framer."""

from mbcore.framer import ModbusBinaryFramer

__all__ = [
    "ModbusBinaryFramer",
]
