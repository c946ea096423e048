"""The framers, one to a module."""

from mbcore.framer.face import ModbusFramer

__all__ = [
    "ModbusFramer",
]
