"""A serial line for months: its adapter comes late, goes and comes back, and the same unit is on other lines and on the network."""

import os
import select
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import serial
from adu import ENVIRONMENT
from live import raw
from live.device import Device
from live.line import Line

pytestmark = pytest.mark.live

PATIENCE = 10
# The longest wait between two attempts to open a port.
LONGEST_WAIT = 5
ASKED = raw.rtu(raw.READ_ONE)
ANSWER = raw.rtu(raw.READ_ONE_ANSWER)
LAST_ASKED, LAST_ANSWER = raw.rtu(bytes.fromhex("03 0002 0001")), raw.rtu(bytes.fromhex("03 02 0206"))


def serve_on(adapter, request, **keywords):
    device = Device("rtu", line=SimpleNamespace(device_end=str(adapter.name), client_end=None), **keywords)
    request.addfinalizer(device.kill)
    return device


def poll(adapter, patience):
    """One request; what is answered within so many seconds."""
    os.write(adapter.master, ASKED)
    answer = b""
    end = time.monotonic() + patience
    while len(answer) < len(ANSWER) and (left := end - time.monotonic()) > 0:
        if not is_open(adapter):
            time.sleep(min(left, 0.01))
        elif select.select([adapter.master], [], [], left)[0]:
            answer += os.read(adapter.master, 256)
    return answer


def is_open(adapter):
    """Whether someone has the port open."""
    watch = select.poll()
    watch.register(adapter.master, 0)
    return not watch.poll(0)


def poll_until_back(adapter):
    """A master polls on and on; the first that is answered has to be among those of the first few seconds."""
    end = time.monotonic() + LONGEST_WAIT + 1
    heard, asked = b"", 0
    while not heard.endswith(ANSWER):
        assert time.monotonic() < end
        heard += poll(adapter, 0.2)
        asked += 1
    # What comes late comes before the answer to another request.
    os.write(adapter.master, LAST_ASKED)
    while not heard.endswith(LAST_ANSWER):
        assert select.select([adapter.master], [], [], PATIENCE)[0], heard.hex()
        heard += os.read(adapter.master, 256)
    assert (ANSWER * asked).startswith(heard.removesuffix(LAST_ANSWER))


def test_a_line_that_is_unplugged_and_plugged_in_ten_times_answers_every_poll_afterwards(adapter, engine, request):
    adapter.plug()
    device = serve_on(adapter, request, engine=engine)
    for leftover in [b"", ASKED[:3], ASKED, b"\xff" * 5, raw.rtu(raw.READ_ONE, unit=9)] * 2:
        poll_until_back(adapter)
        for _ in range(20):
            assert poll(adapter, PATIENCE) == ANSWER
            time.sleep(0.06)
        os.write(adapter.master, leftover)
        adapter.unplug()
        time.sleep(0.1)
        adapter.plug()
    poll_until_back(adapter)
    assert poll(adapter, PATIENCE) == ANSWER
    assert device.stop() == 0


def test_a_line_whose_adapter_is_plugged_in_after_the_start_answers(adapter, engine, request):
    device = serve_on(adapter, request, engine=engine)
    adapter.plug()
    poll_until_back(adapter)
    assert poll(adapter, PATIENCE) == ANSWER
    assert device.stop() == 0


def test_a_server_whose_adapter_never_comes_stops_when_asked(adapter, engine, request):
    assert serve_on(adapter, request, engine=engine).stop() == 0


SEVERAL = """
import sys
from twisted.internet import reactor
from mbcore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from mbcore.server import StartSerialServer, StartTcpServer

slaves = {unit: ModbusSlaveContext(hr=ModbusSequentialDataBlock(0, [unit] * 10), zero_mode=True) for unit in (1, 2)}
context = ModbusServerContext(slaves=slaves, single=False)
first, second = sys.argv[1:]
StartSerialServer(context, framer="rtu", port=first, units=[1], defer_reactor_run=True)
StartSerialServer(context, framer="rtu", port=second, baudrate=115200, defer_reactor_run=True)
network = StartTcpServer(context, address=("127.0.0.1", 0), defer_reactor_run=True)
reactor.callWhenRunning(print, network.port, flush=True)
reactor.run()
"""


@pytest.fixture
def lines():
    lines = Line(), Line()
    yield lines
    for line in lines:
        line.close()


@pytest.fixture
def several(lines):
    """One process with two lines and the network; its TCP port."""
    command = [sys.executable, "-P", "-c", SEVERAL, *(line.device_end for line in lines)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    yield int(process.stdout.readline())
    process.terminate()
    assert process.wait(PATIENCE) == 0
    process.stdout.close()


def ask(port, pdu, unit, length):
    """A request over a serial port; the PDU of its answer, or nothing where none comes."""
    port.timeout = PATIENCE if length else 0.3
    port.write(raw.rtu(pdu, unit))
    answer = port.read(length + 3 if length else 1)
    if not length:
        return answer
    assert answer == raw.rtu(answer[1:-2], unit)
    return answer[1:-2]


def test_one_context_is_on_two_lines_and_on_the_network(lines, several):
    read, write = bytes.fromhex("03 0004 0001"), bytes.fromhex("06 0004")
    with (
        serial.Serial(lines[0].client_end) as first,
        serial.Serial(lines[1].client_end) as second,
        raw.Master(("127.0.0.1", several)) as tcp,
    ):
        value = 0x1000
        for writer in (
            lambda pdu: ask(first, pdu, 1, len(pdu)),
            lambda pdu: ask(second, pdu, 1, len(pdu)),
            lambda pdu: tcp.ask(pdu, 1),
        ):
            value += 1
            assert writer(write + value.to_bytes(2)) == write + value.to_bytes(2)
            expected = b"\x03\x02" + value.to_bytes(2)
            assert ask(first, read, 1, 4) == expected
            assert ask(second, read, 1, 4) == expected
            assert tcp.ask(read, 1) == expected
        # Unit 2 is another slave's on the first line.
        assert ask(first, read, 2, 0) == b""
        assert ask(second, read, 2, 4) == b"\x03\x02\x00\x02"
        assert tcp.ask(read, 2) == b"\x03\x02\x00\x02"
        # A broadcast goes to every unit of the context, see docs/serial-line.md.
        assert ask(first, write + b"\x77\x77", 0, 0) == b""
        assert tcp.ask(read, 1) == b"\x03\x02\x77\x77"
