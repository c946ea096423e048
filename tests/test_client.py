"""The small client: requests and answers over every framing, and what it says when there is no answer."""

import contextlib
import errno
import os
import re
import socket
import ssl
import termios
import threading

import pytest
import serial
from live.ports import HOST, refusing_port

from mbcore import (
    ModbusAsciiFramer,
    ModbusBinaryFramer,
    ModbusRtuFramer,
    ModbusSequentialDataBlock,
    ModbusServerContext,
    ModbusSlaveContext,
    ModbusSocketFramer,
    ModbusTlsFramer,
)
from mbcore.errors import ConfigurationError, FramingError, LineError, RequestError
from mbcore.server import client as module
from mbcore.server import port
from mbcore.server.client import Client, client_tls, connect_serial, connect_tcp, connect_udp
from mbcore.session import Session
from mbcore.values import ORDERS, TYPES, from_registers, register_count, to_registers

PATIENCE = 10
FRAMERS = [ModbusSocketFramer, ModbusRtuFramer, ModbusAsciiFramer, ModbusBinaryFramer, ModbusTlsFramer]


class Wire:
    """A link to a session in this process that brings its answers in pieces."""

    broadcasts = False

    def __init__(self, framer, context, piece=3):
        self._session = Session(framer, context, ignore_missing_slaves=True)
        self._piece = piece
        self.coming = b""
        self.sent = []

    def send(self, data):
        self.sent.append(data)
        self.coming += self._session.receive(data, 0.0)

    def receive(self, timeout):
        piece, self.coming = self.coming[: self._piece], self.coming[self._piece :]
        return piece

    def close(self):
        self.sent.append(None)


@pytest.fixture
def slave():
    return ModbusSlaveContext(
        co=ModbusSequentialDataBlock(0, [False] * 100),
        di=ModbusSequentialDataBlock(0, [True, False] * 50),
        hr=ModbusSequentialDataBlock(0, list(range(200))),
        ir=ModbusSequentialDataBlock(0, list(range(1000, 1200))),
        zero_mode=True,
    )


@pytest.fixture
def context(slave):
    return ModbusServerContext(slaves={1: slave}, single=False)


@pytest.fixture(params=FRAMERS)
def client(request, context):
    if request.param is ModbusTlsFramer:
        # Without an address in the frame one unit answers for all, and without a length a frame is what one TLS record brings.
        wire = Wire(ModbusTlsFramer, ModbusServerContext(slaves=context[1], single=True), piece=1000)
    else:
        wire = Wire(request.param, context)
    return Client(wire, request.param, timeout=PATIENCE)


def test_every_table_is_read(client):
    assert client.read("di", 3, 5) == [0, 1, 0, 1, 0]
    assert client.read("hr", 10, 3) == [10, 11, 12]
    assert client.read("ir", 10, 2) == [1010, 1011]
    assert client.read("co", 0) == [0]


def test_no_more_bits_come_than_were_asked_for(client):
    assert client.read("di", 0, 9) == [1, 0, 1, 0, 1, 0, 1, 0, 1]


def test_coils_and_registers_are_written(client, slave):
    client.write("co", 1, [1])
    client.write("co", 5, [1, 0, 1])
    client.write("hr", 0, [65535])
    client.write("hr", 50, [7, 8, 9])
    assert client.read("co", 0, 8) == [0, 1, 0, 0, 0, 1, 0, 1]
    assert list(slave.getValues(3, 0, 1)) == [65535]
    assert list(slave.getValues(3, 50, 3)) == [7, 8, 9]


def test_one_value_goes_by_the_single_function_and_more_by_the_multiple_one(context):
    wire = Wire(ModbusSocketFramer, context)
    client = Client(wire, ModbusSocketFramer)
    client.write("co", 1, [1])
    client.write("co", 1, [1, 1])
    client.write("hr", 1, [1])
    client.write("hr", 1, [1, 1])
    assert [adu[7] for adu in wire.sent] == [5, 15, 6, 16]


def test_longest_read_and_write(client):
    assert client.read("hr", 0, 125) == list(range(125))
    client.write("hr", 0, [65535] * 123)
    assert client.read("hr", 0, 124) == [65535] * 123 + [123]


def test_exception_response_is_a_request_error_with_its_name(client):
    with pytest.raises(RequestError, match=r"unit 1 refuses: exception 02, illegal data address") as refused:
        client.read("hr", 199, 2)
    assert refused.value.exception_code == 2


