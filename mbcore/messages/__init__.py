"""Requests and responses as Python objects. The hot path never makes one; what a PDU means is the codec's.

Here is what a trace hook sees. pymodbus' classes, one for each function and direction, and their decoders are in the modules beside
this one; they are imported when somebody asks this package for one.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from mbcore.codec import decode_request, decode_response, encode_request, encode_response
from mbcore.errors import FramingError, ModbusError, RequestError

_ROOMS = ("pdu", "decoders", "bits", "registers", "diagnostics", "files", "status", "identification")
# pymodbus 3 says `count` where the specification says quantity, and `dev_id` where it says unit identifier.
_ALIASES = {"count": "quantity", "dev_id": "unit_id", "device_id": "unit_id", "slave_id": "unit_id"}


class TracedPDU:
    """A request or a response on its way through a trace hook.

    ``function_code``, ``unit_id`` (also ``dev_id``, ``device_id``, ``slave_id``), ``transaction_id``, and the fields of its function as
    :func:`mbcore.codec.decode_request` and :func:`~mbcore.codec.decode_response` name them: ``address``, ``quantity`` (also ``count``),
    ``registers``, ``bits``, ``exception_code``... What a hook assigns goes onto the wire, within what the function can carry. A PDU that
    is no valid message has ``data`` instead, its bytes after the function code.
    """

    unit_id: int
    transaction_id: int
    _fields: dict[str, Any]
    _raw: bool

    def __init__(self, pdu: bytes, sending: bool, unit_id: int, transaction_id: int) -> None:
        self.sending = sending
        self.unit_id = unit_id
        self.transaction_id = transaction_id
        try:
            self._fields = decode_response(pdu) if sending else decode_request(pdu)
        except (RequestError, FramingError):
            self._fields = {"function_code": pdu[0], "data": pdu[1:]}
            self._raw = True
        else:
            self._raw = False

    def __getattr__(self, name: str) -> Any:
        name = _ALIASES.get(name, name)
        if name == "unit_id":
            return self.unit_id
        try:
            return self.__dict__["_fields"][name]
        except KeyError:
            raise AttributeError(f"function {self.function_code} has no field {name!r}; it has {', '.join(self._fields)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        fields = self.__dict__.get("_fields", {})
        name = _ALIASES.get(name, name)
        if name in fields:
            fields[name] = value
        else:
            super().__setattr__(name, value)

    def isError(self) -> bool:
        """Return whether this is an exception response."""
        return "exception_code" in self._fields

    def encode(self) -> bytes:
        """Return the PDU's data as bytes, without the function code, as pymodbus' messages do; ``bytes(message)`` is the whole PDU.

        :raises ConfigurationError: a field does not fit its function
        """
        return bytes(self)[1:]

    def __bytes__(self) -> bytes:
        fields = dict(self._fields)
        function_code = fields.pop("function_code")
        if self._raw:
            return bytes([function_code]) + bytes(fields["data"])
        return (encode_response if self.sending else encode_request)(function_code, **fields)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self._fields.items())
        return f"TracedPDU({'response' if self.sending else 'request'}, unit_id={self.unit_id}, {fields})"


def trace(
    hook: Callable[[bool, TracedPDU], Any],
    sending: bool,
    pdu: bytes,
    unit_id: int,
    transaction_id: int,
    report: Callable[[str, BaseException], object] | None,
) -> bytes:
    """Return the PDU that ``hook(sending, TracedPDU)`` lets through (a TracedPDU, or bytes).

    What it raises is reported, and ``pdu`` goes on as it was.
    """
    try:
        message = TracedPDU(pdu, sending, unit_id, transaction_id)
        before = bytes(message)
        returned = hook(sending, message)
        after = bytes(message if returned is None else returned)
        # Bits beyond the quantity and the like are not fields: an untouched message stays as it came.
        result = pdu if after == before else after
        if not 1 <= len(result) <= 253:
            raise ModbusError(f"trace_pdu returned a PDU of {len(result)} bytes; 1..253 are possible")
    except BaseException as error:  # it can go nowhere from here
        if report is not None:
            report("the trace_pdu hook failed; the message goes on as it was", error)
        return pdu
    return result


def __getattr__(name: str) -> Any:
    if not name.startswith("_") and name not in _ROOMS:
        for room in _ROOMS:
            module = import_module(f"{__name__}.{room}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
