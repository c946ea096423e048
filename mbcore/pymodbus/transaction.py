"""The framers, and what clients keep of their requests."""

from mbcore.framer.face import (
    ModbusAsciiFramer,
    ModbusBinaryFramer,
    ModbusRtuFramer,
    ModbusSocketFramer,
    ModbusTlsFramer,
)
from mbcore.transaction import DictTransactionManager, FifoTransactionManager, ModbusTransactionManager

__all__ = [
    "DictTransactionManager",
    "FifoTransactionManager",
    "ModbusAsciiFramer",
    "ModbusBinaryFramer",
    "ModbusRtuFramer",
    "ModbusSocketFramer",
    "ModbusTlsFramer",
    "ModbusTransactionManager",
]