def test_exception_code_without_a_name_is_said_as_a_number(context):
    class Refusing(ModbusSequentialDataBlock):
        def getValues(self, address, count=1):
            raise RequestError(0x77)

    slave = ModbusSlaveContext(hr=Refusing(0, [0] * 10), zero_mode=True)
    client = Client(Wire(ModbusRtuFramer, ModbusServerContext(slaves={1: slave}, single=False)), ModbusRtuFramer)
    with pytest.raises(RequestError, match=r"exception 77") as refused:
        client.read("hr", 0)
    assert refused.value.exception_code == 0x77


def test_any_function_can_be_asked(client):
    assert client.request(1, 22, address=4, and_mask=0xF2, or_mask=0x25)["or_mask"] == 0x25
    assert client.request(1, 8, sub_function=0, data=b"\xa5\x37")["data"] == b"\xa5\x37"


@pytest.mark.parametrize("framer", FRAMERS[:4])
def test_silence_is_a_timeout_that_names_the_unit(framer, context):
    client = Client(Wire(framer, context), framer, timeout=0.01)
    with pytest.raises(TimeoutError, match=r"unit 9 did not answer within 0.01 s"):
        client.read("hr", 0, unit_id=9)


def test_late_answer_to_an_earlier_request_is_not_taken(context):
    wire = Wire(ModbusSocketFramer, context, piece=1000)
    client = Client(wire, ModbusSocketFramer, timeout=PATIENCE)
    client.read("hr", 7)
    late = Session(ModbusSocketFramer, context).receive(wire.sent[0], 0.0)
    wire.coming = late
    assert client.read("hr", 8) == [8]


def test_answer_of_another_unit_is_not_taken(slave):
    both = ModbusServerContext(slaves={1: slave, 2: slave}, single=False)
    wire = Wire(ModbusRtuFramer, both, piece=1000)
    wire.coming = Session(ModbusRtuFramer, both).receive(module.build_request(ModbusRtuFramer, b"\x03\x00\x07\x00\x01", 2), 0.0)
    assert Client(wire, ModbusRtuFramer, timeout=PATIENCE).read("hr", 8, unit_id=1) == [8]


def test_transaction_identifiers_begin_again_after_65535(context):
    wire = Wire(ModbusSocketFramer, context, piece=1000)
    client = Client(wire, ModbusSocketFramer)
    client._transaction_id = 65534
    for _ in range(3):
        assert client.read("hr", 1) == [1]
    assert [adu[:2] for adu in wire.sent] == [b"\xff\xff", b"\x00\x01", b"\x00\x02"]


@pytest.mark.parametrize("answer", [b"HTTP/1.0 400 Bad Request\r\n\r\n", b"\x00\x01\x00\x00\x00\x04\x01\x03\x02\x00"])
def test_answer_that_is_no_modbus_is_a_framing_error(context, answer):
    wire = Wire(ModbusSocketFramer, context)
    client = Client(wire, ModbusSocketFramer, timeout=PATIENCE)
    wire.coming = answer
    with pytest.raises(FramingError, match="is no "):
        client.read("hr", 0)


def test_broadcast_is_sent_and_not_answered(context):
    wire = Wire(ModbusRtuFramer, context)
    wire.broadcasts = True
    client = Client(wire, ModbusRtuFramer, timeout=0.01)
    client.write("hr", 0, [5], unit_id=0)
    assert client.request(0, 6, address=1, value=2) == {}
    with pytest.raises(ConfigurationError, match="give the unit to read from"):
        client.read("hr", 0, unit_id=0)
    assert len(wire.sent) == 2


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda client: client.read("xr", 0), "'xr' is no table; use one of co, di, hr, ir"),
        (lambda client: client.write("ir", 0, [1]), "'ir' can't be written; use co"),
        (lambda client: client.read("hr", 0, 126), "1..125 addresses of hr, not 126"),
        (lambda client: client.read("di", 0, 2001), "1..2000 addresses of di, not 2001"),
        (lambda client: client.read("di", 0, 0), "1..2000 addresses of di, not 0"),
        (lambda client: client.read("hr", 65536), "address 65536 of function 3 is not a whole number 0..65535"),
        (lambda client: client.write("hr", 0, [65536]), "value 65536 of function 6 is not a whole number 0..65535"),
        (lambda client: client.write("hr", 0, [0] * 124), "the number of registers, 124 of function 16 is not a whole number 1..123"),
        (lambda client: client.write("co", 0, []), "the number of bits, 0 of function 15 is not a whole number 1..1968"),
    ],
)
def test_request_that_can_not_be_sent_is_named_and_nothing_is_sent(context, call, sentence):
    wire = Wire(ModbusSocketFramer, context)
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        call(Client(wire, ModbusSocketFramer))
    assert not wire.sent


