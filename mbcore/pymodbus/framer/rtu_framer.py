"""The RTU framer."""

from mbcore.framer.face import ModbusRtuFramer

__all__ = [
    "ModbusRtuFramer",
]
