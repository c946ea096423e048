"""Data blocks."""

from mbcore.datastore import BaseModbusDataBlock, ModbusSequentialDataBlock, ModbusSparseDataBlock

__all__ = [
    "BaseModbusDataBlock",
    "ModbusSequentialDataBlock",
    "ModbusSparseDataBlock",
]
