"""Message objects: every public function's request and response against literal bytes, and what executing them gives."""

import pytest

from mbcore import ModbusSequentialDataBlock, ModbusSlaveContext
from mbcore.control import ModbusControlBlock, ModbusDeviceIdentification
from mbcore.errors import ConfigurationError, FramingError, NotImplementedException, RequestError
from mbcore.execute import execute_request
from mbcore.messages import bits, diagnostics, files, identification, pdu, registers, status

FileRecord = files.FileRecord
GROUP = FileRecord(file_number=4, record_number=7, record_data=bytes.fromhex("06AF04BE100D"))

# Bytes after the function code, most from the examples of AP 6.
MESSAGES = [
    (bits.ReadCoilsRequest(0x13, 0x13), "0013 0013"),
    (bits.ReadCoilsResponse([1, 0, 1, 1, 0, 0, 1, 1]), "01 CD"),
    (bits.ReadDiscreteInputsRequest(0xC4, 0x16), "00C4 0016"),
    (bits.ReadDiscreteInputsResponse([True] * 8), "01 FF"),
    (bits.WriteSingleCoilRequest(0xAC, True), "00AC FF00"),
    (bits.WriteSingleCoilRequest(0xAC, False), "00AC 0000"),
    (bits.WriteSingleCoilResponse(0xAC, 1), "00AC FF00"),
    (bits.WriteMultipleCoilsRequest(0x13, [1, 0, 1]), "0013 0003 01 05"),
    (bits.WriteMultipleCoilsRequest(0x13, 1), "0013 0001 01 01"),
    (bits.WriteMultipleCoilsResponse(0x13, 10), "0013 000A"),
    (registers.ReadHoldingRegistersRequest(0x6B, 3), "006B 0003"),
    (registers.ReadHoldingRegistersResponse([0x22B, 0, 0x64]), "06 022B 0000 0064"),
    (registers.ReadInputRegistersRequest(8, 1), "0008 0001"),
    (registers.ReadInputRegistersResponse([10]), "02 000A"),
    (registers.WriteSingleRegisterRequest(1, 3), "0001 0003"),
    (registers.WriteSingleRegisterResponse(1, 3), "0001 0003"),
    (registers.WriteMultipleRegistersRequest(1, [10, 0x102]), "0001 0002 04 000A 0102"),
    (registers.WriteMultipleRegistersResponse(1, 2), "0001 0002"),
    (registers.MaskWriteRegisterRequest(4, 0xF2, 0x25), "0004 00F2 0025"),
    (registers.MaskWriteRegisterResponse(4, 0xF2, 0x25), "0004 00F2 0025"),
    (registers.ReadWriteMultipleRegistersRequest(read_address=3, read_count=6, write_address=0xE, write_registers=[0xFF] * 3),
     "0003 0006 000E 0003 06 00FF 00FF 00FF"),
    (registers.ReadWriteMultipleRegistersResponse([0xFE, 0xACD]), "04 00FE 0ACD"),
    (status.ReadExceptionStatusRequest(), ""),
    (status.ReadExceptionStatusResponse(0x6D), "6D"),
    (status.GetCommEventCounterRequest(), ""),
    (status.GetCommEventCounterResponse(0x108), "0000 0108"),
    (status.GetCommEventLogRequest(), ""),
    (status.GetCommEventLogResponse(event_count=0x108, message_count=0x121, events=[0x20, 0]), "08 0000 0108 0121 20 00"),
    (status.ReportSlaveIdRequest(), ""),
    (status.ReportSlaveIdResponse(b"AC", True), "03 4143 FF"),
    (files.ReadFileRecordRequest([FileRecord(file_number=4, record_number=1, record_length=2)]), "07 06 0004 0001 0002"),
    (files.ReadFileRecordResponse([FileRecord(record_data=b"\x0d\xfe\x00\x20"), FileRecord(record_data=b"\x33\xcd\x00\x40")]),
     "0C 05 06 0DFE 0020 05 06 33CD 0040"),
    (files.WriteFileRecordRequest([GROUP]), "0D 06 0004 0007 0003 06AF 04BE 100D"),
    (files.WriteFileRecordResponse([GROUP]), "0D 06 0004 0007 0003 06AF 04BE 100D"),
    (files.ReadFifoQueueRequest(0x4DE), "04DE"),
    (files.ReadFifoQueueResponse([0x1B8, 0x1284]), "0006 0002 01B8 1284"),
    (identification.ReadDeviceInformationRequest(1, 0), "0E 01 00"),
    (identification.ReadDeviceInformationResponse(1, {0: "AC", 1: b"X"}), "0E 01 83 00 00 02 00 02 4143 01 01 58"),
    (diagnostics.ReturnQueryDataRequest([0xA537, 1]), "0000 A537 0001"),
    (diagnostics.ReturnQueryDataResponse(0xA537), "0000 A537"),
    (diagnostics.RestartCommunicationsOptionRequest(True), "0001 FF00"),
    (diagnostics.ChangeAsciiInputDelimiterRequest(0x2100), "0003 2100"),
    (diagnostics.ReturnBusMessageCountRequest(), "000B 0000"),
    (diagnostics.ReturnSlaveNoReponseCountResponse(3), "000F 0003"),
]


