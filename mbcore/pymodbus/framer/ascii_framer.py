"""The ASCII framer."""

from mbcore.framer.face import ModbusAsciiFramer

__all__ = [
    "ModbusAsciiFramer",
]
