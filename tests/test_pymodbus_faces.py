"""Old scripts' imports: every name that pymodbus' official examples take is there, and is the core's own."""

import importlib
import inspect
import pkgutil

import pytest
from adu import run_python

import mbcore
import mbcore.pymodbus
from mbcore import errors, server

# What examples of pymodbus 1.x and 2.x import.
IMPORTS = {
    "server.asynchronous": "StartTcpServer StartUdpServer StartSerialServer StopServer ModbusServerFactory ModbusTcpProtocol"
                           " ModbusUdpProtocol _is_main_thread",
    "server.async": "StartTcpServer StartUdpServer StartSerialServer StopServer ModbusServerFactory ModbusTcpProtocol ModbusUdpProtocol",
    "server": "StartTcpServer StartUdpServer StartSerialServer StopServer",
    "device": "ModbusDeviceIdentification ModbusControlBlock ModbusAccessControl ModbusCountersHandler ModbusPlusStatistics"
              " DeviceInformationFactory",
    "datastore": "ModbusSequentialDataBlock ModbusSparseDataBlock ModbusSlaveContext ModbusServerContext",
    "datastore.store": "BaseModbusDataBlock ModbusSequentialDataBlock ModbusSparseDataBlock",
    "datastore.context": "ModbusSlaveContext ModbusServerContext",
    "datastore.remote": "RemoteSlaveContext",
    "transaction": "ModbusSocketFramer ModbusRtuFramer ModbusAsciiFramer ModbusBinaryFramer ModbusTlsFramer",
    "framer": "ModbusFramer",
    "framer.socket_framer": "ModbusSocketFramer",
    "framer.rtu_framer": "ModbusRtuFramer",
    "framer.ascii_framer": "ModbusAsciiFramer",
    "framer.binary_framer": "ModbusBinaryFramer",
    "framer.tls_framer": "ModbusTlsFramer",
    "pdu": "ModbusRequest ModbusResponse ModbusExceptions ExceptionResponse IllegalFunctionRequest",
    "factory": "ServerDecoder ClientDecoder",
    "constants": "Defaults Endian ModbusStatus DeviceInformation MoreData ModbusPlusOperation",
    "payload": "BinaryPayloadBuilder BinaryPayloadDecoder",
    "interfaces": "IModbusSlaveContext IPayloadBuilder IModbusFramer IModbusDecoder Singleton",
    "exceptions": "ModbusException ModbusIOException ParameterException NoSuchSlaveException NotImplementedException ConnectionException"
                  " InvalidMessageReceivedException MessageRegisterException TimeOutException",
    "compat": "int2byte byte2int iteritems IS_PYTHON3",
    "utilities": "pack_bitstring unpack_bitstring computeCRC checkCRC computeLRC checkLRC make_byte_string",
    "version": "version",
    "events": "ModbusEvent RemoteReceiveEvent RemoteSendEvent EnteredListenModeEvent CommunicationRestartEvent",
    "bit_read_message": "ReadCoilsRequest ReadCoilsResponse ReadDiscreteInputsRequest ReadDiscreteInputsResponse",
    "bit_write_message": "WriteSingleCoilRequest WriteSingleCoilResponse WriteMultipleCoilsRequest WriteMultipleCoilsResponse",
    "register_read_message": "ReadHoldingRegistersRequest ReadHoldingRegistersResponse ReadInputRegistersRequest"
                             " ReadInputRegistersResponse ReadWriteMultipleRegistersRequest ReadWriteMultipleRegistersResponse",
    "register_write_message": "WriteSingleRegisterRequest WriteSingleRegisterResponse WriteMultipleRegistersRequest"
                              " WriteMultipleRegistersResponse MaskWriteRegisterRequest MaskWriteRegisterResponse",
    "diag_message": "ReturnQueryDataRequest RestartCommunicationsOptionRequest ForceListenOnlyModeRequest ClearCountersRequest",
    "file_message": "FileRecord ReadFileRecordRequest WriteFileRecordRequest ReadFifoQueueRequest",
    "other_message": "ReadExceptionStatusRequest GetCommEventCounterRequest GetCommEventLogRequest ReportSlaveIdRequest",
    "mei_message": "ReadDeviceInformationRequest ReadDeviceInformationResponse",
}
MODULES = sorted(module.name for module in pkgutil.walk_packages(mbcore.pymodbus.__path__, "mbcore.pymodbus."))