def data(text: str) -> bytes:
    return bytes.fromhex(text)



each_message = pytest.mark.parametrize(("message", "text"), MESSAGES, ids=[type(message).__name__ for message, _ in MESSAGES])


@pytest.fixture
def slave():
    blocks = {name: ModbusSequentialDataBlock(0, [0] * 20) for name in ("di", "co", "hr", "ir")}
    return ModbusSlaveContext(**blocks, zero_mode=True, files={4: [10, 11, 12, 13]}, fifos={0x4DE: [1, 2]})


@each_message
def test_a_message_encodes_to_the_bytes_of_the_specification(message, text):
    assert message.encode() == data(text)


@each_message
def test_a_decoded_message_encodes_to_the_same_bytes(message, text):
    twin = type(message)()
    twin.decode(data(text))
    assert twin.encode() == data(text)
    assert str(twin)


@each_message
def test_the_rtu_frame_is_as_long_as_the_class_says(message, text):
    frame = bytes([17, message.function_code]) + data(text) + b"\xc0\xc1"
    if not isinstance(message, (diagnostics.DiagnosticStatusRequest, diagnostics.DiagnosticStatusResponse)):
        assert type(message).calculateRtuFrameSize(frame) == len(frame)


def test_a_frame_whose_end_cannot_be_told_says_so():
    measure = identification.ReadDeviceInformationResponse.calculateRtuFrameSize
    with pytest.raises(IndexError):
        measure(bytes.fromhex("04 2B 0E 01 81 00 00 01 00"))
    with pytest.raises(FramingError):
        measure(bytes.fromhex("04 2B 0D 01"))


def test_decoding_replaces_what_was_there():
    response = registers.ReadWriteMultipleRegistersResponse([1, 2, 3])
    response.decode(data("02 0009"))
    assert response.registers == [9]


def test_keywords_head_the_message_and_its_response(slave):
    request = bits.ReadCoilsRequest(0, 1, unit=3, transaction=7, protocol=0, skip_encode=False)
    response = request.execute(slave)
    assert (request.unit_id, request.transaction_id, request.protocol_id) == (3, 7, 0)
    assert (response.unit_id, response.transaction_id) == (3, 7)


def test_bits_have_helpers(slave):
    slave.setValues(1, 0, [True, False, True])
    response = bits.ReadCoilsRequest(0, 3).execute(slave)
    assert response.bits == [True, False, True]
    response.setBit(1, 1)
    response.resetBit(0)
    assert [response.getBit(n) for n in range(3)] == [False, True, True]


