"""The base classes of messages, and the exception response."""

from mbcore.messages import (
    ExceptionResponse,
    IllegalFunctionRequest,
    ModbusExceptions,
    ModbusPDU,
    ModbusRequest,
    ModbusResponse,
)

__all__ = [
    "ExceptionResponse",
    "IllegalFunctionRequest",
    "ModbusExceptions",
    "ModbusPDU",
    "ModbusRequest",
    "ModbusResponse",
]