def face(name):
    # By its name in a text: that is the only way to ask for server.async.
    return importlib.import_module(f"mbcore.pymodbus.{name}")


@pytest.mark.parametrize("module", IMPORTS)
def test_the_names_of_the_examples_are_there(module):
    names = IMPORTS[module].split()
    assert [name for name in names if not hasattr(face(module), name)] == []
    assert [name for name in names if name not in face(module).__all__] == []


@pytest.mark.parametrize("module", MODULES)
def test_a_face_has_no_logic_of_its_own(module):
    own = [name for name, value in vars(importlib.import_module(module)).items()
           if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module]
    assert own == []


def test_the_names_are_the_cores():
    assert face("datastore").ModbusSlaveContext is mbcore.ModbusSlaveContext
    assert face("transaction").ModbusRtuFramer is face("framer.rtu_framer").ModbusRtuFramer
    assert issubclass(face("transaction").ModbusRtuFramer, (mbcore.ModbusRtuFramer, face("framer").ModbusFramer))
    assert face("device").ModbusDeviceIdentification is mbcore.ModbusDeviceIdentification
    assert face("server.asynchronous").StartTcpServer is server.StartTcpServer is face("server.async").StartTcpServer


def test_the_version_is_that_of_the_names():
    assert face("version").version.short() == mbcore.pymodbus.__version__ == "2.5.3"
    assert str(face("version").version) == "[pymodbus, version 2.5.3]"
    assert face("version").Version("x", 1, 2, 3, "rc1").short() == "1.2.3.rc1"


def test_data_and_values_import_no_twisted():
    script = ("import sys, mbcore.pymodbus, mbcore.pymodbus.datastore, mbcore.pymodbus.payload, mbcore.pymodbus.device\n"
              "sys.exit('twisted' in sys.modules)")
    assert run_python(script) == ""


@pytest.mark.parametrize("name", face("exceptions").__all__)
def test_exceptions_speak_as_pymodbus_does(name):
    exception = getattr(face("exceptions"), name)
    assert issubclass(exception, face("exceptions").ModbusException)
    assert str(exception("the reason")).startswith("Modbus Error: ")
    assert str(exception("the reason")).endswith("the reason")
    assert exception("the reason").string.endswith("the reason")
    assert exception("the reason").isError()
    assert str(exception())


def test_who_catches_pymodbus_base_catches_everything():
    for error in vars(errors).values():
        if inspect.isclass(error) and issubclass(error, Exception):
            assert issubclass(error, face("exceptions").ModbusException)


def test_sentences_of_mbcore_stay_as_they_are():
    assert str(errors.ConfigurationError("the value 70000 is not in 0..65535")) == "the value 70000 is not in 0..65535"
    assert str(errors.LineError("no such port")) == "no such port"


def test_an_input_error_keeps_the_function_code():
    error = errors.ModbusIOException("silence", 3)
    assert error.fcode == 3
    assert error.message == error.string == "[Input/Output] silence"


def test_helpers_of_the_python_2_age():
    compat, utilities = face("compat"), face("utilities")
    assert compat.int2byte(0xFF) == b"\xff"
    assert compat.byte2int(b"\x05"[0]) == 5
    assert compat.get_next(compat.iteritems({1: 2})) == (1, 2)
    assert list(compat.izip(compat.iterkeys({1: 2}), compat.itervalues({1: 2}))) == [(1, 2)]
    assert compat.is_installed("struct")
    assert not compat.is_installed("no_such_module")
    assert compat.unicode_string("ä") == "ä"
    assert compat.PYTHON_VERSION >= (3, 11)
    assert utilities.make_byte_string("ä") == "ä".encode()
    assert utilities.make_byte_string(b"\xff") == b"\xff"
    assert utilities.default([1]) == []
    assert utilities.default(7) == 0
    assert utilities.hexlify_packets(b"\x01\xff") == "0x1 0xff"
    assert utilities.hexlify_packets(None) == ""
    assert utilities.rtuFrameSize(b"\x01\x03\x04\0\0\0\0\0\0", 2) == 9


