"""43/14 Read Device Identification."""

from collections.abc import Mapping
from typing import Any

from mbcore.constants import Limit
from mbcore.errors import ConfigurationError
from mbcore.messages.standard import MeasuredResponse, StandardRequest, derived, names

__all__ = ["ReadDeviceInformationRequest", "ReadDeviceInformationResponse"]

# What stands before the objects in the response's PDU (AP 6.21).
HEAD = 7
BASIC = 1


def encoded(text: Any) -> bytes:
    """Return an object's text as bytes, str as UTF-8."""
    if isinstance(text, str):
        return text.encode()
    if isinstance(text, (bytes, bytearray)):
        return bytes(text)
    raise ConfigurationError(f"the object {text!r} of a device identification is neither str nor bytes")


class ReadDeviceInformationResponse(MeasuredResponse):
    """43/14: identification objects.

    :param read_code: the request's, 1..4
    :param information: object id -> text (str or bytes); decoding gives bytes. What does not fit into one response is left out, and
        ``more_follows`` and ``next_object_id`` say so.
    """

    function_code = 43
    sub_function_code = 14
    _text = "ReadDeviceInformationResponse({0.read_code})"

    def __init__(self, read_code: int | None = None, information: Mapping[int, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.read_code = read_code or BASIC
        self.information: dict[int, Any] = dict(information or {})
        self.conformity = 0x83
        self.next_object_id = 0x00
        self.more_follows = 0x00

    @derived
    def number_of_objects(self) -> int:
        """How many objects there are."""
        return len(self.information)

    def _to_fields(self) -> dict[str, Any]:
        fitting: dict[int, bytes] = {}
        room = Limit.MAX_PDU - HEAD
        for object_id, text in self.information.items():
            room -= 2 + len(encoded(text))
            if room < 0:
                self.more_follows, self.next_object_id = 0xFF, object_id
                break
            fitting[object_id] = encoded(text)
        fields = {"read_code": self.read_code, "conformity": self.conformity, "objects": fitting}
        return fields | {"more_follows": self.more_follows != 0, "next_object": self.next_object_id}

    def _from_fields(self, fields: dict[str, Any]) -> None:
        self.read_code = fields["read_code"]
        self.conformity = fields["conformity"]
        self.more_follows = 0xFF if fields["more_follows"] else 0x00
        self.next_object_id = fields["next_object"]
        self.information = fields["objects"]


class ReadDeviceInformationRequest(StandardRequest):
    """43/14: asks for identification objects.

    :param read_code: 1 basic, 2 regular, 3 extended, 4 the one object
    :param object_id: the first object, 0..255
    """

    function_code = 43
    sub_function_code = 14
    _fields = names(sub_function_code="mei_type", read_code="read_code", object_id="object_id")
    _text = "ReadDeviceInformationRequest({0.read_code},{0.object_id})"
    _rtu_frame_size = 7
    response_class = ReadDeviceInformationResponse

    def __init__(self, read_code: int | None = None, object_id: int = 0x00, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.read_code = read_code or BASIC
        self.object_id = object_id
