"""The messages of function codes 07, 11, 12, 17: status, events and server id."""

from mbcore.messages import (
    GetCommEventCounterRequest,
    GetCommEventCounterResponse,
    GetCommEventLogRequest,
    GetCommEventLogResponse,
    ReadExceptionStatusRequest,
    ReadExceptionStatusResponse,
    ReportSlaveIdRequest,
    ReportSlaveIdResponse,
)

__all__ = [
    "GetCommEventCounterRequest",
    "GetCommEventCounterResponse",
    "GetCommEventLogRequest",
    "GetCommEventLogResponse",
    "ReadExceptionStatusRequest",
    "ReadExceptionStatusResponse",
    "ReportSlaveIdRequest",
    "ReportSlaveIdResponse",
]