def test_leaving_the_with_block_closes_the_link(context):
    wire = Wire(ModbusSocketFramer, context)
    with Client(wire, ModbusSocketFramer) as client:
        client.read("hr", 0)
    assert wire.sent[-1] is None


# ---- real sockets ----


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_nobody_listens_on_tcp():
    with refusing_port(socket.SOCK_STREAM) as port, pytest.raises(LineError, match=f"{HOST}:{port}: connection refused"):
        connect_tcp(HOST, port)


def test_nobody_listens_on_udp():
    with (
        refusing_port(socket.SOCK_DGRAM) as port,
        connect_udp(HOST, port) as client,
        pytest.raises(LineError, match=f"{HOST}:{port}: connection refused"),
    ):
        client.read("hr", 0)


@pytest.mark.parametrize("connect", [connect_tcp, connect_udp])
def test_host_that_is_none_is_named(connect):
    with pytest.raises(LineError, match=r"no.such.host.invalid:502: there is no such host"):
        connect("no.such.host.invalid")


def test_connection_that_the_server_closes_is_named(listener):
    host, port = listener.getsockname()
    with connect_tcp(host, port) as client:
        connection, _ = listener.accept()
        with connection:
            connection.shutdown(socket.SHUT_WR)
            with pytest.raises(LineError, match=f"{host}:{port} closed the connection without an answer"):
                client.read("hr", 0)


def test_server_that_says_nothing_runs_into_the_timeout(listener):
    host, port = listener.getsockname()
    with connect_tcp(host, port, timeout=0.01) as client, pytest.raises(TimeoutError, match=r"did not answer within 0\.01 s"):
        client.read("hr", 0)


def test_server_that_speaks_no_tls_is_named(listener):
    host, port = listener.getsockname()

    def answer():
        connection, _ = listener.accept()
        # With something unread it would be reset, perhaps before it is read there.
        with connection, contextlib.suppress(ConnectionResetError):
            connection.recv(1)
            connection.sendall(b"HTTP/1.0 400\r\n\r\n")
            while connection.recv(1000):
                pass

    server = threading.Thread(target=answer)
    server.start()
    # The second from OpenSSL 3.2 on.
    with pytest.raises(LineError, match=f"{host}:{port}: TLS failed: .*(wrong version number|record layer failure)"):
        connect_tcp(host, port, timeout=PATIENCE, tls=client_tls())
    server.join()


def test_serial_port_that_is_none_is_named():
    with pytest.raises(LineError, match=r"there is no serial port /dev/no-such-port"):
        connect_serial("/dev/no-such-port")


def test_device_that_is_no_serial_port_is_named():
    with pytest.raises(LineError, match="/dev/null is not a serial port: choose a serial device"):
        connect_serial("/dev/null")


def test_serial_port_is_for_one_program_at_a_time(pseudo_terminal):
    with connect_serial(pseudo_terminal), pytest.raises(LineError, match=f"{pseudo_terminal} is in use by another program"):
        connect_serial(pseudo_terminal)


def test_speed_that_is_none_is_named(pseudo_terminal):
    with pytest.raises(ConfigurationError, match=f"{pseudo_terminal} cannot be set up: .*-1"):
        connect_serial(pseudo_terminal, baudrate=-1)


def assert_opened(client):
    """Nobody answers on its line."""
    with client, pytest.raises(TimeoutError, match="did not answer within"):
        client.read("hr", 0)


def test_pseudo_terminal_opens_with_a_parity_that_it_does_not_have_again_and_again(pseudo_terminal):
    for bytesize in (8, 7) * 3:
        assert_opened(connect_serial(pseudo_terminal, parity="E", bytesize=bytesize, timeout=0.01))