@pytest.mark.parametrize("request_", [
    bits.WriteSingleCoilRequest(2, True), bits.WriteMultipleCoilsRequest(2, [True]),
    registers.WriteSingleRegisterRequest(2, 1), registers.WriteMultipleRegistersRequest(2, [1]),
], ids=lambda request: type(request).__name__)
def test_a_write_arrives_in_the_store(slave, request_):
    assert not request_.execute(slave).isError()
    assert slave.getValues(request_.function_code, 2, 1) == [1]


def test_mask_write_follows_the_specification(slave):
    slave.setValues(3, 4, [0x12])
    registers.MaskWriteRegisterRequest(4, 0xF2, 0x25).execute(slave)
    assert slave.getValues(3, 4, 1) == [0x17]


def test_read_write_writes_first(slave):
    fields = {"read_address": 0, "read_count": 2, "write_address": 1, "write_registers": [5]}
    response = registers.ReadWriteMultipleRegistersRequest(**fields).execute(slave)
    assert response.registers == [0, 5]
    assert response.getRegister(1) == 5


def test_files_and_queues_are_real(slave):
    assert not files.WriteFileRecordRequest([FileRecord(file_number=4, record_number=1, record_data=b"\0\x63")]).execute(slave).isError()
    response = files.ReadFileRecordRequest([FileRecord(file_number=4, record_number=0, record_length=2)]).execute(slave)
    assert response.records == [FileRecord(file_number=4, record_number=0, record_data=b"\0\x0a\0\x63")]
    assert files.ReadFifoQueueRequest(0x4DE).execute(slave).values == [1, 2]


@pytest.mark.parametrize(("request_", "code"), [
    (bits.ReadCoilsRequest(0, 2001), 3),
    (registers.ReadHoldingRegistersRequest(0, 0), 3),
    (registers.ReadHoldingRegistersRequest(15, 10), 2),
    (registers.ReadHoldingRegistersRequest(-1, 1), 2),
    (registers.WriteSingleRegisterRequest(0, 0x10000), 3),
    (registers.WriteSingleRegisterRequest(99, 1), 2),
    (registers.WriteMultipleRegistersRequest(0, []), 3),
    (files.ReadFileRecordRequest(), 3),
    (files.ReadFifoQueueRequest(1), 2),
    (identification.ReadDeviceInformationRequest(5), 3),
    (identification.ReadDeviceInformationRequest(4, 0x90), 2),
    (diagnostics.GetClearModbusPlusRequest(3), 1),
    (diagnostics.ReturnIopOverrunCountRequest(), 1),
], ids=repr)
def test_what_is_refused_says_why(slave, request_, code):
    response = request_.execute(slave)
    assert response.isError()
    assert (response.function_code, response.exception_code) == (request_.function_code | 0x80, code)


def test_assigned_counts_must_agree_with_the_values(slave):
    request = registers.WriteMultipleRegistersRequest(0, [1, 2])
    request.values = [1, 2, 3]
    assert (request.count, request.byte_count) == (3, 6)
    request.count = 5
    with pytest.raises(ConfigurationError, match="count of WriteMultipleRegistersRequest is 5, but its values make it 3"):
        request.encode()
    assert request.execute(slave).exception_code == 3
    request.decode(data("0000 0001 02 0007"))
    assert request.count == 1


def test_skip_encode_takes_a_builders_bytes(slave):
    assert registers.WriteSingleRegisterRequest(1, b"\x12\x34", skip_encode=True).encode() == data("0001 1234")
    request = registers.WriteMultipleRegistersRequest(1, [b"\x12\x34", b"\x56\x78"], skip_encode=True)
    assert request.encode() == data("0001 0002 04 1234 5678")
    request.execute(slave)
    assert slave.getValues(3, 1, 2) == [0x1234, 0x5678]


def test_bytes_that_are_no_request_are_refused_when_executed(slave):
    request = bits.WriteSingleCoilRequest(1, True)
    request.decode(data("0001 1234"))
    assert request.execute(slave).exception_code == 3
    assert slave.getValues(1, 1, 1) == [False]
    request.decode(data("0001 FF00"))
    assert not request.execute(slave).isError()


