"""mbcore: a Modbus server (slave) for single-board computers.

Contexts, data blocks, identity and framers are here; servers and protocols are in :mod:`mbcore.server`.
"""

from mbcore.control import ModbusControlBlock, ModbusDeviceIdentification
from mbcore.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext, ModbusSparseDataBlock
from mbcore.framer import ModbusAsciiFramer, ModbusBinaryFramer, ModbusRtuFramer, ModbusSocketFramer, ModbusTlsFramer
from mbcore.version import __version__

__all__ = [
    "ModbusAsciiFramer",
    "ModbusBinaryFramer",
    "ModbusControlBlock",
    "ModbusDeviceIdentification",
    "ModbusRtuFramer",
    "ModbusSequentialDataBlock",
    "ModbusServerContext",
    "ModbusSlaveContext",
    "ModbusSocketFramer",
    "ModbusSparseDataBlock",
    "ModbusTlsFramer",
    "__version__",
]
