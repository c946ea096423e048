"""The framers, one to a module."""

from mbcore.framer import Framer as ModbusFramer

__all__ = [
    "ModbusFramer",
]
