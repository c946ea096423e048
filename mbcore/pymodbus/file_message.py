"""The messages of function codes 20, 21, 24: files and FIFO queues."""

from mbcore.messages import (
    FileRecord,
    ReadFifoQueueRequest,
    ReadFifoQueueResponse,
    ReadFileRecordRequest,
    ReadFileRecordResponse,
    WriteFileRecordRequest,
    WriteFileRecordResponse,
)

__all__ = [
    "FileRecord",
    "ReadFifoQueueRequest",
    "ReadFifoQueueResponse",
    "ReadFileRecordRequest",
    "ReadFileRecordResponse",
    "WriteFileRecordRequest",
    "WriteFileRecordResponse",
]
