"""07 Read Exception Status, 11 Get Comm Event Counter, 12 Get Comm Event Log, 17 Report Slave ID."""

from collections.abc import Iterable
from typing import Any

from mbcore.errors import ConfigurationError, FramingError
from mbcore.messages.standard import EmptyRequest, StandardResponse, names

__all__ = [
    "GetCommEventCounterRequest", "GetCommEventCounterResponse", "GetCommEventLogRequest", "GetCommEventLogResponse",
    "ReadExceptionStatusRequest", "ReadExceptionStatusResponse", "ReportSlaveIdRequest", "ReportSlaveIdResponse",
]

# The status word while a program command is processed (AP 6.9), and the run indicator of a running server (AP 6.13).
BUSY = 0xFFFF
RUNNING = 0xFF


class ReadExceptionStatusResponse(StandardResponse):
    """07: the eight exception status outputs as a number 0..255."""

    function_code = 7
    _fields = names(status="status")
    _text = "ReadExceptionStatusResponse({0.function_code}, {0.status})"
    _rtu_frame_size = 5

    def __init__(self, status: int = 0x00, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.status = status


class ReadExceptionStatusRequest(EmptyRequest):
    """07: asks for the exception status outputs."""

    function_code = 7
    response_class = ReadExceptionStatusResponse


class GetCommEventCounterResponse(StandardResponse):
    """11: how many requests were completed; ``status`` is True where the server is ready, False where it is busy."""

    function_code = 11
    _text = "GetCommEventCounterResponse({0.function_code}, {0.count}, {0.status:d})"
    _rtu_frame_size = 8

    def __init__(self, count: int = 0x0000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = count
        self.status = True

    def _to_fields(self) -> dict[str, Any]:
        return {"status": 0 if self.status else BUSY, "event_count": self.count}

    def _from_fields(self, fields: dict[str, Any]) -> None:
        self.status = fields["status"] == 0
        self.count = fields["event_count"]


class GetCommEventCounterRequest(EmptyRequest):
    """11: asks for the event counter."""

    function_code = 11
    response_class = GetCommEventCounterResponse


class GetCommEventLogResponse(StandardResponse):
    """12: the event counter and the event log.

    :param kwargs: ``status`` (True: ready), ``message_count``, ``event_count``, ``events`` (bytes as numbers, newest first, at most 64)
    """

    function_code = 12
    _text = "GetCommEventLogResponse({0.function_code}, {0.status:d}, {0.message_count}, {0.event_count})"
    _rtu_byte_count_pos = 2

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.status: bool = kwargs.get("status", True)
        self.message_count: int = kwargs.get("message_count", 0)
        self.event_count: int = kwargs.get("event_count", 0)
        self.events: Iterable[int] = kwargs.get("events", [])

    def _to_fields(self) -> dict[str, Any]:
        try:
            events = bytes(self.events)
        except (TypeError, ValueError):
            raise ConfigurationError(f"the events {self.events!r} are not whole numbers 0..255") from None
        counts = {"event_count": self.event_count, "message_count": self.message_count}
        return {"status": 0 if self.status else BUSY, "events": events} | counts

    def _from_fields(self, fields: dict[str, Any]) -> None:
        self.status = fields["status"] == 0
        self.event_count = fields["event_count"]
        self.message_count = fields["message_count"]
        self.events = list(fields["events"])


class GetCommEventLogRequest(EmptyRequest):
    """12: asks for the event log."""

    function_code = 12
    response_class = GetCommEventLogResponse


class ReportSlaveIdResponse(StandardResponse):
    """17: what the server is, and whether it runs.

    :param identifier: bytes, device specific
    :param status: whether the run indicator, the last byte, is on
    """

    function_code = 17
    _text = "ReportSlaveIdResponse({0.function_code}, {0.identifier}, {0.status})"
    _rtu_byte_count_pos = 2

    def __init__(self, identifier: bytes = b"\x00", status: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.identifier = identifier
        self.status = status
        self.byte_count: int | None = None

    def _to_fields(self) -> dict[str, Any]:
        if not isinstance(self.identifier, (bytes, bytearray)):
            raise ConfigurationError(f"the identifier {self.identifier!r} is not bytes")
        return {"server_id": self.identifier + bytes([RUNNING if self.status else 0])}

    def _from_fields(self, fields: dict[str, Any]) -> None:
        server_id: bytes = fields["server_id"]
        if not server_id:
            raise FramingError("a report of the server id without a run indicator")
        self.byte_count = len(server_id)
        self.identifier = server_id[:-1]
        self.status = server_id[-1] == RUNNING


class ReportSlaveIdRequest(EmptyRequest):
    """17: asks what the server is."""

    function_code = 17
    response_class = ReportSlaveIdResponse
