"""Scripts as pymodbus 2.5's examples write them, run with `mbcore.pymodbus` in their imports and read by a foreign client."""

import os
import socket
import ssl
import subprocess
import sys
import time

import pytest

import mbcore

pytestmark = pytest.mark.live
ModbusTcpClient = pytest.importorskip("pymodbus.client").ModbusTcpClient

UPDATING = """
from mbcore.pymodbus.server.asynchronous import StartTcpServer
from mbcore.pymodbus.device import ModbusDeviceIdentification
from mbcore.pymodbus.datastore import ModbusSequentialDataBlock
from mbcore.pymodbus.datastore import ModbusSlaveContext, ModbusServerContext
from twisted.internet.task import LoopingCall

def updating_writer(a):
    context = a[0]
    values = context[0x00].getValues(3, 0x10, count=5)
    context[0x00].setValues(3, 0x10, [v + 1 for v in values])

store = ModbusSlaveContext(
    di=ModbusSequentialDataBlock(0, [17] * 100), co=ModbusSequentialDataBlock(0, [17] * 100),
    hr=ModbusSequentialDataBlock(0, [17] * 100), ir=ModbusSequentialDataBlock(0, [17] * 100))
context = ModbusServerContext(slaves=store, single=True)
identity = ModbusDeviceIdentification()
identity.VendorName = "pymodbus"
LoopingCall(f=updating_writer, a=(context,)).start(0.05, now=False)
StartTcpServer(context, identity=identity, address=("127.0.0.1", PORT))
"""

CALLBACK = """
from mbcore.pymodbus.server.asynchronous import StartTcpServer
from mbcore.pymodbus.datastore import ModbusSparseDataBlock, ModbusSlaveContext, ModbusServerContext

class CallbackDataBlock(ModbusSparseDataBlock):
    def __init__(self, devices):
        self.devices = devices
        values = {k: 0 for k in devices.keys()}
        values[0xbeef] = len(values)
        super(CallbackDataBlock, self).__init__(values)

    def setValues(self, address, value):
        super(CallbackDataBlock, self).setValues(address, value)
        super(CallbackDataBlock, self).setValues(0xbeef, value[0] + self.devices[address])

block = CallbackDataBlock({1: 100, 2: 200})
store = ModbusSlaveContext(di=block, co=block, hr=block, ir=block)
StartTcpServer(ModbusServerContext(slaves=store, single=True), address=("127.0.0.1", PORT))
"""

CUSTOM = """
import struct
from mbcore.pymodbus.pdu import ModbusRequest, ModbusResponse
from mbcore.pymodbus.server.asynchronous import StartTcpServer
from mbcore.pymodbus.datastore import ModbusSequentialDataBlock, ModbusSlaveContext, ModbusServerContext

class SumResponse(ModbusResponse):
    function_code = 55
    def __init__(self, total=0, **kwargs):
        ModbusResponse.__init__(self, **kwargs)
        self.total = total
    def encode(self):
        return struct.pack(">H", self.total)

class SumRequest(ModbusRequest):
    function_code = 55
    _rtu_frame_size = 8
    def decode(self, data):
        self.address, self.count = struct.unpack(">HH", data)
    def execute(self, context):
        return SumResponse(sum(context.getValues(self.function_code, self.address, self.count)))

store = ModbusSlaveContext(hr=ModbusSequentialDataBlock(0, [1] * 10))
store.register(55, "cm", ModbusSequentialDataBlock(0, [17] * 100))
StartTcpServer(ModbusServerContext(slaves=store, single=True), address=("127.0.0.1", PORT), custom_functions=[SumRequest])
"""

