"""01 Read Coils, 02 Read Discrete Inputs, 05 Write Single Coil, 15 Write Multiple Coils."""

from typing import Any

from mbcore.messages.standard import StandardRequest, StandardResponse, derived, listed, names

__all__ = [
    "ReadBitsRequestBase", "ReadBitsResponseBase",
    "ReadCoilsRequest", "ReadCoilsResponse", "ReadDiscreteInputsRequest", "ReadDiscreteInputsResponse",
    "WriteMultipleCoilsRequest", "WriteMultipleCoilsResponse", "WriteSingleCoilRequest", "WriteSingleCoilResponse",
]


class ReadBitsResponseBase(StandardResponse):
    """The states of coils or discrete inputs.

    :param values: the states; decoding gives ``bits`` in whole bytes, the last ones padded with False
    """

    _layout = 1
    _fields = names(bits="bits")
    _rtu_byte_count_pos = 2

    def __init__(self, values: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bits: list[Any] = values or []

    @derived
    def byte_count(self) -> int:
        """How many bytes the bits take."""
        return (len(self.bits) + 7) // 8

    def setBit(self, address: int, value: Any = 1) -> None:
        """Set one bit; the first is 0."""
        self.bits[address] = bool(value)

    def resetBit(self, address: int) -> None:
        """Clear one bit; the first is 0."""
        self.setBit(address, 0)

    def getBit(self, address: int) -> Any:
        """Return one bit; the first is 0."""
        return self.bits[address]

    def __str__(self) -> str:
        return f"{type(self).__name__}({len(self.bits)})"


class ReadBitsRequestBase(StandardRequest):
    """Asks for ``count`` coils or discrete inputs, 1..2000, from wire address ``address`` on."""

    _layout = 1
    _fields = names(address="address", count="quantity")
    _text = "ReadBitRequest({0.address},{0.count})"
    _rtu_frame_size = 8
    response_class = ReadBitsResponseBase

    def __init__(self, address: int | None = None, count: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.address: Any = address
        self.count: Any = count

    def get_response_pdu_size(self) -> int:
        """Return how many bytes the PDU of the response has."""
        return int(2 + (self.count + 7) // 8)

    def _complete(self, response: Any) -> None:
        del response.bits[self.count:]


class ReadCoilsResponse(ReadBitsResponseBase):
    """01: the states of coils."""

    function_code = 1


class ReadCoilsRequest(ReadBitsRequestBase):
    """01: asks for coils."""

    function_code = 1
    response_class = ReadCoilsResponse


class ReadDiscreteInputsResponse(ReadBitsResponseBase):
    """02: the states of discrete inputs."""

    function_code = 2
    _layout = 2


class ReadDiscreteInputsRequest(ReadBitsRequestBase):
    """02: asks for discrete inputs."""

    function_code = 2
    _layout = 2
    response_class = ReadDiscreteInputsResponse


class WriteSingleCoilResponse(StandardResponse):
    """05: the request's echo."""

    function_code = 5
    _fields = names(address="address", value="value")
    _text = "WriteCoilResponse({0.address}) => {0.value:d}"
    _rtu_frame_size = 8

    def __init__(self, address: int | None = None, value: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.address: Any = address
        self.value = bool(value)

    def _to_fields(self) -> dict[str, Any]:
        return {"address": self.address, "value": bool(self.value)}


class WriteSingleCoilRequest(StandardRequest):
    """05: sets the coil at wire address ``address`` to the truth of ``value``."""

    function_code = 5
    _fields = names(address="address", value="value")
    _text = "WriteCoilRequest({0.address}, {0.value}) => "
    _rtu_frame_size = 8
    response_class = WriteSingleCoilResponse

    def __init__(self, address: int | None = None, value: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.address: Any = address
        self.value = bool(value)

    def get_response_pdu_size(self) -> int:
        """Return how many bytes the PDU of the response has."""
        return 5

    def _to_fields(self) -> dict[str, Any]:
        return {"address": self.address, "value": bool(self.value)}


class WriteMultipleCoilsResponse(StandardResponse):
    """15: how many coils were written, from where on."""

    function_code = 15
    _fields = names(address="address", count="quantity")
    _text = "WriteNCoilResponse({0.address}, {0.count})"
    _rtu_frame_size = 8

    def __init__(self, address: int | None = None, count: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.address: Any = address
        self.count: Any = count


class WriteMultipleCoilsRequest(StandardRequest):
    """15: writes ``values``, 1..1968 truths (or a single one), from wire address ``address`` on."""

    function_code = 15
    _fields = names(address="address", values="bits")
    _rtu_byte_count_pos = 6
    response_class = WriteMultipleCoilsResponse

    def __init__(self, address: int | None = None, values: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.address: Any = address
        self.values: Any = values if hasattr(values, "__iter__") else listed(values)

    @derived
    def byte_count(self) -> int:
        """How many bytes the values take."""
        return (len(self.values) + 7) // 8

    def get_response_pdu_size(self) -> int:
        """Return how many bytes the PDU of the response has."""
        return 5

    def _to_fields(self) -> dict[str, Any]:
        return {"address": self.address, "bits": listed(self.values)}

    def __str__(self) -> str:
        return f"WriteNCoilRequest ({self.address}) => {len(self.values)} "
