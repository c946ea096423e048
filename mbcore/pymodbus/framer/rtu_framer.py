"""The RTU framer."""

from mbcore.framer import ModbusRtuFramer

__all__ = [
    "ModbusRtuFramer",
]
