"""What users derive their own classes from."""

from mbcore.interfaces import (
    IModbusDecoder,
    IModbusFramer,
    IModbusSlaveContext,
    IPayloadBuilder,
    Singleton,
)

__all__ = [
    "IModbusDecoder",
    "IModbusFramer",
    "IModbusSlaveContext",
    "IPayloadBuilder",
    "Singleton",
]
