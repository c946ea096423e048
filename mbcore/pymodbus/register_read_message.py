"""The messages of function codes 03, 04, 23: reading registers."""

from mbcore.messages import (
    ReadHoldingRegistersRequest,
    ReadHoldingRegistersResponse,
    ReadInputRegistersRequest,
    ReadInputRegistersResponse,
    ReadRegistersRequestBase,
    ReadRegistersResponseBase,
    ReadWriteMultipleRegistersRequest,
    ReadWriteMultipleRegistersResponse,
)

__all__ = [
    "ReadHoldingRegistersRequest",
    "ReadHoldingRegistersResponse",
    "ReadInputRegistersRequest",
    "ReadInputRegistersResponse",
    "ReadRegistersRequestBase",
    "ReadRegistersResponseBase",
    "ReadWriteMultipleRegistersRequest",
    "ReadWriteMultipleRegistersResponse",
]
