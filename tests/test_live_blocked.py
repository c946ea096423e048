"""An application that does nothing but wait, or compute, for as long as its masters ask: they are answered meanwhile."""

import contextlib
import mmap
import os
import select
import subprocess
import sys
import tty

import pytest
from adu import ENVIRONMENT
from live import raw

pytestmark = pytest.mark.live

ASKED, ANSWER = raw.rtu(raw.READ_ONE), raw.rtu(raw.READ_ONE_ANSWER)
TCP_ANSWERS, LINE_ANSWERS = 1000, 200
# Two numbers that both processes see: what the application has counted to, and whether it may go on.
COUNTED, GO_ON = 0, 1

# Its arguments: the shared file, the line, what the application does.
SERVER = """
import mmap
import os
import select
import sys

from twisted.internet import reactor

from mbcore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from mbcore.server import StartSerialServer, StartTcpServer

file = open(sys.argv[1], "r+b")
shared = memoryview(mmap.mmap(file.fileno(), 16)).cast("Q")
context = ModbusServerContext(slaves=ModbusSlaveContext(hr=ModbusSequentialDataBlock(0, [0, 0x0103]), zero_mode=True))
network = StartTcpServer(context, address=("127.0.0.1", 0), engine=True, defer_reactor_run=True)
StartSerialServer(context, framer="rtu", port=sys.argv[2], engine=True, defer_reactor_run=True)


def wait():
    # Until a byte comes.
    sys.stdin.buffer.read(1)


def compute():
    # No other Python code has its turn.
    sys.setswitchinterval(1000)
    while not shared[1]:
        shared[0] += 1


def work():
    print(network.port, flush=True)
    {"wait": wait, "compute": compute}[sys.argv[3]]()
    print("worked", flush=True)
    reactor.stop()


reactor.callWhenRunning(reactor.callLater, 0, work)
reactor.run()
"""


class Application:
    def __init__(self, work, folder):
        shared = folder / "shared"
        shared.write_bytes(bytes(16))
        with shared.open("r+b") as file:
            self.shared = memoryview(mmap.mmap(file.fileno(), 16)).cast("Q")
        self.line, self._port = os.openpty()
        tty.setraw(self._port)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", SERVER, shared, os.ttyname(self._port), work],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT,
        )  # fmt: skip
        self.port = int(self._process.stdout.readline())

    def has_said(self):
        """Whether its reactor has had its turn again."""
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def ask_on_line(self):
        os.write(self.line, ASKED)
        heard = b""
        while len(heard) < len(ANSWER):
            assert select.select([self.line], [], [], raw.PATIENCE)[0], f"nothing comes after {heard.hex()}"
            heard += os.read(self.line, len(ANSWER) - len(heard))
        return heard

    def go_on(self):
        self.shared[GO_ON] = 1
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == b"worked\n"
        assert self._process.wait(raw.PATIENCE) == 0

    def close(self):
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        os.close(self.line)
        os.close(self._port)


@pytest.fixture
def start(tmp_path):
    """start(work) -> Application, whose reactor has begun to work and does not end before it may go on."""
    with contextlib.ExitStack() as stack:
        yield lambda work: stack.enter_context(contextlib.closing(Application(work, tmp_path)))


@pytest.mark.parametrize("work", ["wait", "compute"])
def test_masters_are_answered_while_the_application_works(work, start):
    application = start(work)
    counts = [application.shared[COUNTED]]
    with raw.Master(("127.0.0.1", application.port)) as master:
        for _ in range(TCP_ANSWERS):
            assert master.ask(raw.READ_ONE) == raw.READ_ONE_ANSWER
    counts.append(application.shared[COUNTED])
    for _ in range(LINE_ANSWERS):
        assert application.ask_on_line() == ANSWER
    counts.append(application.shared[COUNTED])
    assert not application.has_said(), "the application has come to its end: it was not kept by what it does"
    if work == "compute":
        assert counts[0] < counts[1] < counts[2], "it does not compute any more"
    application.go_on()
