"""Identity, counters, access: what a device knows of itself. ``ModbusControlBlock()`` is the block of the script's one server."""

from mbcore.device import (
    DeviceInformationFactory,
    ModbusAccessControl,
    ModbusCountersHandler,
    ModbusDeviceIdentification,
    ModbusPlusStatistics,
)
from mbcore.device import (
    process_control as ModbusControlBlock,
)

__all__ = [
    "DeviceInformationFactory",
    "ModbusAccessControl",
    "ModbusControlBlock",
    "ModbusCountersHandler",
    "ModbusDeviceIdentification",
    "ModbusPlusStatistics",
]
