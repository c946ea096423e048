"""The ASCII framer."""

from mbcore.framer import ModbusAsciiFramer

__all__ = [
    "ModbusAsciiFramer",
]
