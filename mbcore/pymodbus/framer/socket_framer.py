"""The MBAP framer."""

from mbcore.framer.face import ModbusSocketFramer

__all__ = [
    "ModbusSocketFramer",
]
