"""Clients that are slow, many, rude or deaf, beside one that is served as ever."""

import resource
import select
import socket
import struct
import time

import pytest
from carried import on_engines
from live import raw
from live.device import HOLDING_REGISTERS

pytestmark = pytest.mark.live

READ_ALL = bytes.fromhex("03 0000 007D")
READ_ALL_ANSWER = b"\x03\xfa" + b"".join(value.to_bytes(2) for value in HOLDING_REGISTERS[:125])
# Of linux/tcp.h: where struct tcp_info has the number of segments that were sent again.
TOTAL_RETRANS = 100
IDLE_CONNECTIONS = 1000
# More than the kernel holds, as requests or as answers, on both sides of a connection.
DEAF_REQUESTS = 60_000


@pytest.fixture
def device(serve):
    device = serve("tcp")
    yield device
    assert raw.is_served(device.address)
    assert device.stop() == 0


@pytest.fixture
def master(device):
    with raw.Master(device.address) as master:
        yield master


@on_engines(["transport"], [["tcp"], ["tls"]])
def test_slow_clients_do_not_hold_up_fast_ones(transport, serve):
    """Twenty clients send a byte, then another; between two of their bytes four others get an answer each."""
    device = serve(transport)
    wrap = device.certificates.client_context().wrap_socket if device.certificates else lambda sock: sock
    slow, fast = [], []
    for crowd, size in ((slow, 20), (fast, 4)):
        for _ in range(size):
            master = raw.Master(device.address)
            master.socket = wrap(master.socket)
            crowd.append(master)
    for byte in raw.adu(READ_ALL, transaction=7):
        for master in slow:
            master.send(bytes([byte]))
        for master in fast:
            assert master.is_served()
    for master in slow:
        assert master.receive() == (7, 1, READ_ALL_ANSWER)
    for master in slow + fast:
        master.socket.close()


def test_client_that_only_half_closes_is_answered(device):
    """A request and the end of the stream in one go, as a shell's pipe into netcat does it."""
    with raw.Master(device.address) as master:
        master.send(raw.adu(raw.READ_ONE, transaction=5))
        master.socket.shutdown(socket.SHUT_WR)
        assert master.receive() == (5, 1, raw.READ_ONE_ANSWER)
        assert master.is_closed()


@pytest.mark.parametrize("sent", [b"", raw.adu(raw.READ_ONE)[:7], raw.adu(raw.READ_ONE), raw.adu(READ_ALL) * 50])
def test_client_that_resets_its_connection_is_forgotten(device, master, sent):
    assert master.is_served()
    before = device.descriptors()
    for _ in range(100):
        rude = raw.Master(device.address)
        rude.send(sent)
        rude.reset()
        assert master.is_served()
    deadline = time.monotonic() + raw.PATIENCE
    while device.descriptors() > before:
        assert master.is_served()
        assert time.monotonic() < deadline


def test_half_a_request_holds_nobody_up(device, master):
    """Connections that stay open in the middle of an ADU."""
    halves = [raw.Master(device.address) for _ in range(50)]
    for count, half in enumerate(halves):
        half.send(raw.adu(READ_ALL)[: 1 + count % 11])
    for _ in range(50):
        assert master.is_served()
    for count, half in enumerate(halves):
        half.send(raw.adu(READ_ALL)[1 + count % 11 :])
        assert half.receive() == (0, 1, READ_ALL_ANSWER)
        half.socket.close()


@pytest.fixture
def many_descriptors():
    """A limit of open files that suits many connections, for this process and the devices that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * IDLE_CONNECTIONS + 200
    if hard not in (resource.RLIM_INFINITY,) and hard < wanted:
        pytest.skip(f"the limit of open files, {hard}, is too low")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_many_clients_may_connect_at_once(serve):
    """As after a power cut. A connection that finds the queue of the port full has to try again a second later."""
    device = serve("tcp")
    crowd = [raw.Master(device.address) for _ in range(300)]
    told = [master.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TOTAL_RETRANS + 4) for master in crowd]
    assert [struct.unpack_from("I", info, TOTAL_RETRANS) for info in told] == [(0,)] * 300
    for master in crowd:
        assert master.is_served()
        master.socket.close()


@pytest.mark.usefixtures("many_descriptors")
def test_a_thousand_idle_connections_beside_an_active_one(serve):
    device = serve("tcp")
    with raw.Master(device.address) as master:
        assert master.is_served()
        before = device.resident()
        idle = [raw.Master(device.address) for _ in range(IDLE_CONNECTIONS)]
        for sleeper in idle[::10]:
            assert sleeper.is_served()
        for _ in range(200):
            assert master.is_served()
        assert device.resident() - before < IDLE_CONNECTIONS * 20_000
        # They idle, they do not sleep: each is still served.
        for sleeper in idle:
            assert sleeper.is_served()
            sleeper.socket.close()
        assert master.is_served()
    assert device.stop() == 0


def test_client_that_never_reads_costs_nobody_anything(device, master):
    """It sends until the device takes no more. Memory stays bounded, others are served, and in the end all answers are there, in order."""
    assert master.is_served()
    before = device.resident()
    with raw.Master(device.address, buffers=4096) as deaf:
        requests = b"".join(raw.adu(READ_ALL, transaction=transaction) for transaction in range(DEAF_REQUESTS))
        deaf.socket.setblocking(False)
        sent = 0
        # Within half a second the device would have taken thousands of requests more.
        while select.select([], [deaf.socket], [], 0.5)[1]:
            sent += deaf.socket.send(requests[sent:])
            assert sent < len(requests), "the device reads on and on"
        for _ in range(100):
            assert master.is_served()
        assert device.resident() - before < 2_000_000
        deaf.socket.setblocking(True)
        for transaction in range(sent // len(raw.adu(READ_ALL))):
            assert deaf.receive() == (transaction, 1, READ_ALL_ANSWER)
    assert master.is_served()


def test_datagrams_of_any_kind_leave_the_next_one_answered(serve):
    device = serve("udp")
    request, answer = raw.adu(raw.READ_ONE, transaction=9), raw.adu(raw.READ_ONE_ANSWER, transaction=9)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as master:
        master.settimeout(raw.PATIENCE)
        master.connect(device.address)
        for bad in (b"", b"\0", request[:-1], request + b"\0", request + request, raw.adu(raw.READ_ONE, protocol=1), bytes(60000)):
            master.send(bad)
            master.send(request)
            assert master.recv(300) == answer
    assert device.stop() == 0


def test_many_requests_in_one_segment_are_answered_in_order(master):
    count = 500
    master.send(b"".join(raw.adu(raw.READ_ONE, transaction=number) for number in range(count)))
    assert [master.receive() for _ in range(count)] == [(number, 1, raw.READ_ONE_ANSWER) for number in range(count)]
