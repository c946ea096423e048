"""Bytes -> request or response objects, a user's own classes among them."""

from collections.abc import Callable
from typing import Any, ClassVar

from mbcore.codec import decode_request
from mbcore.constants import Limit
from mbcore.errors import FramingError, MessageRegisterException, ModbusError, ModbusException, RequestError
from mbcore.messages import bits, diagnostics, files, identification, registers, status
from mbcore.messages.pdu import ExceptionResponse, IllegalFunctionRequest, ModbusPDU, ModbusRequest, ModbusResponse, RefusedRequest
from mbcore.messages.standard import EmptyRequest

__all__ = ["ClientDecoder", "ServerDecoder"]

# How a class may say where its frames end on an RTU line. A frame has unit id, function code and CRC at least, and the byte count stands
# behind the function code and before the CRC.
RTU_SIZES = {
    "_rtu_frame_size": range(4, Limit.MAX_ADU_RTU + 1),
    "_rtu_byte_count_pos": range(2, Limit.MAX_ADU_RTU - 2),
}

Reporter = Callable[[str, BaseException], object]


def public_messages(base: type[ModbusPDU]) -> list[type[Any]]:
    """Return the classes of the public functions, requests or responses, bases first."""
    found = [getattr(room, name) for room in (bits, registers, diagnostics, files, identification, status) for name in room.__all__]
    return sorted((kind for kind in found if issubclass(kind, base) and hasattr(kind, "function_code")), key=lambda kind: len(kind.mro()))


class Decoder:
    """The tables function code -> class, and function and sub-function code -> class.

    ``report`` hears of what a user's class raised while decoding, as ``report(sentence, exception)``, and ``changed`` of each class that
    was registered.
    """

    base: ClassVar[type[ModbusPDU]]
    codes: ClassVar[range]

    def __init__(self, report: Reporter | None = None, changed: Callable[[], object] | None = None) -> None:
        self.report = report
        # Called when a class was registered.
        self._changed = changed
        self._classes: dict[int, type[Any]] = {}
        self._sub_classes: dict[tuple[int, int], type[Any]] = {}
        #: What :meth:`register` has added: {function code: class}.
        self.custom: dict[int, type[Any]] = {}
        for kind in public_messages(self.base):
            self._add(kind)

    def _add(self, kind: type[Any]) -> None:
        sub_function_code = getattr(kind, "sub_function_code", None)
        # The first class of a function decodes its sub-functions that have no class.
        self._classes.setdefault(kind.function_code, kind)
        if sub_function_code is not None:
            self._sub_classes[kind.function_code, sub_function_code] = kind

    def lookupPduClass(self, function_code: int) -> type[Any]:
        """Return the class of a function's messages, ExceptionResponse where there is none."""
        return self._classes.get(function_code, ExceptionResponse)

    def register(self, function: type[ModbusPDU]) -> None:
        """Decode messages of ``function.function_code`` (and ``sub_function_code``, where it has one) with this class from now on.

        :raises MessageRegisterException: it can't be used; the sentence says what it lacks
        """
        name = getattr(function, "__name__", repr(function))
        if not (isinstance(function, type) and issubclass(function, self.base)):
            raise MessageRegisterException(f"{name} can't be registered: derive it from {self.base.__name__}")
        code = getattr(function, "function_code", None)
        if not isinstance(code, int) or code not in self.codes:
            raise MessageRegisterException(
                f"{name} can't be registered: give it a function_code, {self.codes.start}..{self.codes.stop - 1}, instead of {code!r}"
            )
        if getattr(function, "sub_function_code", None) is None:
            self._classes.pop(code, None)
        self._add(function)
        self.custom[code] = function
        if self._changed is not None:
            self._changed()

    def _decoded(self, kind: type[Any], message: bytes) -> Any:
        """Decode with the class of the function, and again with the class of the sub-function where it has its own."""
        decoded = kind()
        decoded.decode(message[1:])
        sub_kind = self._sub_classes.get((message[0], getattr(decoded, "sub_function_code", -1)), kind)
        if sub_kind is kind:
            return decoded
        decoded = sub_kind()
        decoded.decode(message[1:])
        return decoded

    def _complain(self, kind: type[Any], error: Exception) -> None:
        if self.report is not None:
            self.report(f"{kind.__name__}.decode() failed", error)


