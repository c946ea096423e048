"""A real server on a line in real time, beside other slaves, polled by a foreign master: what the simulation proves, seen from outside."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import minimalmodbus
import pytest
import serial
from bus import talk
from bus.ptys import Bus

import mbcore

pytestmark = pytest.mark.live

REHEARSE = Path(__file__).parent / "bus" / "rehearse.py"
COMMAND = Path(mbcore.__file__).with_name("__main__.py")
ON_TWISTED = Path(__file__).parent / "live" / "on_twisted.py"
OTHERS = (5, 6)
ROUNDS = 10
KEPT = 100  # a register that the demo leaves as it was written
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(mbcore.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def serve_demo(engine):
    """serve_demo(path, *words): `mbcore serve rtu` on that end, on a compiled loop or on Twisted, until the test is over."""
    with contextlib.ExitStack() as stack:

        def start(path, *words):
            start = [] if engine else [ON_TWISTED]
            command = [sys.executable, "-P", *start, COMMAND, "serve", "rtu", path, "-m", "8N1", *words]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT))
            stack.callback(process.terminate)
            assert process.stdout.readline(), "it does not serve"

        yield start


def instrument(path, unit):
    master = minimalmodbus.Instrument(path, unit, debug=False)
    master.serial.baudrate = 19200
    master.serial.timeout = 2
    return master


@pytest.mark.parametrize("kind", [{}, {"late": 0.016, "chunk": 64}, {"chunk": 8}], ids=["plain", "USB", "FIFO"])
def test_a_server_beside_two_other_slaves_answers_a_foreign_master(kind, serve_demo):
    with Bus(19200, 2, OTHERS, seed=1, **kind) as bus:
        ours, masters = bus.paths
        serve_demo(ours)
        unit, *others = (instrument(masters, number) for number in (1, *OTHERS))
        for value in range(ROUNDS):
            for other in others:
                # The other slaves answer with anything, now and then with an exception.
                with contextlib.suppress(minimalmodbus.SlaveReportedException):
                    other.read_registers(0, 4)
            unit.write_register(KEPT, value, functioncode=6)
            assert unit.read_register(KEPT) == value
        unit.serial.close()
        assert not any(one.collided for one in bus.record)


def test_every_poll_of_a_rehearsal_is_answered(serve_demo):
    words = ["--ptys", "1", "--slaves", "5,6", "--poll", "1:3:0:4", "--poll", "1:1:0:3", "--count", "20", "--echo", "--strays", "0.3"]
    with subprocess.Popen([sys.executable, REHEARSE, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          env=ENVIRONMENT) as rehearsal:
        serve_demo(rehearsal.stdout.readline().strip())
        table = rehearsal.communicate("\n")[0].split("\n")
    ours = next(line.split() for line in table if line.split()[:1] == ["1"])
    assert rehearsal.returncode == 0
    assert ours[1:3] == ["20", "20"]


def test_a_line_carries_at_its_pace():
    with Bus(9600, 2) as bus:
        with serial.Serial(bus.paths[0], 9600) as one, serial.Serial(bus.paths[1], 9600, timeout=5) as two:
            begun = time.monotonic()
            one.write(bytes(range(96)))
            assert two.read(96) == bytes(range(96))
            # Not the bus' own clock: it would agree with itself at any pace.
            assert time.monotonic() - begun >= 0.95 * 96 * 11 / 9600
        (sent,) = bus.record
        assert sent.end - sent.start == pytest.approx(96 * 11 / 9600, abs=0.001)


def test_two_ends_that_send_at_once_collide():
    with Bus(1200, 2) as bus:
        with serial.Serial(bus.paths[0], 1200) as one, serial.Serial(bus.paths[1], 1200) as two:
            one.write(bytes(20))
            two.write(bytes(20))
            while len(bus.record) < 2 or bus.record[-1].end == float("inf"):
                bus.wait(0.05)
        assert [sent.collided for sent in bus.record] == [True, True]
        assert {str(sent.sender) for sent in bus.record} == set(bus.paths)


def test_other_slaves_answer_a_program():
    with Bus(115200, 1, OTHERS, seed=3) as bus, serial.Serial(bus.paths[0], 115200, timeout=5) as port:
        port.write(talk.frame(b"\x06\0\1\0\2", 6))
        answer = port.read(5)
        if answer[1] == 6:
            answer += port.read(3)
        assert talk.is_frame(answer)
        assert answer[0] == 6
