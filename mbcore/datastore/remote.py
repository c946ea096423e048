"""A unit that is somewhere else: a gateway's context, which asks a client for each value. Knows no wire; the client does."""

from collections.abc import Callable
from typing import Any

from mbcore.constants import ExceptionCode
from mbcore.errors import NotImplementedException, RequestError
from mbcore.interfaces import IModbusSlaveContext

# For each table, the client's method and where its response has the values.
_READ = {
    "c": ("read_coils", "bits"),
    "d": ("read_discrete_inputs", "bits"),
    "h": ("read_holding_registers", "registers"),
    "i": ("read_input_registers", "registers"),
}
_WRITE = {"c": "write_coils", "h": "write_registers"}
_READING = (1, 2, 3, 4)


class RemoteSlaveContext(IModbusSlaveContext):
    """Reads and writes another unit through a client, with one message on its wire for each request.

    The other side's exception code is raised as a RequestError; 0x0B when it does not answer. A Deferred of the client's is handed on.

    :param client: has ``read_coils(address, count)`` and its like, ``write_coils(address, values)`` and ``write_registers``, as pymodbus'
        clients do
    :param unit: the unit id there, given to the client as ``unit=``; None leaves it out
    """

    def __init__(self, client: Any, unit: int | None = None) -> None:
        self.client = client
        self.unit = unit
        # What validate read, for the getValues that follows.
        self._read_ahead: tuple[Any, Any] = (None, None)

    def reset(self) -> None:
        """Refuse: these are another's data."""
        raise NotImplementedException("a remote unit cannot be reset from here")

    def validate(self, fx: int, address: int, count: int = 1) -> bool:
        """Read what is to be read, and return whether that succeeds; a write is judged by the other side when it comes."""
        table = self.decode(fx)
        if fx not in _READING:
            return table in _WRITE
        response = self._read(table, address, count)
        self._read_ahead = (table, address, count), response
        return _is_deferred(response) or not _refused(response)

    def getValues(self, fx: int, address: int, count: int = 1) -> Any:
        """Return ``count`` values, those that :meth:`validate` has just read or else read now."""
        table = self.decode(fx)
        (key, response), self._read_ahead = self._read_ahead, (None, None)
        if key != (table, address, count):
            response = self._read(table, address, count)

        def values(answer: Any) -> list[Any]:
            return [] if _refused(answer) else list(getattr(answer, _READ[table][1]))[:count]

        return _then(response, values)

    def setValues(self, fx: int, address: int, values: Any) -> Any:
        """Write ``values`` there."""

        def check(answer: Any) -> None:
            if _refused(answer):
                raise RequestError(ExceptionCode.SERVER_DEVICE_FAILURE, f"the remote unit answered {answer}")

        return _then(self._call(_WRITE[self.decode(fx)], address, list(values)), check)

    def __str__(self) -> str:
        return f"Remote Slave Context({self.client})"

    def _read(self, table: str, address: int, count: int) -> Any:
        return self._call(_READ[table][0], address, count)

    def _call(self, method: str, address: int, argument: Any) -> Any:
        return getattr(self.client, method)(address, argument, **({} if self.unit is None else {"unit": self.unit}))


def _is_deferred(response: Any) -> bool:
    return hasattr(response, "addCallback")


def _then(response: Any, use: Callable[[Any], Any]) -> Any:
    return response.addCallback(use) if _is_deferred(response) else use(response)


def _refused(response: Any) -> bool:
    """Whether the other side refuses without saying why.

    :raises RequestError: it says why, or nothing at all
    """
    if not response.isError():
        return False
    code = getattr(response, "exception_code", ExceptionCode.GATEWAY_TARGET_DEVICE_FAILED_TO_RESPOND)
    if code:
        raise RequestError(code, f"the remote unit answered {response}")
    return True
