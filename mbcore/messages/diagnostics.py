"""08 Diagnostics: a class for each sub-function, all of the same layout."""

from typing import Any, ClassVar

from mbcore.codec import decode_request, decode_response
from mbcore.errors import NotImplementedException, RequestError
from mbcore.messages.pdu import ModbusResponse
from mbcore.messages.standard import StandardRequest, StandardResponse, bytes_of, listed, words_of

__all__ = [
    "ChangeAsciiInputDelimiterRequest", "ChangeAsciiInputDelimiterResponse", "ClearCountersRequest", "ClearCountersResponse",
    "ClearOverrunCountRequest", "ClearOverrunCountResponse", "DiagnosticStatusRequest", "DiagnosticStatusResponse",
    "DiagnosticStatusSimpleRequest", "DiagnosticStatusSimpleResponse",
    "ForceListenOnlyModeRequest", "ForceListenOnlyModeResponse", "GetClearModbusPlusRequest", "GetClearModbusPlusResponse",
    "RestartCommunicationsOptionRequest", "RestartCommunicationsOptionResponse", "ReturnBusCommunicationErrorCountRequest",
    "ReturnBusCommunicationErrorCountResponse", "ReturnBusExceptionErrorCountRequest", "ReturnBusExceptionErrorCountResponse",
    "ReturnBusMessageCountRequest", "ReturnBusMessageCountResponse", "ReturnDiagnosticRegisterRequest",
    "ReturnDiagnosticRegisterResponse", "ReturnIopOverrunCountRequest", "ReturnIopOverrunCountResponse", "ReturnQueryDataRequest",
    "ReturnQueryDataResponse", "ReturnSlaveBusCharacterOverrunCountRequest", "ReturnSlaveBusCharacterOverrunCountResponse",
    "ReturnSlaveBusyCountRequest", "ReturnSlaveBusyCountResponse", "ReturnSlaveMessageCountRequest", "ReturnSlaveMessageCountResponse",
    "ReturnSlaveNAKCountRequest", "ReturnSlaveNAKCountResponse", "ReturnSlaveNoReponseCountResponse",
    "ReturnSlaveNoResponseCountRequest", "ReturnSlaveNoResponseCountResponse",
]


def data_of(message: Any) -> bytes:
    """Return a diagnostic message's data: words (one or many), bytes, text, or None for nothing."""
    if isinstance(message, str):
        return message.encode()
    if isinstance(message, (bytes, bytearray)):
        return bytes(message)
    return bytes_of(listed(message))


class DiagnosticStatusResponse(StandardResponse):
    """08: base of the diagnostic responses. ``message`` is the data: a word, several, bytes or None; decoding gives a tuple of words."""

    function_code = 8
    sub_function_code: int
    _rtu_frame_size = 8

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.message: Any = None

    def _to_fields(self) -> dict[str, Any]:
        return {"sub_function": self.sub_function_code, "data": data_of(self.message)}

    def _from_fields(self, fields: dict[str, Any]) -> None:
        self.sub_function_code = fields["sub_function"]
        data = fields["data"]
        self.message = data if len(data) % 2 else tuple(words_of(data))


class DiagnosticStatusRequest(StandardRequest):
    """08: base of the diagnostic requests, and the request of a sub-function without a class. Decoding gives a word, or a list of them."""

    function_code = 8
    sub_function_code: int
    _rtu_frame_size = 8
    response_class: ClassVar[type[StandardResponse]] = DiagnosticStatusResponse

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.message: Any = None

    def decode(self, data: bytes) -> None:
        """Take sub-function and data. A sub-function that is not served is decoded too, so that its class can be found."""
        pdu = bytes([self._layout]) + data
        try:
            decode_request(pdu)
        except RequestError as error:
            self.refused = error.exception_code
        else:
            self.refused = None
        if len(data) >= 2:
            # Both directions have the same layout, and the response's is not judged.
            self._take(decode_response(pdu))

    def get_response_pdu_size(self) -> int:
        """Return how many bytes the PDU of the response has."""
        return 3 + len(data_of(self.message))

    def _to_fields(self) -> dict[str, Any]:
        return {"sub_function": self.sub_function_code, "data": data_of(self.message)}

    def _from_fields(self, fields: dict[str, Any]) -> None:
        self.sub_function_code = fields["sub_function"]
        data = fields["data"]
        words = data if len(data) % 2 else words_of(data)
        self.message = words[0] if len(data) == 2 else words

    def _complete(self, response: Any) -> None:
        response.message = list(response.message)


