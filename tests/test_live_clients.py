"""Masters that others wrote read and write the device over every transport they have."""

import subprocess
import time
from functools import partial

import pytest
from carried import on_engines
from live import clients, programs
from live.device import COILS, PATIENCE, TRANSPORTS
from live.script import Course

pytestmark = pytest.mark.live

CONVERSATIONS = [
    ("mbpoll", "tcp"),
    ("mbpoll", "rtu"),
    ("libmodbus", "tcp"),
    ("libmodbus", "rtu"),
    ("pymodbus3", "tcp"),
    ("pymodbus3", "udp"),
    ("pymodbus3", "tls"),
    ("pymodbus3", "rtu"),
    ("pymodbus3", "ascii"),
    ("pymodbus3", "rtu-over-tcp"),
    ("pymodbus3", "ascii-over-tcp"),
    ("pymodbus3", "rtu-over-udp"),
    ("pymodbus2", "tcp"),
    ("pymodbus2", "udp"),
    ("pymodbus2", "tls"),
    ("pymodbus2", "bare-tls"),
    ("pymodbus2", "rtu"),
    ("pymodbus2", "ascii"),
    ("pymodbus2", "binary"),
    ("pymodbus2", "rtu-over-tcp"),
    ("pymodbus2", "binary-over-tcp"),
    ("minimalmodbus", "rtu"),
    ("minimalmodbus", "ascii"),
]


@pytest.fixture
def connect(request):
    """connect(name, device) -> client; closed when the test ends."""
    makers = {
        "mbpoll": lambda device: clients.Mbpoll(programs.need("mbpoll", "mbpoll"), device),
        "libmodbus": lambda device: clients.libmodbus(request.getfixturevalue("libmodbus_program"), device),
        "pymodbus3": clients.Pymodbus3,
        "pymodbus2": lambda device: clients.pymodbus2(request.getfixturevalue("pymodbus2_python"), device),
        "minimalmodbus": clients.Minimalmodbus,
    }

    def make(name, device):
        client = makers[name](device)
        request.addfinalizer(client.close)
        return client

    return make


@on_engines(["name", "transport"], CONVERSATIONS)
def test_client_and_device_agree_on_every_function_that_the_client_offers(name, transport, serve, connect):
    device = serve(transport)
    course = Course(connect(name, device))
    course.run()
    course.compare(device)


@pytest.mark.parametrize(("name", "transport"), [("pymodbus3", "tcp"), ("pymodbus3", "rtu"), ("pymodbus2", "tcp")])
def test_client_reads_the_counters_of_what_it_did(name, transport, serve, connect):
    device = serve(transport)
    course = Course(connect(name, device))
    course.run()
    # AP 6.9, 6.10: the event counter counts messages completed with success, the message counter every message.
    assert course.ask("get_comm_event_counter") == [0, course.successes]
    log = course.ask("get_comm_event_log")
    assert log[:3] == [0, course.successes, course.messages]
    assert len(log) == 3 + 64
    # AP 6.8, 0B bus messages, 0C CRC errors, 0D exceptions, 0E messages for us, 0F without answer, 10 NAK, 11 busy, 12 overrun
    assert course.ask("diagnostics", 11, 0) == [course.messages]
    assert course.ask("diagnostics", 12, 0) == [0]
    assert course.ask("diagnostics", 13, 0) == [course.refusals]
    assert course.ask("diagnostics", 14, 0) == [course.messages]
    for sub_function in (15, 16, 17, 18):
        assert course.ask("diagnostics", sub_function, 0) == [0]
    assert course.ask("diagnostics", 20, 0) == [0]
    assert course.ask("diagnostics", 10, 0) == [0]
    assert course.ask("diagnostics", 11, 0) == [1]
    assert course.ask("diagnostics", 1, 0) == [0]
    assert course.ask("diagnostics", 11, 0) == [1]


@on_engines(["transport"], [["tcp"], ["udp"], ["tls"]])
def test_what_one_client_writes_another_reads(transport, serve, connect):
    device = serve(transport)
    writer, reader = connect("pymodbus3", device), connect("pymodbus2", device)
    for first, second, pattern in ((writer, reader, 0x5AA5), (reader, writer, 0xC33C)):
        values = [number ^ pattern for number in range(123)]
        first.ask("write_registers", 5, *values)
        assert second.ask("read_holding_registers", 5, 123) == values


@on_engines(["transport"], [["tls"]])
def test_tls_client_that_does_not_show_the_certificate_demanded_is_not_answered(transport, serve, connect, monkeypatch):
    device = serve(transport)
    with monkeypatch.context() as nothing_to_show:
        nothing_to_show.setattr(device.certificates, "client_context", partial(device.certificates.client_context, shown=False))
        # It sees an alert or a lost connection, as the packets fall, and does not wrap all of them.
        with pytest.raises((clients.ClientError, OSError)):
            connect("pymodbus3", device).ask("read_coils", 0, 3)
    assert connect("pymodbus3", device).ask("read_coils", 0, 3)[:3] == COILS[:3]


@pytest.fixture
def virtual_port(tmp_path):
    """virtual_port(device) -> a serial port whose other end is a connection to the device, made by socat."""
    programs.need("socat", "socat")
    tunnels = []

    def make(device):
        path = tmp_path / "port"
        tunnels.append(subprocess.Popen(["socat", f"pty,rawer,link={path}", f"tcp:{device.host}:{device.port},nodelay"]))
        deadline = time.monotonic() + PATIENCE
        while not path.exists():
            assert tunnels[-1].poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return str(path)

    yield make
    for tunnel in tunnels:
        tunnel.kill()
        tunnel.wait()


@pytest.mark.parametrize("name", ["mbpoll", "libmodbus", "minimalmodbus"])
def test_serial_master_reaches_a_network_server_through_a_virtual_port(name, serve, connect, virtual_port):
    """RTU over TCP as the field uses it: the master has a serial port, a converter turns it into a connection."""
    device = serve("rtu-over-tcp")
    device.path = virtual_port(device)
    device.transport = TRANSPORTS["rtu"]
    course = Course(connect(name, device))
    course.run()
    course.compare(device)


def test_mbpoll_shows_the_identity(serve):
    """Function 17. mbpoll takes the first byte for a number and the second for the run indicator; the rest is text."""
    said = clients.Mbpoll(programs.need("mbpoll", "mbpoll"), serve("rtu")).description()
    assert f"{ord('A'):#04x}" in said.lower()
    assert "ME-X1-1.2" in said


def test_absent_unit_is_a_gateway_exception_on_tcp(serve, libmodbus_program):
    with_unit_9 = clients.libmodbus(libmodbus_program, serve("tcp"), unit=9)
    try:
        with pytest.raises(clients.RefusedError) as refused:
            with_unit_9.ask("read_coils", 0, 1)
    finally:
        with_unit_9.close()
    assert refused.value.code == 0x0B
