"""The process image: data blocks, the contexts of units and of a server."""

from mbcore.datastore.context import ModbusServerContext, ModbusSlaveContext
from mbcore.datastore.store import BaseModbusDataBlock, ModbusSequentialDataBlock, ModbusSparseDataBlock

__all__ = ["BaseModbusDataBlock", "ModbusSequentialDataBlock", "ModbusServerContext", "ModbusSlaveContext", "ModbusSparseDataBlock"]
