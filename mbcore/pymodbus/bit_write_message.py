"""The messages of function codes 05, 15: writing coils."""

from mbcore.messages import WriteMultipleCoilsRequest, WriteMultipleCoilsResponse, WriteSingleCoilRequest, WriteSingleCoilResponse

__all__ = [
    "WriteMultipleCoilsRequest",
    "WriteMultipleCoilsResponse",
    "WriteSingleCoilRequest",
    "WriteSingleCoilResponse",
]
