"""The exceptions."""

from mbcore.errors import (
    ConnectionException,
    InvalidMessageReceivedException,
    MessageRegisterException,
    ModbusException,
    ModbusIOException,
    NoSuchSlaveException,
    NotImplementedException,
    ParameterException,
    TimeOutException,
)

__all__ = [
    "ConnectionException",
    "InvalidMessageReceivedException",
    "MessageRegisterException",
    "ModbusException",
    "ModbusIOException",
    "NoSuchSlaveException",
    "NotImplementedException",
    "ParameterException",
    "TimeOutException",
]