class DiagnosticStatusSimpleResponse(DiagnosticStatusResponse):
    """08: base of the responses whose data is one word.

    :param data: the word
    """

    def __init__(self, data: Any = 0x0000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.message = data


class DiagnosticStatusSimpleRequest(DiagnosticStatusRequest):
    """08: base of the requests whose data is one word, mostly 0.

    :param data: the word
    """

    response_class: ClassVar[type[StandardResponse]] = DiagnosticStatusSimpleResponse

    def __init__(self, data: Any = 0x0000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.message = data

    def execute(self, context: Any = None) -> ModbusResponse:
        """Act on the request; needs no context. A subclass without a sub-function has to do it itself."""
        if not hasattr(type(self), "sub_function_code"):
            raise NotImplementedException(f"{type(self).__name__} has neither a sub_function_code nor an execute()")
        return super().execute(context)

    def _complete(self, response: Any) -> None:
        response.message = response.message[0]


class ReturnQueryDataResponse(DiagnosticStatusResponse):
    """08/00: the request's data.

    :param message: a word or a list of words
    """

    sub_function_code = 0

    def __init__(self, message: Any = 0x0000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.message = message if isinstance(message, list) else [message]


class ReturnQueryDataRequest(DiagnosticStatusRequest):
    """08/00: asks for its data back.

    :param message: a word or a list of words
    """

    sub_function_code = 0
    response_class = ReturnQueryDataResponse

    def __init__(self, message: Any = 0x0000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.message = message if isinstance(message, list) else [message]


class RestartCommunicationsOptionResponse(DiagnosticStatusResponse):
    """08/01: the request's data; the restart follows it.

    :param toggle: whether the event log is cleared too
    """

    sub_function_code = 1

    def __init__(self, toggle: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.message = [0xFF00 if toggle else 0x0000]


class RestartCommunicationsOptionRequest(DiagnosticStatusRequest):
    """08/01: clears the counters and leaves listen-only mode.

    :param toggle: whether the event log is cleared too
    """

    sub_function_code = 1
    response_class = RestartCommunicationsOptionResponse

    def __init__(self, toggle: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.message = [0xFF00 if toggle else 0x0000]


class ReturnDiagnosticRegisterResponse(DiagnosticStatusSimpleResponse):
    """08/02: the 16-bit diagnostic register."""

    sub_function_code = 2


class ReturnDiagnosticRegisterRequest(DiagnosticStatusSimpleRequest):
    """08/02: asks for the diagnostic register."""

    sub_function_code = 2
    response_class = ReturnDiagnosticRegisterResponse


class ChangeAsciiInputDelimiterResponse(DiagnosticStatusSimpleResponse):
    """08/03: the request's data."""

    sub_function_code = 3


class ChangeAsciiInputDelimiterRequest(DiagnosticStatusSimpleRequest):
    """08/03: makes the data's high byte the last character of ASCII frames."""

    sub_function_code = 3
    response_class = ChangeAsciiInputDelimiterResponse


class ForceListenOnlyModeResponse(DiagnosticStatusResponse):
    """08/04: is not sent."""

    sub_function_code = 4
    should_respond = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.message = []


class ForceListenOnlyModeRequest(DiagnosticStatusSimpleRequest):
    """08/04: silences the server until 08/01."""

    sub_function_code = 4
    response_class = ForceListenOnlyModeResponse

    def _complete(self, response: Any) -> None:
        response.message = []


class ClearCountersResponse(DiagnosticStatusSimpleResponse):
    """08/10: the request's data."""

    sub_function_code = 10


class ClearCountersRequest(DiagnosticStatusSimpleRequest):
    """08/10: clears the counters and the diagnostic register."""

    sub_function_code = 10
    response_class = ClearCountersResponse


class ReturnBusMessageCountResponse(DiagnosticStatusSimpleResponse):
    """08/11: how many messages were on the bus."""

    sub_function_code = 11


class ReturnBusMessageCountRequest(DiagnosticStatusSimpleRequest):
    """08/11: asks for the number of messages on the bus."""

    sub_function_code = 11
    response_class = ReturnBusMessageCountResponse


class ReturnBusCommunicationErrorCountResponse(DiagnosticStatusSimpleResponse):
    """08/12: how many frames had a wrong checksum."""

    sub_function_code = 12


class ReturnBusCommunicationErrorCountRequest(DiagnosticStatusSimpleRequest):
    """08/12: asks for the number of frames with a wrong checksum."""

    sub_function_code = 12
    response_class = ReturnBusCommunicationErrorCountResponse


class ReturnBusExceptionErrorCountResponse(DiagnosticStatusSimpleResponse):
    """08/13: how many exception responses were given."""

    sub_function_code = 13


class ReturnBusExceptionErrorCountRequest(DiagnosticStatusSimpleRequest):
    """08/13: asks for the number of exception responses."""

    sub_function_code = 13
    response_class = ReturnBusExceptionErrorCountResponse


class ReturnSlaveMessageCountResponse(DiagnosticStatusSimpleResponse):
    """08/14: how many messages were for this server, or broadcast."""

    sub_function_code = 14


class ReturnSlaveMessageCountRequest(DiagnosticStatusSimpleRequest):
    """08/14: asks for the number of messages for this server."""

    sub_function_code = 14
    response_class = ReturnSlaveMessageCountResponse


class ReturnSlaveNoResponseCountResponse(DiagnosticStatusSimpleResponse):
    """08/15: how many messages for this server were not answered."""

    sub_function_code = 15


# As pymodbus spells it.
ReturnSlaveNoReponseCountResponse = ReturnSlaveNoResponseCountResponse


class ReturnSlaveNoResponseCountRequest(DiagnosticStatusSimpleRequest):
    """08/15: asks for the number of messages that were not answered."""

    sub_function_code = 15
    response_class = ReturnSlaveNoResponseCountResponse


class ReturnSlaveNAKCountResponse(DiagnosticStatusSimpleResponse):
    """08/16: how many messages were answered with exception 07."""

    sub_function_code = 16


class ReturnSlaveNAKCountRequest(DiagnosticStatusSimpleRequest):
    """08/16: asks for the number of messages answered with exception 07."""

    sub_function_code = 16
    response_class = ReturnSlaveNAKCountResponse


class ReturnSlaveBusyCountResponse(DiagnosticStatusSimpleResponse):
    """08/17: how many messages were answered with exception 06."""

    sub_function_code = 17


class ReturnSlaveBusyCountRequest(DiagnosticStatusSimpleRequest):
    """08/17: asks for the number of messages answered with exception 06."""

    sub_function_code = 17
    response_class = ReturnSlaveBusyCountResponse


class ReturnSlaveBusCharacterOverrunCountResponse(DiagnosticStatusSimpleResponse):
    """08/18: how many messages were lost to a character overrun."""

    sub_function_code = 18


class ReturnSlaveBusCharacterOverrunCountRequest(DiagnosticStatusSimpleRequest):
    """08/18: asks for the number of messages lost to a character overrun."""

    sub_function_code = 18
    response_class = ReturnSlaveBusCharacterOverrunCountResponse


class ReturnIopOverrunCountResponse(DiagnosticStatusSimpleResponse):
    """08/19, which the specification reserves: for clients of old devices."""

    sub_function_code = 19


class ReturnIopOverrunCountRequest(DiagnosticStatusSimpleRequest):
    """08/19, which the specification reserves: a server answers with exception 01."""

    sub_function_code = 19
    response_class = ReturnIopOverrunCountResponse


class ClearOverrunCountResponse(DiagnosticStatusSimpleResponse):
    """08/20: the request's data."""

    sub_function_code = 20


class ClearOverrunCountRequest(DiagnosticStatusSimpleRequest):
    """08/20: clears the counter of character overruns."""

    sub_function_code = 20
    response_class = ClearOverrunCountResponse


class GetClearModbusPlusResponse(DiagnosticStatusSimpleResponse):
    """08/21, which the specification reserves: for clients of old devices."""

    sub_function_code = 21


class GetClearModbusPlusRequest(DiagnosticStatusSimpleRequest):
    """08/21, which the specification reserves: a server answers with exception 01."""

    sub_function_code = 21
    response_class = GetClearModbusPlusResponse
