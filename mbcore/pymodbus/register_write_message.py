"""The messages of function codes 06, 16, 22: writing registers."""

from mbcore.messages import (
    MaskWriteRegisterRequest,
    MaskWriteRegisterResponse,
    WriteMultipleRegistersRequest,
    WriteMultipleRegistersResponse,
    WriteSingleRegisterRequest,
    WriteSingleRegisterResponse,
)

__all__ = [
    "MaskWriteRegisterRequest",
    "MaskWriteRegisterResponse",
    "WriteMultipleRegistersRequest",
    "WriteMultipleRegistersResponse",
    "WriteSingleRegisterRequest",
    "WriteSingleRegisterResponse",
]
