"""Defaults and codes."""

from mbcore.defaults import (
    Defaults,
    DeviceInformation,
    Endian,
    ModbusPlusOperation,
    ModbusStatus,
    MoreData,
)

__all__ = [
    "Defaults",
    "DeviceInformation",
    "Endian",
    "ModbusPlusOperation",
    "ModbusStatus",
    "MoreData",
]
