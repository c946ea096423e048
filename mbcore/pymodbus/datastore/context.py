"""The contexts of a unit and of a server."""

from mbcore.datastore import ModbusServerContext, ModbusSlaveContext

__all__ = [
    "ModbusServerContext",
    "ModbusSlaveContext",
]
