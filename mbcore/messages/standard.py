"""Messages of the public functions as views: the layout is the codec's, what they do is the executor's; the classes name the fields."""

import struct
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

from mbcore.codec import decode_request, decode_response, encode_request, encode_response, response_length
from mbcore.constants import ExceptionCode
from mbcore.device import process_control
from mbcore.errors import ConfigurationError, FramingError, RequestError
from mbcore.execute import execute_request
from mbcore.messages.pdu import RTU_OVERHEAD, ModbusPDU, ModbusRequest, ModbusResponse

T = TypeVar("T")


class derived(Generic[T]):  # noqa: N801 - used as a decorator, like property
    """An attribute that follows from the others, unless someone assigns it: then the two must agree when the message is encoded."""

    def __init__(self, function: Callable[[Any], T]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, message: None, owner: type) -> Self: ...
    @overload
    def __get__(self, message: object, owner: type) -> T: ...
    def __get__(self, message: object | None, owner: type) -> Self | T:
        return self if message is None else self.function(message)


def listed(values: Any) -> list[Any]:
    """Return the values as a list; pymodbus' constructors take a single one too, and None for none."""
    if values is None:
        return []
    try:
        return list(values) if hasattr(values, "__iter__") else [values]
    except TypeError:
        raise ConfigurationError(f"the values {values!r} are not a list") from None


def words_of(data: bytes) -> list[int]:
    """Return the registers that the bytes hold."""
    if len(data) % 2:
        raise ConfigurationError(f"the data {bytes(data)!r} does not consist of whole registers")
    return list(struct.unpack(f">{len(data) // 2}H", data))


def bytes_of(words: Iterable[int]) -> bytes:
    """Return the registers as bytes."""
    words = list(words)
    try:
        return struct.pack(f">{len(words)}H", *words)
    except struct.error:
        raise ConfigurationError(f"the registers {words!r} are not whole numbers 0..65535") from None


def names(**fields: str) -> Mapping[str, str]:
    """Return which attribute is which field of the codec: attribute="field"."""
    return MappingProxyType(fields)


class Fields(ModbusPDU):
    """A message whose attributes are the codec's fields, most under names of pymodbus.

    ``_layout`` is the public function whose layout it has: its own function code, or its base's where a user derives a function of his
    own from a public one. ``_fields`` says which attribute is which field.
    """

    _layout: ClassVar[int]
    _fields: ClassVar[Mapping[str, str]] = MappingProxyType({})
    _text: ClassVar[str] = "{0.__class__.__name__}({0.function_code})"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "function_code" in vars(cls) and not hasattr(cls, "_layout"):
            cls._layout = cls.function_code

    def _to_fields(self) -> dict[str, Any]:
        return {field: getattr(self, attribute) for attribute, field in self._fields.items()}

    def _from_fields(self, fields: dict[str, Any]) -> None:
        for attribute, field in self._fields.items():
            setattr(self, attribute, fields[field])

    def _assigned(self) -> list[tuple[str, Any, Any]]:
        """Derived attributes that someone assigned: name, value, and what it would be."""
        kind = type(self)
        candidates = [(name, value, getattr(kind, name, None)) for name, value in vars(self).items()]
        return [(name, value, attribute.function(self)) for name, value, attribute in candidates if isinstance(attribute, derived)]

    def _checked_fields(self) -> dict[str, Any]:
        for name, value, expected in self._assigned():
            if value != expected:
                raise ConfigurationError(f"{name} of {type(self).__name__} is {value!r}, but its values make it {expected!r}")
        return self._to_fields()

    def _take(self, fields: dict[str, Any]) -> None:
        for name, _, _ in self._assigned():
            delattr(self, name)
        self._from_fields(fields)

    def __str__(self) -> str:
        return self._text.format(self)


class StandardResponse(Fields, ModbusResponse):
    """The response of a public function."""

    def encode(self) -> bytes:
        """Return the response's bytes after the function code.

        :raises ConfigurationError: an attribute does not fit; the sentence names it
        """
        return encode_response(self._layout, **self._checked_fields())[1:]

    def decode(self, data: bytes) -> None:
        """Take the attributes from the bytes after the function code.

        :raises FramingError: they are no valid response of this function
        """
        self._take(decode_response(bytes([self._layout]) + data))


class MeasuredResponse(StandardResponse):
    """A response whose length is in more than one byte: the codec measures it."""

    @classmethod
    def calculateRtuFrameSize(cls, buffer: bytes) -> int:
        """Return how many bytes the RTU frame at the head of ``buffer`` has, unit identifier and CRC included.

        :raises IndexError: the buffer ends before the bytes that say it
        :raises FramingError: the frame has no length that could be told
        """
        length = response_length(bytes([cls._layout]) + bytes(buffer[2:]))
        if length is None:
            raise IndexError("the frame does not say its length yet")
        if length < 0:
            raise FramingError(f"only its checksum can tell where this frame of {cls.__name__} ends")
        return length + RTU_OVERHEAD


class StandardRequest(Fields, ModbusRequest):
    """The request of a public function.

    ``refused`` is the exception code that the bytes last decoded deserve whatever the store holds, None where they are in order.
    """

    response_class: ClassVar[type[StandardResponse]]
    refused: int | None = None

    def encode(self) -> bytes:
        """Return the request's bytes after the function code.

        :raises ConfigurationError: an attribute does not fit; the sentence names it
        """
        return encode_request(self._layout, **self._checked_fields())[1:]

    def decode(self, data: bytes) -> None:
        """Take the attributes from the bytes after the function code.

        Bytes that are no valid request leave them as they are and make the request one that ``execute`` refuses.
        """
        try:
            fields = decode_request(bytes([self._layout]) + data)
        except RequestError as error:
            self.refused = error.exception_code
        else:
            self.refused = None
            self._take(fields)

    def execute(self, context: Any = None) -> ModbusResponse:
        """Act on ``context``, as the server does on a request from the wire, and return the response or an exception response.

        :param context: a slave context, or any object with its ``validate``, ``getValues`` and ``setValues``
        """
        if self.refused is not None:
            return self.doException(self.refused)
        try:
            pdu = bytes([self._layout]) + self.encode()
        except ConfigurationError:
            return self.doException(ExceptionCode.ILLEGAL_DATA_VALUE if self._addressable() else ExceptionCode.ILLEGAL_DATA_ADDRESS)
        answer = execute_request(context, process_control().block if self.control is None else self.control, pdu, self.report)
        if answer[0] & 0x80:
            return self.doException(answer[1])
        response = self.response_class(**self._heading())
        if self.function_code != self._layout:
            response.function_code = self.function_code
        response.decode(answer[1:])
        self._complete(response)
        return response

    def _addressable(self) -> bool:
        """Whether a request that can't be encoded fails for another reason than its addresses."""
        return all(isinstance(address, int) and 0 <= address <= 0xFFFF for address in self._addresses())

    def _addresses(self) -> list[Any]:
        return [getattr(self, attribute) for attribute, field in self._fields.items() if field in ("address", "write_address")]

    def _complete(self, response: Any) -> None:
        """Add to the response what its bytes don't say."""


class EmptyRequest(StandardRequest):
    """A request that is its function code and nothing more."""

    _rtu_frame_size = 4

    def decode(self, data: bytes) -> None:
        """Pass over the data: there should be none."""
