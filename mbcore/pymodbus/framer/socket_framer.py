"""The MBAP framer."""

from mbcore.framer import ModbusSocketFramer

__all__ = [
    "ModbusSocketFramer",
]
