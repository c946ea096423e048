"""Requests that wait for their responses: what a client keeps, under pymodbus' names. mbcore's own client needs none of it."""

from collections.abc import Iterator
from typing import Any, ClassVar

__all__ = ["DictTransactionManager", "FifoTransactionManager", "ModbusTransactionManager", "ModbusTransactionState"]


class ModbusTransactionState:
    """How far a client is with a request."""

    IDLE = 0
    SENDING = 1
    WAITING_FOR_REPLY = 2
    WAITING_TURNAROUND_DELAY = 3
    PROCESSING_REPLY = 4
    PROCESSING_ERROR = 5
    TRANSACTION_COMPLETE = 6
    RETRYING = 7
    NO_RESPONSE_STATE = 8

    _names: ClassVar[dict[int, str]] = {value: name for name, value in list(vars().items()) if name.isupper()}

    @classmethod
    def to_string(cls, state: int) -> str | None:
        """Return the name of a state, None where there is none."""
        return cls._names.get(state)


class ModbusTransactionManager:
    """Numbers requests.

    :param client: whose requests they are
    """

    def __init__(self, client: Any = None) -> None:
        self.client = client
        self.tid = 0

    def getNextTID(self) -> int:
        """Return the next transaction identifier: 1, 2, ... 65535, 0."""
        self.tid = (self.tid + 1) & 0xFFFF
        return self.tid

    def reset(self) -> None:
        """Start numbering anew."""
        self.tid = 0


class DictTransactionManager(ModbusTransactionManager):
    """For a line on which a response names its request: each is found by its transaction identifier."""

    def __init__(self, client: Any = None) -> None:
        super().__init__(client)
        self.transactions: dict[int, Any] = {}

    def __iter__(self) -> Iterator[int]:
        """Iterate over the transaction identifiers."""
        return iter(self.transactions)

    def addTransaction(self, request: Any, tid: int | None = None) -> None:
        """Keep a request, under its own ``transaction_id`` unless ``tid`` is given."""
        self.transactions[request.transaction_id if tid is None else tid] = request

    def getTransaction(self, tid: int) -> Any:
        """Return a request and forget it; None when there is none."""
        return self.transactions.pop(tid, None)

    def delTransaction(self, tid: int) -> None:
        """Forget a request."""
        self.transactions.pop(tid, None)


class FifoTransactionManager(ModbusTransactionManager):
    """For a line on which responses come in the order of their requests: identifiers are not looked at."""

    def __init__(self, client: Any = None) -> None:
        super().__init__(client)
        self.transactions: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the requests, the oldest first."""
        return iter(self.transactions)

    def addTransaction(self, request: Any, tid: int | None = None) -> None:
        """Keep a request, behind the others."""
        self.transactions.append(request)

    def getTransaction(self, tid: int) -> Any:
        """Return the oldest request and forget it; None when there is none."""
        return self.transactions.pop(0) if self.transactions else None

    def delTransaction(self, tid: int) -> None:
        """Forget the oldest request."""
        self.getTransaction(tid)