def test_bytes_that_are_no_response_raise():
    with pytest.raises(FramingError):
        registers.ReadHoldingRegistersResponse().decode(b"\x04\0\1")


def test_diagnostics_speak_of_the_requests_control():
    control = ModbusControlBlock()
    control.Counter.BusMessage = 12
    control.diagnostic_register = 0x0102
    values = {}
    for kind in (diagnostics.ReturnBusMessageCountRequest, diagnostics.ReturnDiagnosticRegisterRequest):
        request = kind()
        request.control = control
        values[kind.sub_function_code] = request.execute().message
    assert values == {11: 12, 2: 0x0102}


def test_listen_only_is_not_answered():
    request = diagnostics.ForceListenOnlyModeRequest()
    request.control = ModbusControlBlock()
    assert not request.execute().should_respond
    assert request.control.ListenOnly


def test_query_data_of_any_length_comes_back():
    response = diagnostics.ReturnQueryDataRequest([1, 2, 3]).execute()
    assert response.message == [1, 2, 3]


def test_identity_and_server_id_are_the_controls():
    control = ModbusControlBlock(ModbusDeviceIdentification({0: "ACME", 1: "X1", 2: "1.0"}))
    request = identification.ReadDeviceInformationRequest()
    request.control = control
    assert request.execute().information == {0: b"ACME", 1: b"X1", 2: b"1.0"}
    request = status.ReportSlaveIdRequest()
    request.control = control
    assert (request.execute().identifier, request.execute().status) == (b"ACME-X1-1.0", True)


def test_objects_that_do_not_fit_follow_later():
    response = identification.ReadDeviceInformationResponse(3, {0: "a" * 200, 0x80: "b" * 100})
    twin = identification.ReadDeviceInformationResponse()
    twin.decode(response.encode())
    assert (list(twin.information), twin.more_follows, twin.next_object_id, twin.number_of_objects) == ([0], 0xFF, 0x80, 1)


def test_a_message_does_what_the_server_does(slave):
    control = ModbusControlBlock()
    request = registers.ReadHoldingRegistersRequest(0, 3)
    request.control = control
    response = request.execute(slave)
    assert bytes([response.function_code]) + response.encode() == execute_request(slave, control, b"\x03" + request.encode())


class Refusing:
    def validate(self, fx, address, count=1):
        return True

    def getValues(self, fx, address, count=1):
        raise RequestError(6) if address else KeyError("sensor")


def test_what_a_context_raises_is_an_answer_and_a_report():
    reports = []
    request = registers.ReadHoldingRegistersRequest(1, 1)
    request.report = lambda sentence, error: reports.append(error)
    assert request.execute(Refusing()).exception_code == 6
    request.address = 0
    assert request.execute(Refusing()).exception_code == 4
    assert [type(error) for error in reports] == [KeyError]


def test_exceptions_have_names_and_text():
    response = pdu.ModbusRequest.doException(bits.ReadCoilsRequest(0, 1, unit=5), pdu.ModbusExceptions.IllegalAddress)
    assert str(response) == "Exception Response(129, 1, IllegalAddress)"
    assert (response.unit_id, response.encode()) == (5, b"\x02")
    assert pdu.ModbusExceptions.decode(7) is None


def test_bases_ask_for_what_a_subclass_must_have():
    for message in (pdu.ModbusRequest(), pdu.ModbusResponse()):
        with pytest.raises(NotImplementedException):
            message.encode()
        with pytest.raises(NotImplementedException):
            message.decode(b"")
    with pytest.raises(NotImplementedException):
        pdu.ModbusRequest().execute(None)
    with pytest.raises(NotImplementedException, match="_rtu_frame_size"):
        pdu.ModbusRequest.calculateRtuFrameSize(b"")
