"""The messages of function code 43/14: device identification."""

from mbcore.messages import ReadDeviceInformationRequest, ReadDeviceInformationResponse

__all__ = [
    "ReadDeviceInformationRequest",
    "ReadDeviceInformationResponse",
]
