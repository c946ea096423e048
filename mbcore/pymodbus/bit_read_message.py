"""The messages of function codes 01, 02: reading coils and discrete inputs."""

from mbcore.messages import (
    ReadBitsRequestBase,
    ReadBitsResponseBase,
    ReadCoilsRequest,
    ReadCoilsResponse,
    ReadDiscreteInputsRequest,
    ReadDiscreteInputsResponse,
)

__all__ = [
    "ReadBitsRequestBase",
    "ReadBitsResponseBase",
    "ReadCoilsRequest",
    "ReadCoilsResponse",
    "ReadDiscreteInputsRequest",
    "ReadDiscreteInputsResponse",
]