class ServerDecoder(Decoder):
    """Bytes of a PDU -> request object."""

    base = ModbusRequest
    codes = range(1, 0x80)

    def decode(self, message: bytes) -> Any:
        """Return the request that the PDU ``message`` is; None where it is empty. No bytes raise.

        A function without a class gives an IllegalFunctionRequest, and bytes that are no valid request one whose ``execute`` returns
        the exception response that they deserve.
        """
        try:
            return self._helper(message)
        except ModbusException:
            return None

    def _helper(self, message: bytes) -> Any:
        if not message:
            raise FramingError("an empty PDU is no request")
        kind = self._classes.get(message[0])
        if kind is None:
            return IllegalFunctionRequest(message[0])
        try:
            request = self._decoded(kind, message)
        except RequestError as error:
            return RefusedRequest(message[0], error.exception_code)
        except Exception as error:
            self._complain(kind, error)
            return RefusedRequest(message[0])
        if isinstance(request, EmptyRequest):
            request.refused = refusal(message)
        return request

    def register(self, function: type[ModbusPDU]) -> None:
        """Decode requests of ``function.function_code`` (and ``sub_function_code``, where it has one) with this class from now on.

        :raises MessageRegisterException: it is no ModbusRequest, has no ``function_code`` 1..127, or an RTU line could not tell where
            its frames end: it has no ``_rtu_frame_size`` 4..256, ``_rtu_byte_count_pos`` 2..253 or ``calculateRtuFrameSize`` of its own
        """
        sizes = {name: getattr(function, name, None) for name in RTU_SIZES}
        own = getattr(getattr(function, "calculateRtuFrameSize", None), "__func__", None)
        if not any(size is not None for size in sizes.values()) and own is ModbusPDU.calculateRtuFrameSize.__func__:  # type: ignore[attr-defined]
            raise MessageRegisterException(
                f"{function.__name__} can't be registered: give it _rtu_frame_size, _rtu_byte_count_pos or calculateRtuFrameSize(), "
                "so that its frames can be told on an RTU line"
            )
        for name, size in sizes.items():
            if size is not None and (type(size) is not int or size not in RTU_SIZES[name]):
                raise MessageRegisterException(
                    f"{function.__name__} can't be registered: give it a {name}, {RTU_SIZES[name].start}..{RTU_SIZES[name].stop - 1}, "
                    f"instead of {size!r}"
                )
        super().register(function)


def refusal(message: bytes) -> int | None:
    """Return the exception code that a public function's request deserves whatever the store holds, None for none."""
    try:
        decode_request(message)
    except RequestError as error:
        return error.exception_code
    return None


class ClientDecoder(Decoder):
    """Bytes of a PDU -> response object."""

    base = ModbusResponse
    codes = range(1, 0x100)

    def decode(self, message: bytes) -> Any:
        """Return the response that the PDU ``message`` is, None where it is none. No bytes raise."""
        try:
            return self._helper(message)
        except ModbusException:
            return None

    def _helper(self, message: bytes) -> Any:
        if not message:
            raise FramingError("an empty PDU is no response")
        kind = self._classes.get(message[0])
        if message[0] > 0x80 and kind is None:
            response = ExceptionResponse(message[0] & 0x7F)
            response.decode(message[1:])
            return response
        if kind is None:
            raise FramingError(f"function {message[0]} has no response class; register one")
        try:
            return self._decoded(kind, message)
        except ModbusError:
            raise
        except Exception as error:
            self._complain(kind, error)
            raise FramingError(f"{kind.__name__} could not decode {bytes(message).hex(' ')}") from error
