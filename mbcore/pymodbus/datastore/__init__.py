"""Data blocks and contexts."""

from mbcore.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext, ModbusSparseDataBlock

__all__ = [
    "ModbusSequentialDataBlock",
    "ModbusServerContext",
    "ModbusSlaveContext",
    "ModbusSparseDataBlock",
]
