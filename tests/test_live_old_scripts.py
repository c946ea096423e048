"""Scripts as pymodbus 2.5's examples write them (live/old_scripts), with `mbcore.pymodbus` in their imports, read by foreign clients."""

import re
import select
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pymodbus.client
import pytest
from adu import ENVIRONMENT
from live import clients, programs
from live.device import HOST, TRANSPORTS
from live.line import Line
from pymodbus import FramerType
from pymodbus.pdu import ModbusPDU

pytestmark = pytest.mark.live
LIVE = Path(__file__).parent / "live"


class Script:
    """A script of live/old_scripts that runs; what it prints is in the file `printed`."""

    def __init__(self, name, arguments, printed, engine):
        self.printed = printed
        with printed.open("w") as output:
            # Such a script does not say what carries its bytes.
            start = [] if engine else [LIVE / "on_twisted.py"]
            command = [sys.executable, "-P", *start, LIVE / "old_scripts" / f"{name}.py", *map(str, arguments)]
            self._process = subprocess.Popen(command, env=ENVIRONMENT, stdout=output, stderr=output)

    def said_port(self, kind):
        """The port of its server of this kind, which was left to choose one."""
        return int(re.search(rf"{kind} server on .*:(\d+) is ready", self.printed.read_text())[1])

    def wait_for(self, ready):
        """Wait until ready() is true."""
        while not ready():
            assert self._process.poll() is None, self.printed.read_text()
            time.sleep(0.02)

    def stop(self):
        """End it as a service manager does."""
        self._process.terminate()
        assert self._process.wait(10) == 0, self.printed.read_text()


@pytest.fixture
def run(tmp_path, engine):
    """run(name, *arguments) -> Script that is ready: ready() is true, or it has logged that; stopped when the test ends."""
    scripts = []

    def start(name, *arguments, ready=None):
        script = Script(name, arguments, tmp_path / f"printed.{len(scripts)}", engine)
        scripts.append(script)
        script.wait_for(ready or (lambda: "is ready" in script.printed.read_text()))
        return script

    yield start
    for script in scripts:
        script.stop()


@pytest.fixture
def run_tcp(run, free_port):
    """run_tcp(name, *arguments) -> (Script, port): a script whose first argument is its port."""

    def start(name, *arguments):
        port = free_port()
        return run(name, port, *arguments, ready=lambda: listens(port)), port

    return start


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


@pytest.fixture
def connect(request):
    """connect(client's name, port, transport, path) -> one of live.clients."""
    makers = {
        "mbpoll": lambda device: clients.Mbpoll(programs.need("mbpoll", "mbpoll"), device),
        "libmodbus": lambda device: clients.libmodbus(request.getfixturevalue("libmodbus_program"), device),
        "pymodbus3": clients.Pymodbus3,
        "pymodbus2": lambda device: clients.pymodbus2(request.getfixturevalue("pymodbus2_python"), device),
        "minimalmodbus": clients.Minimalmodbus,
    }

    def make(name, port=None, transport="tcp", path=None):
        client = makers[name](SimpleNamespace(host=HOST, port=port, path=path, transport=TRANSPORTS[transport], certificates=None))
        request.addfinalizer(client.close)
        return client

    return make


@pytest.fixture
def line():
    line = Line()
    yield line
    line.close()


# ---- the asynchronous server -----------------------------------------------------------------------------------------------------------


def converse(client):
    """What every client makes of the example's tables: 17 everywhere, addresses 0..98 on the wire."""
    assert client.ask("read_holding_registers", 0, 5) == [17] * 5
    assert client.ask("read_coils", 94, 5)[:5] == [1] * 5
    client.ask("write_registers", 3, 1, 0xFFFF)
    assert client.ask("read_holding_registers", 2, 4) == [17, 1, 0xFFFF, 17]
    assert client.ask("read_input_registers", 2, 4) == [17] * 4
    with pytest.raises(clients.RefusedError) as refused:
        client.ask("read_holding_registers", 99, 1)
    assert refused.value.code == 2


