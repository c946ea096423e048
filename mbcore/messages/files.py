"""20 Read File Record, 21 Write File Record, 24 Read FIFO Queue."""

from typing import Any

from mbcore.constants import Limit
from mbcore.messages.standard import MeasuredResponse, StandardRequest, StandardResponse, bytes_of, names, words_of

__all__ = [
    "FileRecord", "ReadFifoQueueRequest", "ReadFifoQueueResponse", "ReadFileRecordRequest", "ReadFileRecordResponse",
    "WriteFileRecordRequest", "WriteFileRecordResponse",
]


class FileRecord:
    """A group of consecutive records of one file.

    :param kwargs: ``file_number`` (1..65535), ``record_number`` (0..9999, the first one), ``record_data`` (bytes, two a record),
        ``record_length`` (how many records; follows from the data), ``response_length`` (bytes of data and reference type; follows from
        the data), ``reference_type`` (6)
    """

    def __init__(self, **kwargs: Any) -> None:
        self.reference_type: int = kwargs.get("reference_type", int(Limit.FILE_REFERENCE_TYPE))
        self.file_number: int = kwargs.get("file_number", 0)
        self.record_number: int = kwargs.get("record_number", 0)
        self.record_data: bytes = kwargs.get("record_data", b"")
        self.record_length: int = kwargs.get("record_length", len(self.record_data) // 2)
        self.response_length: int = kwargs.get("response_length", len(self.record_data) + 1)

    def _key(self) -> tuple[Any, ...]:
        return self.reference_type, self.file_number, self.record_number, self.record_length, self.record_data

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, FileRecord) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"FileRecord(file={self.file_number}, record={self.record_number}, length={self.record_length})"


class ReadFileRecordResponse(StandardResponse):
    """20: the records' data, a :class:`FileRecord` for each group of the request."""

    function_code = 20
    _rtu_byte_count_pos = 2

    def __init__(self, records: list[FileRecord] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.records = records or []

    def _to_fields(self) -> dict[str, Any]:
        return {"groups": [words_of(record.record_data) for record in self.records]}

    def _from_fields(self, fields: dict[str, Any]) -> None:
        self.records = [FileRecord(record_data=bytes_of(words)) for words in fields["groups"]]


class ReadFileRecordRequest(StandardRequest):
    """20: asks for groups of records; only ``file_number``, ``record_number`` and ``record_length`` of each count."""

    function_code = 20
    _rtu_byte_count_pos = 2
    response_class = ReadFileRecordResponse

    def __init__(self, records: list[FileRecord] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.records = records or []

    def _to_fields(self) -> dict[str, Any]:
        return {"groups": [(record.file_number, record.record_number, record.record_length) for record in self.records]}

    def _from_fields(self, fields: dict[str, Any]) -> None:
        self.records = [
            FileRecord(file_number=file_number, record_number=record_number, record_length=length)
            for file_number, record_number, length in fields["groups"]
        ]

    def _complete(self, response: Any) -> None:
        for asked, record in zip(self.records, response.records, strict=True):
            record.file_number, record.record_number = asked.file_number, asked.record_number


def written_groups(records: list[FileRecord]) -> dict[str, Any]:
    """Return the codec's fields of records with data."""
    return {"groups": [(record.file_number, record.record_number, words_of(record.record_data)) for record in records]}


def written_records(fields: dict[str, Any]) -> list[FileRecord]:
    """Return the records with data that the codec's fields are."""
    return [
        FileRecord(file_number=file_number, record_number=record_number, record_data=bytes_of(words))
        for file_number, record_number, words in fields["groups"]
    ]


class WriteFileRecordResponse(StandardResponse):
    """21: the request's echo."""

    function_code = 21
    _rtu_byte_count_pos = 2

    def __init__(self, records: list[FileRecord] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.records = records or []

    def _to_fields(self) -> dict[str, Any]:
        return written_groups(self.records)

    def _from_fields(self, fields: dict[str, Any]) -> None:
        self.records = written_records(fields)


class WriteFileRecordRequest(StandardRequest):
    """21: writes groups of records."""

    function_code = 21
    _rtu_byte_count_pos = 2
    response_class = WriteFileRecordResponse

    def __init__(self, records: list[FileRecord] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.records = records or []

    def _to_fields(self) -> dict[str, Any]:
        return written_groups(self.records)

    def _from_fields(self, fields: dict[str, Any]) -> None:
        self.records = written_records(fields)


class ReadFifoQueueResponse(MeasuredResponse):
    """24: the values in the queue, at most 31; they stay in it."""

    function_code = 24
    _fields = names(values="registers")

    def __init__(self, values: list[int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.values = values or []


class ReadFifoQueueRequest(StandardRequest):
    """24: asks for the queue at wire address ``address``."""

    function_code = 24
    _fields = names(address="address")
    _rtu_frame_size = 6
    response_class = ReadFifoQueueResponse

    def __init__(self, address: int = 0x0000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.address = address
