"""mbcore: a Modbus server (slave) for single-board computers.

Contexts, data blocks, identity and framers are here; servers and protocols are in :mod:`mbcore.server`.
"""

from typing import TYPE_CHECKING

from mbcore import framer as _framer
from mbcore.control import ModbusControlBlock, ModbusDeviceIdentification
from mbcore.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext, ModbusSparseDataBlock
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

if TYPE_CHECKING:
    from mbcore.framer import ModbusAsciiFramer, ModbusBinaryFramer, ModbusRtuFramer, ModbusSocketFramer, ModbusTlsFramer
else:

    def __getattr__(name):
        # mbcore.framer loads a framer when it is first asked for.
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(_framer, name)

    def __dir__():
        return sorted({*globals(), *__all__})