def test_port_opens_where_there_is_no_termios(pseudo_terminal, monkeypatch):
    monkeypatch.setattr(port, "termios", None)
    assert_opened(connect_serial(pseudo_terminal, parity="N", timeout=0.01))


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOENT, "there is no serial port /dev/ttyX: plug the adapter in"),
        (errno.EACCES, "/dev/ttyX is not permitted to this user: run `sudo usermod -aG dialout"),
        (errno.EBUSY, "/dev/ttyX is in use by another program: stop it"),
    ],
)
def test_port_that_does_not_open_is_named_with_the_way_out(monkeypatch, number, sentence):
    def refuse(*_, **__):
        raise serial.SerialException(number, "could not open port")

    monkeypatch.setattr("serial.Serial", refuse)
    with pytest.raises(LineError, match=sentence) as refused:
        connect_serial("/dev/ttyX")
    assert refused.value.errno == number


def test_driver_that_refuses_the_settings_is_a_sentence(pseudo_terminal, monkeypatch):
    monkeypatch.setattr("termios.tcsetattr", refuse)
    monkeypatch.setattr("os.path.realpath", lambda path: "/dev/ttyS0")
    with pytest.raises(ConfigurationError, match=r"its driver refuses 19200 8E1"):
        connect_serial(pseudo_terminal)


def refuse(*_):
    raise termios.error(22, "Invalid argument")


@pytest.fixture
def pseudo_terminal():
    ends = os.openpty()
    yield os.ttyname(ends[1])
    for end in ends:
        os.close(end)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"cafile": "none.pem"}, "none.pem can't be used: no such file or directory"),
        ({"cafile": "empty.pem"}, "empty.pem can't be used: "),
        ({"certfile": "none.pem", "keyfile": "none.key"}, "none.pem and .*none.key can't be used: no such file or directory"),
        ({"certfile": "empty.pem"}, "empty.pem can't be used: "),
    ],
)
def test_tls_file_that_can_not_be_used_is_named(tmp_path, arguments, sentence):
    (tmp_path / "empty.pem").touch()
    with pytest.raises(ConfigurationError, match=sentence):
        client_tls(**{name: str(tmp_path / file) for name, file in arguments.items()})


def test_server_certificate_is_verified_unless_told_otherwise():
    assert client_tls().verify_mode == ssl.CERT_REQUIRED
    assert client_tls().check_hostname
    assert client_tls(insecure=True).verify_mode == ssl.CERT_NONE


# ---- values in registers ----


@pytest.mark.parametrize(
    ("order", "registers"),
    [("ABCD", [0x4048, 0xF5C3]), ("CDAB", [0xF5C3, 0x4048]), ("BADC", [0x4840, 0xC3F5]), ("DCBA", [0xC3F5, 0x4840])],
)
def test_float_in_every_byte_order(order, registers):
    assert to_registers(3.14, "float32", order) == registers
    assert from_registers(registers, "float32", order) == pytest.approx(3.14)


@pytest.mark.parametrize(
    ("kind", "value", "registers"),
    [
        ("uint16", 65535, [0xFFFF]),
        ("int16", -1, [0xFFFF]),
        ("int16", -32768, [0x8000]),
        ("uint32", 0x12345678, [0x1234, 0x5678]),
        ("int32", -2, [0xFFFF, 0xFFFE]),
        ("float32", -0.5, [0xBF00, 0x0000]),
    ],
)
def test_value_in_registers(kind, value, registers):
    assert register_count(kind) == len(registers)
    assert to_registers(value, kind) == registers
    assert from_registers(registers, kind) == value


@pytest.mark.parametrize(
    ("value", "kind", "holds"),
    [
        (65536, "uint16", "0..65535"),
        (-1, "uint32", "0..4294967295"),
        (32768, "int16", "-32768..32767"),
        (1.5, "int32", "-2147483648..2147483647"),
        (1e39, "float32", "magnitudes up to 3.4e38"),
    ],
)
def test_value_beyond_its_type_is_named_with_the_range(value, kind, holds):
    with pytest.raises(ConfigurationError, match=re.escape(f"{value} is no {kind}, which holds ") + f".*{holds}"):
        to_registers(value, kind)


def test_unknown_type_and_order_are_named():
    with pytest.raises(ConfigurationError, match=f"'uint8' is no type of a value; use one of {', '.join(TYPES)}"):
        register_count("uint8")
    with pytest.raises(ConfigurationError, match=f"'big' is no byte order; use one of {', '.join(ORDERS)}"):
        to_registers(1, "uint32", "big")