@pytest.mark.parametrize(
    ("kind", "transport", "names"),
    [
        ("tcp", "tcp", ["mbpoll", "libmodbus", "pymodbus2", "pymodbus3"]),
        ("deferred", "tcp", ["pymodbus3"]),
        ("rtu-over-tcp", "rtu-over-tcp", ["pymodbus3"]),
    ],
)
def test_the_asynchronous_server_of_the_network(run, connect, free_port, kind, transport, names):
    for name in names:
        port = free_port()
        script = run("asynchronous_server", kind, port)
        client = connect(name, port, transport)
        converse(client)
        if "read_device_information" in client.operations:
            basic = b"".join(bytes([key, len(text)]) + text for key, text in enumerate([b"Pymodbus", b"PM", b"2.5.3"]))
            assert bytes(client.ask("read_device_information", 1, 0)) == basic
        assert "DEBUG    tcp" in script.printed.read_text()


def test_the_asynchronous_server_of_datagrams(run, connect):
    script = run("asynchronous_server", "udp", 0)
    converse(connect("pymodbus3", script.said_port("UDP"), "udp"))


@pytest.mark.parametrize(
    ("name", "framer"), [("minimalmodbus", "rtu"), ("minimalmodbus", "ascii"), ("mbpoll", "rtu"), ("libmodbus", "rtu")]
)
def test_the_asynchronous_server_of_a_line(run, connect, line, name, framer):
    run("asynchronous_server", framer, line.device_end)
    converse(connect(name, path=line.client_end, transport=framer))


# ---- servers that do something when they are written to, or by themselves ----------------------------------------------------------------


def test_the_updating_server(run_tcp, connect):
    _, port = run_tcp("updating_server")
    master = connect("pymodbus3", port)
    first = master.ask("read_holding_registers", 0x10, 5)
    while (now := master.ask("read_holding_registers", 0x10, 5)) == first:
        time.sleep(0.02)
    assert len(set(now)) == 1
    assert now[0] > 17
    assert bytes(master.ask("read_device_information", 1, 0))[:10] == b"\0\x08pymodbus"


def test_the_callback_server(run_tcp, connect, tmp_path):
    first, second = tmp_path / "device1", tmp_path / "device2"
    mapping = tmp_path / "device-mapping"
    mapping.write_text(f"0x0001,{first}\n0x0002,{second}\n")
    script, port = run_tcp("callback_server", mapping)
    master = connect("mbpoll", port)
    assert master.ask("read_holding_registers", 0xBEEE, 1) == [2]
    for value in (10, 60):
        master.ask("write_register", 0, value)
    master.ask("write_register", 1, 20)
    assert master.ask("read_holding_registers", 0, 2) == [60, 20]
    script.wait_for(lambda: first.exists() and first.read_text() == "-640\n640\n")
    script.wait_for(lambda: second.exists() and second.read_text() == "-1280\n")
    with pytest.raises(clients.RefusedError) as refused:
        master.ask("write_register", 5, 1)
    assert refused.value.code == 2


def test_the_custom_data_block(run_tcp, connect):
    script, port = run_tcp("custom_datablock")
    master = connect("libmodbus", port)
    master.ask("write_registers", 7, 1, 2, 3)
    master.ask("write_coil", 20, 1)
    assert master.ask("read_input_registers", 7, 3) == [1, 2, 3]
    assert master.ask("read_holding_registers", 20, 1) == [1]
    assert [line for line in script.printed.read_text().splitlines() if "wrote" in line] == ["wrote [1, 2, 3] to 8", "wrote [True] to 21"]


# ---- a message of one's own --------------------------------------------------------------------------------------------------------------


class CustomResponse(ModbusPDU):
    function_code = 55
    rtu_byte_count_pos = 2

    def decode(self, data):
        self.registers = [int.from_bytes(data[at : at + 2]) for at in range(1, 1 + data[0], 2)]


class CustomRequest(ModbusPDU):
    function_code = 55
    rtu_frame_size = 8

    def encode(self):
        return self.address.to_bytes(2) + self.count.to_bytes(2)


def converse_by_55(master):
    master.register(CustomResponse)
    with master:
        assert master.connect()
        assert master.execute(False, CustomRequest(address=5, count=3, dev_id=1)).registers == [17] * 3
        assert master.execute(False, CustomRequest(address=99, count=1, dev_id=1)).exception_code == 2
        assert master.execute(False, CustomRequest(address=0, count=0, dev_id=1)).exception_code == 3
        assert master.read_holding_registers(5, count=3, device_id=1).registers == [1] * 3


