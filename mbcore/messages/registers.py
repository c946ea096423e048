"""03 and 04 Read Registers, 06 and 16 Write Registers, 22 Mask Write Register, 23 Read/Write Multiple Registers."""

from typing import Any

from mbcore.messages.standard import StandardRequest, StandardResponse, derived, listed, names, words_of

__all__ = [
    "MaskWriteRegisterRequest", "MaskWriteRegisterResponse", "ReadHoldingRegistersRequest", "ReadHoldingRegistersResponse",
    "ReadInputRegistersRequest", "ReadInputRegistersResponse", "ReadRegistersRequestBase", "ReadRegistersResponseBase",
    "ReadWriteMultipleRegistersRequest", "ReadWriteMultipleRegistersResponse",
    "WriteMultipleRegistersRequest", "WriteMultipleRegistersResponse", "WriteSingleRegisterRequest", "WriteSingleRegisterResponse",
]


class ReadRegistersResponseBase(StandardResponse):
    """Values of registers, 0..65535, in ``registers``."""

    _layout = 3
    _fields = names(registers="registers")
    _rtu_byte_count_pos = 2

    def __init__(self, values: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.registers: list[Any] = values or []

    def getRegister(self, index: int) -> Any:
        """Return one register; the first is 0."""
        return self.registers[index]

    def __str__(self) -> str:
        return f"{type(self).__name__} ({len(self.registers)})"


class ReadRegistersRequestBase(StandardRequest):
    """Asks for ``count`` registers, 1..125, from wire address ``address`` on."""

    _layout = 3
    _fields = names(address="address", count="quantity")
    _text = "ReadRegisterRequest ({0.address},{0.count})"
    _rtu_frame_size = 8
    response_class = ReadRegistersResponseBase

    def __init__(self, address: int | None = None, count: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.address: Any = address
        self.count: Any = count

    def get_response_pdu_size(self) -> int:
        """Return how many bytes the PDU of the response has."""
        return int(2 + 2 * self.count)


class ReadHoldingRegistersResponse(ReadRegistersResponseBase):
    """03: values of holding registers."""

    function_code = 3


class ReadHoldingRegistersRequest(ReadRegistersRequestBase):
    """03: asks for holding registers."""

    function_code = 3
    response_class = ReadHoldingRegistersResponse


class ReadInputRegistersResponse(ReadRegistersResponseBase):
    """04: values of input registers."""

    function_code = 4
    _layout = 4


class ReadInputRegistersRequest(ReadRegistersRequestBase):
    """04: asks for input registers."""

    function_code = 4
    _layout = 4
    response_class = ReadInputRegistersResponse


class WriteSingleRegisterResponse(StandardResponse):
    """06: the request's echo."""

    function_code = 6
    _fields = names(address="address", value="value")
    _text = "WriteRegisterResponse {0.address} => {0.value}"
    _rtu_frame_size = 8

    def __init__(self, address: int | None = None, value: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.address: Any = address
        self.value: Any = value


class WriteSingleRegisterRequest(StandardRequest):
    """06: writes ``value``, 0..65535, to the holding register at wire address ``address``; with ``skip_encode`` it is two bytes."""

    function_code = 6
    _fields = names(address="address", value="value")
    _text = "WriteRegisterRequest {0.address}"
    _rtu_frame_size = 8
    response_class = WriteSingleRegisterResponse

    def __init__(self, address: int | None = None, value: int | bytes | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.address: Any = address
        self.value: Any = value

    def get_response_pdu_size(self) -> int:
        """Return how many bytes the PDU of the response has."""
        return 5

    def _to_fields(self) -> dict[str, Any]:
        value = self.value
        if self.skip_encode and isinstance(value, bytes):
            value, = words_of(value)
        return {"address": self.address, "value": value}


class WriteMultipleRegistersResponse(StandardResponse):
    """16: how many registers were written, from where on."""

    function_code = 16
    _fields = names(address="address", count="quantity")
    _text = "WriteMultipleRegisterResponse ({0.address},{0.count})"
    _rtu_frame_size = 8

    def __init__(self, address: int | None = None, count: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.address: Any = address
        self.count: Any = count


class WriteMultipleRegistersRequest(StandardRequest):
    """16: writes ``values``, 1..123 registers (or a single one), from wire address ``address`` on.

    With ``skip_encode`` the values are bytes, two each, as a payload builder's ``build`` returns them.
    """

    function_code = 16
    _fields = names(address="address", values="registers")
    _text = "WriteMultipleRegisterRequest {0.address} => {0.count}"
    _rtu_byte_count_pos = 6
    response_class = WriteMultipleRegistersResponse

    def __init__(self, address: int | None = None, values: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.address: Any = address
        self.values: Any = values if hasattr(values, "__iter__") else listed(values)

    @derived
    def count(self) -> int:
        """How many registers the values take."""
        return len(self.values)

    @derived
    def byte_count(self) -> int:
        """How many bytes the values take."""
        return 2 * len(self.values)

    def get_response_pdu_size(self) -> int:
        """Return how many bytes the PDU of the response has."""
        return 5

    def _to_fields(self) -> dict[str, Any]:
        values = listed(self.values)
        if self.skip_encode and all(isinstance(value, bytes) for value in values):
            values = words_of(b"".join(values))
        return {"address": self.address, "registers": values}


class MaskWriteRegisterResponse(StandardResponse):
    """22: the request's echo."""

    function_code = 22
    _fields = names(address="address", and_mask="and_mask", or_mask="or_mask")
    _rtu_frame_size = 10

    def __init__(self, address: int = 0x0000, and_mask: int = 0xFFFF, or_mask: int = 0x0000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.address = address
        self.and_mask = and_mask
        self.or_mask = or_mask


class MaskWriteRegisterRequest(StandardRequest):
    """22: makes the holding register at wire address ``address`` (current & and_mask) | (or_mask & ~and_mask)."""

    function_code = 22
    _fields = MaskWriteRegisterResponse._fields
    _rtu_frame_size = 10
    response_class = MaskWriteRegisterResponse

    def __init__(self, address: int = 0x0000, and_mask: int = 0xFFFF, or_mask: int = 0x0000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.address = address
        self.and_mask = and_mask
        self.or_mask = or_mask


class ReadWriteMultipleRegistersResponse(ReadRegistersResponseBase):
    """23: values of the registers read."""

    function_code = 23
    _layout = 23

    def __str__(self) -> str:
        return f"ReadWriteNRegisterResponse ({len(self.registers)})"


class ReadWriteMultipleRegistersRequest(StandardRequest):
    """23: writes, then reads holding registers.

    :param kwargs: ``read_address``, ``read_count`` (1..125), ``write_address``, ``write_registers`` (1..121 values, or a single one)
    """

    function_code = 23
    _fields = names(read_address="address", read_count="quantity", write_address="write_address", write_registers="registers")
    _text = "ReadWriteNRegisterRequest R({0.read_address},{0.read_count}) W({0.write_address},{0.write_count})"
    _rtu_byte_count_pos = 10
    response_class = ReadWriteMultipleRegistersResponse

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.read_address: Any = kwargs.get("read_address", 0)
        self.read_count: Any = kwargs.get("read_count", 0)
        self.write_address: Any = kwargs.get("write_address", 0)
        registers = kwargs.get("write_registers")
        self.write_registers: Any = registers if hasattr(registers, "__iter__") else listed(registers)

    @derived
    def write_count(self) -> int:
        """How many registers are written."""
        return len(self.write_registers)

    @derived
    def write_byte_count(self) -> int:
        """How many bytes they take."""
        return 2 * len(self.write_registers)

    def get_response_pdu_size(self) -> int:
        """Return how many bytes the PDU of the response has."""
        return int(2 + 2 * self.read_count)

    def _to_fields(self) -> dict[str, Any]:
        return super()._to_fields() | {"registers": listed(self.write_registers)}