@pytest.mark.parametrize(("bits", "octets"), [
    ([], b""),
    ([True], b"\x01"),
    ([False, True, False, True], b"\x0a"),
    ([True] * 8, b"\xff"),
    ([False] * 8 + [True], b"\x00\x01"),
    ([1, 0, "x", None], b"\x05"),
])
def test_bits_are_packed_from_the_lowest(bits, octets):
    utilities = face("utilities")
    assert utilities.pack_bitstring(bits) == octets
    assert utilities.unpack_bitstring(octets)[:len(bits)] == [bool(bit) for bit in bits]
    assert len(utilities.unpack_bitstring(octets)) == 8 * len(octets)


def test_dict_property_finds_its_mapping_three_ways():
    shared = {"c": 3}

    class Owner:
        a = face("utilities").dict_property("held", "a")
        b = face("utilities").dict_property(lambda owner: owner.held, "b")
        c = face("utilities").dict_property(shared, "c")

        def __init__(self):
            self.held = {"a": 1, "b": 2}

    owner = Owner()
    assert (owner.a, owner.b, owner.c) == (1, 2, 3)
    owner.a = owner.b = owner.c = 0
    assert (owner.held, shared) == ({"a": 0, "b": 0}, {"c": 0})


def test_a_singleton_is_one_for_each_class():
    class One(face("interfaces").Singleton):
        pass

    class Other(One):
        pass

    assert One() is One()
    assert Other() is Other()
    assert One() is not Other()


@pytest.mark.parametrize(("interface", "call"), [
    ("IModbusDecoder", lambda it: it.decode(b"")),
    ("IModbusDecoder", lambda it: it.lookupPduClass(3)),
    ("IModbusFramer", lambda it: it.checkFrame()),
    ("IModbusFramer", lambda it: it.buildPacket(None)),
    ("IModbusSlaveContext", lambda it: it.validate(3, 0, 1)),
    ("IModbusSlaveContext", lambda it: it.setValues(3, 0, [1])),
    ("IPayloadBuilder", lambda it: it.build()),
])
def test_an_interface_names_what_is_missing(interface, call):
    class Mine(getattr(face("interfaces"), interface)):
        pass

    with pytest.raises(errors.NotImplementedException, match=r"Mine must implement \w+\("):
        call(Mine())


def test_an_interface_knows_the_table_of_a_function():
    context = face("interfaces").IModbusSlaveContext()
    assert "".join(context.decode(fx) for fx in (1, 5, 15, 2, 3, 6, 16, 22, 23, 4)) == "cccdhhhhhi"
    with pytest.raises(errors.ParameterException):
        context.decode(20)


def test_transaction_managers_keep_requests():
    class Request:
        transaction_id = 7

    first, second = Request(), Request()
    by_number = face("transaction").DictTransactionManager(None)
    by_number.addTransaction(first)
    by_number.addTransaction(second, tid=8)
    assert list(by_number) == [7, 8]
    assert by_number.getTransaction(8) is second
    by_number.delTransaction(7)
    assert by_number.getTransaction(7) is None
    by_order = face("transaction").FifoTransactionManager(None)
    by_order.addTransaction(first)
    by_order.addTransaction(second)
    by_order.delTransaction(0)
    assert list(by_order) == [second]
    assert by_order.getTransaction(0) is second
    assert by_order.getTransaction(0) is None
    assert [by_order.getNextTID(), by_order.getNextTID()] == [1, 2]
    by_order.tid = 0xFFFF
    assert by_order.getNextTID() == 0


def test_states_of_a_client_have_names():
    state = face("utilities").ModbusTransactionState
    assert state.to_string(state.WAITING_FOR_REPLY) == "WAITING_FOR_REPLY"
    assert state.to_string(99) is None