def test_the_custom_message(run, free_port):
    port = free_port()
    run("custom_message_server", "tcp", port)
    converse_by_55(pymodbus.client.ModbusTcpClient(HOST, port=port))


def test_the_custom_message_on_a_line(run, line):
    run("custom_message_server", "rtu", line.device_end)
    converse_by_55(pymodbus.client.ModbusSerialClient(line.client_end, framer=FramerType.RTU, baudrate=19200))


# ---- a payload ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("byteorder", "wordorder"), [("Little", "Little"), ("Big", "Big"), ("Big", "Little"), ("Little", "Big")])
def test_the_payload_server(run_tcp, pymodbus2_python, byteorder, wordorder):
    _, port = run_tcp("modbus_payload_server", byteorder, wordorder)
    command = [pymodbus2_python, LIVE / "payload_pymodbus2.py", str(port), byteorder, wordorder]
    read = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    numbers = [-0x12, 0x12, -0x5678, 0x1234, -0x1234, 0x12345678, "22.3400", "-22.3400", -0xDEADBEEF, 0x12345678DEADBEEF, 123.45]
    assert read.splitlines() == ["abcdefgh", "0 1 0 1 1 0 1 0", *map(str, numbers)]


# ---- what is the process' ----------------------------------------------------------------------------------------------------------------


def test_the_control_block_of_the_process_is_the_servers(run_tcp, connect):
    _, port = run_tcp("counting_server")
    master = connect("pymodbus3", port)
    assert bytes(master.ask("read_device_information", 1, 0))[:6] == b"\0\x04ACME"
    with pytest.raises(clients.RefusedError):
        master.ask("read_input_registers", 9, 1)
    asked = 2
    while True:
        asked += 1
        messages, refusals, events = master.ask("read_input_registers", 0, 3)
        if messages == asked - 1:  # the script's loop has run since the request before this one
            break
        time.sleep(0.1)
    assert refusals == 1
    assert events == min(2 * messages, 64)  # one received and one sent


READ, REPLY = bytes.fromhex("0001 0000 0006 00 03 0000 0001"), bytes.fromhex("0001 0000 0005 00 03 02 0000")


def ask_stream(port, host, context=None):
    """What a client at `host` gets for READ; b"" when it is closed out."""
    try:
        with socket.create_connection((HOST, port), 10, source_address=(host, 0)) as connection:
            stream = connection if context is None else context.wrap_socket(connection)
            stream.sendall(READ)
            return stream.recv(100)
    except (ConnectionError, ssl.SSLError):
        return b""


def ask_by_datagram(port, host):
    """The socket of a client at `host` that has sent READ."""
    peer = socket.socket(type=socket.SOCK_DGRAM)
    peer.settimeout(10)
    peer.bind((host, 0))
    peer.connect((HOST, port))
    peer.send(READ)
    return peer


def test_access_control(run, certificates):
    files = certificates.of_server()
    script = run("guarded_server", files["certfile"], files["keyfile"])
    script.wait_for(lambda: "TCP server" in script.printed.read_text())  # the last of them
    tcp_port, tls_port, udp_port = (script.said_port(kind) for kind in ("TCP", "TLS", "UDP"))
    context = certificates.client_context(shown=False)
    for host, answer in (("127.0.0.2", REPLY), ("127.0.4.77", REPLY), ("127.0.0.1", b""), ("127.0.5.1", b"")):
        assert ask_stream(tcp_port, host) == answer
        assert ask_stream(tls_port, host, context) == answer
    with ask_by_datagram(udp_port, "127.0.0.1") as stranger, ask_by_datagram(udp_port, "127.0.0.2") as guest:
        assert guest.recv(100) == REPLY
        # Each server logs its first refusal.
        script.wait_for(lambda: script.printed.read_text().count("(1 refused so far)") == 3)
        guest.send(READ)
        assert guest.recv(100) == REPLY, "behind all that the stranger could have been told"
        assert select.select([stranger], [], [], 0)[0] == []
    master = pymodbus.client.ModbusTcpClient(HOST, port=tcp_port, source_address=("127.0.0.2", 0))
    assert master.connect()
    assert master.read_holding_registers(0, count=2).registers == [0, 0]
    master.close()
