"""Bytes -> message objects, with a user's own classes among them."""

import struct

import pytest
from adu import run_python
from hypothesis import given
from hypothesis import strategies as st

from mbcore import ModbusSequentialDataBlock, ModbusSlaveContext
from mbcore.control import ModbusControlBlock
from mbcore.errors import MessageRegisterException, RequestError
from mbcore.execute import execute_request
from mbcore.messages import bits, diagnostics, identification, pdu, registers
from mbcore.messages.decoders import ClientDecoder, ServerDecoder


class CustomResponse(pdu.ModbusResponse):
    """A user's response, as pymodbus' users write them."""

    function_code = 55
    _rtu_byte_count_pos = 2

    def __init__(self, values=None, **kwargs):
        pdu.ModbusResponse.__init__(self, **kwargs)
        self.values = values or []

    def encode(self):
        return bytes([2 * len(self.values)]) + b"".join(struct.pack(">H", value) for value in self.values)

    def decode(self, data):
        self.values = list(struct.unpack(f">{data[0] // 2}H", data[1:]))


class CustomRequest(pdu.ModbusRequest):
    """A user's request: 16 values of a table."""

    function_code = 55
    _rtu_frame_size = 8

    def __init__(self, address=None, **kwargs):
        pdu.ModbusRequest.__init__(self, **kwargs)
        self.address = address
        self.count = 16

    def encode(self):
        return struct.pack(">HH", self.address, self.count)

    def decode(self, data):
        self.address, self.count = struct.unpack(">HH", data)

    def execute(self, context):
        if not 1 <= self.count <= 0x7D0:
            return self.doException(pdu.ModbusExceptions.IllegalValue)
        if not context.validate(3, self.address, self.count):
            return self.doException(pdu.ModbusExceptions.IllegalAddress)
        return CustomResponse(context.getValues(3, self.address, self.count))


@pytest.fixture
def slave():
    return ModbusSlaveContext(hr=ModbusSequentialDataBlock(0, list(range(20))), zero_mode=True)


@pytest.fixture
def server():
    return ServerDecoder()


@pytest.mark.parametrize(("text", "kind"), [
    ("01 0013 0013", bits.ReadCoilsRequest),
    ("03 006B 0003", registers.ReadHoldingRegistersRequest),
    ("08 0000 A537", diagnostics.ReturnQueryDataRequest),
    ("08 000B 0000", diagnostics.ReturnBusMessageCountRequest),
    ("08 0063 0000", diagnostics.DiagnosticStatusRequest),
    ("2B 0E 01 00", identification.ReadDeviceInformationRequest),
    ("63 0000", pdu.IllegalFunctionRequest),
])
def test_a_request_gets_its_class(server, text, kind):
    message = bytes.fromhex(text)
    request = server.decode(message)
    assert type(request) is kind
    if message[0] != 0x63:
        assert bytes([request.function_code]) + request.encode() == message


@pytest.mark.parametrize(("text", "kind"), [
    ("01 01 CD", bits.ReadCoilsResponse),
    ("08 000F 0003", diagnostics.ReturnSlaveNoResponseCountResponse),
    ("83 02", pdu.ExceptionResponse),
    ("63 00", type(None)),
    ("03 04 0001", type(None)),
    ("", type(None)),
])
def test_a_response_gets_its_class(text, kind):
    assert type(ClientDecoder().decode(bytes.fromhex(text))) is kind


def test_classes_are_looked_up(server):
    assert server.lookupPduClass(3) is registers.ReadHoldingRegistersRequest
    assert server.lookupPduClass(8) is diagnostics.DiagnosticStatusRequest
    assert ClientDecoder().lookupPduClass(8) is diagnostics.DiagnosticStatusResponse
    assert server.lookupPduClass(99) is pdu.ExceptionResponse


@given(message=st.binary(min_size=0, max_size=260) | st.tuples(
    st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 15, 16, 17, 20, 21, 22, 23, 24, 43]), st.binary(max_size=30),
).map(lambda parts: bytes([parts[0]]) + parts[1]))
def test_no_bytes_raise_and_the_answer_is_the_servers(message):
    slave = ModbusSlaveContext(hr=ModbusSequentialDataBlock(0, [0] * 20), zero_mode=True, files={1: [1, 2]})
    twin = ModbusSlaveContext(hr=ModbusSequentialDataBlock(0, [0] * 20), zero_mode=True, files={1: [1, 2]})
    ClientDecoder().decode(message)
    request = ServerDecoder().decode(message)
    if not message:
        assert request is None
        return
    if len(message) > 253:
        return
    request.control = ModbusControlBlock()
    response = request.execute(slave)
    answer = bytes([response.function_code]) + response.encode()
    expected = execute_request(twin, ModbusControlBlock(), message)
    if response.should_respond and request.function_code < 0x80:
        assert answer == expected


def test_a_users_request_is_decoded_and_executed(server, slave):
    server.register(CustomRequest)
    client = ClientDecoder()
    client.register(CustomResponse)
    request = server.decode(b"\x37" + CustomRequest(2).encode())
    response = request.execute(slave)
    assert client.decode(bytes([response.function_code]) + response.encode()).values == list(range(2, 18))
    request.address = 9
    assert request.execute(slave).encode() == b"\x02"


def test_registering_is_for_one_decoder(server):
    server.register(CustomRequest)
    assert type(ServerDecoder().decode(b"\x37\0\0\0\1")) is pdu.IllegalFunctionRequest