GUARDED = """
from mbcore.pymodbus.device import ModbusAccessControl
from mbcore.pymodbus.server.asynchronous import StartTcpServer, StartUdpServer
from mbcore.server import StartTlsServer

access = ModbusAccessControl()
access.add(["127.0.0.2", "127.0.4.0/24"])
access.remove("127.0.0.1")
StartTlsServer(None, address=("127.0.0.1", TLS_PORT), defer_reactor_run=True, **CERTIFICATES)
StartUdpServer(None, address=("127.0.0.1", PORT), defer_reactor_run=True)
StartTcpServer(None, address=("127.0.0.1", PORT))
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def run():
    """run(script) -> port of the script's server, which listens."""
    children = []

    def start(script):
        port = free_port()
        place = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(mbcore.__file__))}
        child = subprocess.Popen([sys.executable, "-P", "-c", script.replace("PORT", str(port))], env=place)
        children.append(child)
        while child.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return port
            except OSError:
                time.sleep(0.02)
        raise AssertionError(f"the script ended with {child.returncode}")

    yield start
    for child in children:
        child.terminate()
        assert child.wait(10) == 0


@pytest.fixture
def client():
    """client(port) -> a connected client of the newest pymodbus."""
    made = []

    def connect(port):
        made.append(ModbusTcpClient("127.0.0.1", port=port))
        assert made[-1].connect()
        return made[-1]

    yield connect
    for each in made:
        each.close()


def test_the_updating_server(run, client):
    master = client(run(UPDATING))
    first = master.read_holding_registers(0x10, count=5).registers
    while (now := master.read_holding_registers(0x10, count=5).registers) == first:
        time.sleep(0.02)
    assert len(set(now)) == 1
    assert now[0] > 17
    assert master.read_device_information(read_code=1, object_id=0).information[0] == b"pymodbus"


def test_the_callback_server(run, client):
    master = client(run(CALLBACK))
    assert master.read_holding_registers(0xBEEE, count=1).registers == [2]
    assert not master.write_registers(0, [5]).isError()
    assert master.read_holding_registers(0, count=1).registers == [5]
    assert master.read_holding_registers(0xBEEE, count=1).registers == [105]
    assert master.read_holding_registers(5, count=1).exception_code == 2


def test_the_custom_message(run):
    port = run(CUSTOM)
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(bytes.fromhex("0001 0000 0006 01 37 0000 0003"))
        assert connection.recv(100) == bytes.fromhex("0001 0000 0004 01 37 0033")


READ, REPLY = bytes.fromhex("0001 0000 0006 00 03 0000 0001"), bytes.fromhex("0001 0000 0005 00 03 02 0000")


def ask_stream(port, host, context=None):
    """What a client at `host` gets for READ; b"" when it is closed out."""
    try:
        with socket.create_connection(("127.0.0.1", port), 10, source_address=(host, 0)) as connection:
            stream = connection if context is None else context.wrap_socket(connection)
            stream.sendall(READ)
            return stream.recv(100)
    except (ConnectionError, ssl.SSLError):
        return b""


def ask_datagrams(port, *hosts):
    """What clients at these hosts get for READ, the last of them answered."""
    clients = []
    for host in hosts:
        clients.append(socket.socket(type=socket.SOCK_DGRAM))
        clients[-1].settimeout(10)
        clients[-1].bind((host, 0))
        clients[-1].sendto(READ, ("127.0.0.1", port))
    answers = [clients[-1].recv(100)]
    for client in reversed(clients[:-1]):  # asked before, so that an answer would be there by now
        client.setblocking(False)
        try:
            answers.insert(0, client.recv(100))
        except BlockingIOError:
            answers.insert(0, b"")
    for client in clients:
        client.close()
    return answers


def test_access_control(run, certificates):
    tls_port = free_port()
    files = {**certificates.of_server(), "cafile": None}
    port = run(GUARDED.replace("TLS_PORT", str(tls_port)).replace("CERTIFICATES", repr(files)))
    context = certificates.client_context(shown=False)
    for host, answer in (("127.0.0.2", REPLY), ("127.0.4.77", REPLY), ("127.0.0.1", b""), ("127.0.5.1", b"")):
        assert ask_stream(port, host) == answer
        assert ask_stream(tls_port, host, context) == answer
    assert ask_datagrams(port, "127.0.0.1", "127.0.0.2") == [b"", REPLY]
    master = ModbusTcpClient("127.0.0.1", port=port, source_address=("127.0.0.2", 0))
    assert master.connect()
    assert master.read_holding_registers(0, count=2).registers == [0, 0]
    master.close()