def test_bytes_that_a_users_class_cannot_decode_are_an_illegal_value(server, slave):
    reports = []
    server.report = lambda sentence, error: reports.append((sentence, type(error)))
    server.register(CustomRequest)
    assert server.decode(b"\x37\0").execute(slave).exception_code == 3
    assert reports == [("CustomRequest.decode() failed", struct.error)]


def test_a_users_class_names_its_own_exception_code(server, slave):
    class Busy(CustomRequest):
        def decode(self, data):
            raise RequestError(6)

    server.register(Busy)
    assert server.decode(b"\x37\0\0\0\1").execute(slave).exception_code == 6


def test_a_users_class_can_take_the_place_of_a_public_one(server):
    class Coils(bits.ReadCoilsRequest):
        """The same, by the user."""

    server.register(Coils)
    assert type(server.decode(b"\1\0\0\0\1")) is Coils
    assert type(server.decode(b"\2\0\0\0\1")) is bits.ReadDiscreteInputsRequest


def test_a_users_sub_function_leaves_the_others(server):
    class Own(diagnostics.DiagnosticStatusSimpleRequest):
        sub_function_code = 0x60

        def execute(self, context=None):
            return diagnostics.ReturnQueryDataResponse(7)

    server.register(Own)
    assert server.decode(bytes.fromhex("08 0060 0000")).execute().message == [7]
    assert type(server.decode(bytes.fromhex("08 0000 0000"))) is diagnostics.ReturnQueryDataRequest


def test_a_public_layout_under_another_function_code(slave):
    class Fast(registers.ReadRegistersRequestBase):
        function_code = 66

    assert Fast(1, 2).encode() == b"\0\1\0\2"
    assert (Fast(1, 2).execute(slave).function_code, Fast(1, 2).execute(slave).registers) == (66, [1, 2])
    assert Fast(19, 2).execute(slave).function_code == 66 | 0x80


@pytest.mark.parametrize(("members", "sentence"), [
    ({"function_code": 70}, "give it _rtu_frame_size, _rtu_byte_count_pos or calculateRtuFrameSize()"),
    ({"_rtu_frame_size": 8}, "give it a function_code, 1..127, instead of None"),
    ({"_rtu_frame_size": 8, "function_code": 0x80}, "give it a function_code, 1..127, instead of 128"),
])
def test_a_class_that_cannot_serve_is_refused_in_one_sentence(server, members, sentence):
    kind = type("Lacking", (pdu.ModbusRequest,), members)
    with pytest.raises(MessageRegisterException, match="Lacking can't be registered") as caught:
        server.register(kind)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(("member", "value", "limits"), [
    *(("_rtu_frame_size", value, "4..256") for value in (-1, 0, 3, 257, 1 << 40, 8.0, "8", True)),
    *(("_rtu_byte_count_pos", value, "2..253") for value in (-1, 0, 1, 254, 1 << 40, 2.0, "2", True)),
])
def test_a_size_that_fits_no_rtu_frame_is_refused_in_one_sentence(server, member, value, limits):
    kind = type("Sized", (pdu.ModbusRequest,), {"function_code": 70, member: value})
    with pytest.raises(MessageRegisterException, match="Sized can't be registered") as caught:
        server.register(kind)
    assert f"give it a {member}, {limits}, instead of {value!r}" in str(caught.value)
    assert server.custom == {}


@pytest.mark.parametrize(("member", "value"), [
    ("_rtu_frame_size", 4), ("_rtu_frame_size", 256), ("_rtu_byte_count_pos", 2), ("_rtu_byte_count_pos", 253),
])
def test_a_size_that_fits_an_rtu_frame_is_taken(server, member, value):
    kind = type("Sized", (pdu.ModbusRequest,), {"function_code": 70, member: value})
    server.register(kind)
    assert server.custom == {70: kind}


def test_sizes_of_none_are_no_sizes(server):
    kind = type("Lacking", (pdu.ModbusRequest,), {"function_code": 70, "_rtu_frame_size": None, "_rtu_byte_count_pos": None})
    with pytest.raises(MessageRegisterException, match="give it _rtu_frame_size, _rtu_byte_count_pos or calculateRtuFrameSize"):
        server.register(kind)


@pytest.mark.parametrize("kind", [CustomResponse, object, None, 5])
def test_what_is_no_request_is_refused(server, kind):
    with pytest.raises(MessageRegisterException, match="derive it from ModbusRequest"):
        server.register(kind)


def test_an_own_frame_size_is_enough(server):
    class Sized(pdu.ModbusRequest):
        function_code = 70

        @classmethod
        def calculateRtuFrameSize(cls, buffer):
            return 9

    server.register(Sized)
    assert server.lookupPduClass(70).calculateRtuFrameSize(b"") == 9


def test_the_package_hands_on_its_classes_and_loads_them_only_when_asked():
    script = (
        "import sys, mbcore.messages as m; from mbcore.messages import trace\n"
        "assert 'mbcore.messages.standard' not in sys.modules\n"
        "from mbcore.messages import ReadCoilsRequest, ServerDecoder, ModbusRequest, FileRecord\n"
        "assert 'mbcore.messages.standard' in sys.modules\n"
        "assert not hasattr(m, 'NoSuchRequest')\n"
    )
    assert run_python(script) == ""
