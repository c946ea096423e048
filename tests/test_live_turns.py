"""A master that asks for a user's block again and again leaves the real reactor its turns, for whatever else the application has there."""

import contextlib
import signal
import socket
import subprocess
import sys

import pytest
from adu import ENVIRONMENT
from live import raw

pytestmark = pytest.mark.live

# More than are answered until any of the events has come about.
REQUESTS = 20_000

# Its arguments: what is to happen while it is asked, and seconds after which the reactor has its turn though nothing needs it. Its block
# gives the number of such events.
SERVER = """
import signal
import sys

import mbcore.server.network
from twisted.internet import protocol, reactor

from mbcore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from mbcore.server import StartTcpServer

mbcore.server.network.TURN = float(sys.argv[2])
asked = turns = events = 0


def happen(*_):
    global events
    events += 1


def plan():
    if sys.argv[1] == "delayed call":
        reactor.callLater(0.01, happen)
    if sys.argv[1] == "other thread":
        reactor.callInThread(reactor.callFromThread, happen)
    if sys.argv[1] == "end":
        reactor.stop()


class Other(protocol.Protocol):
    connectionMade = happen


class Block(ModbusSequentialDataBlock):
    def getValues(self, address, count=1):
        global asked
        asked += 1
        if asked == 10:
            plan()
        return [events] * count


def do_read():
    global turns
    turns += 1
    plain()


signal.signal(signal.SIGUSR1, happen)
other = reactor.listenTCP(0, protocol.Factory.forProtocol(Other), interface="127.0.0.1")
context = ModbusServerContext(slaves=ModbusSlaveContext(hr=Block(0, [0]), zero_mode=True))
modbus = StartTcpServer(context, address=("127.0.0.1", 0), engine=True, defer_reactor_run=True)
carrier = modbus.factory.carrier
plain, carrier.doRead = carrier.doRead, do_read
reactor.callWhenRunning(print, modbus.port, other.getHost().port, flush=True)
reactor.run()
print(asked, turns, flush=True)
"""


class Application:
    def __init__(self, event, turn):
        command = [sys.executable, "-P", "-c", SERVER, event, str(turn)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT)
        self.modbus, self.other = (("127.0.0.1", int(port)) for port in self.process.stdout.readline().split())

    def ended(self):
        """How often its block was asked, and how often the reactor called the loop's server."""
        asked, turns = map(int, self.process.stdout.readline().split())
        assert self.process.wait(raw.PATIENCE) == 0
        return asked, turns

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def start():
    """start(event, turn) -> Application."""
    with contextlib.ExitStack() as stack:
        yield lambda *choice: stack.enter_context(contextlib.closing(Application(*choice)))


def events_of(answer):
    assert answer[:2] == b"\x03\x02"
    return int.from_bytes(answer[2:], "big")


@pytest.mark.parametrize("event", ["delayed call", "other thread", "other client", "signal"])
def test_what_else_the_application_has_happens_meanwhile(event, start):
    # However slow the machine is, requests come one upon another; and the reactor has no turn but where something needs it.
    application = start(event, 60)
    with raw.Master(application.modbus) as master, contextlib.ExitStack() as stack:
        for number in range(REQUESTS):
            if events_of(master.ask(bytes.fromhex("03 0000 0001"))):
                break
            if number == 20 and event == "other client":
                stack.enter_context(socket.create_connection(application.other, raw.PATIENCE))
            if number == 20 and event == "signal":
                application.process.send_signal(signal.SIGUSR1)
        else:
            pytest.fail(f"{REQUESTS} requests were answered, and nothing else was done")
        application.process.terminate()
        assert master.is_closed()
    asked, turns = application.ended()
    assert asked > turns, "each request had a turn of the reactor's: nothing was tried"


def test_a_block_that_stops_the_reactor_has_its_request_answered_and_the_connection_closed(start):
    # Who stops the reactor rings at no descriptor of it: its next turn is the last.
    application = start("end", 0.05)
    with raw.Master(application.modbus) as master:
        for _ in range(10):
            assert events_of(master.ask(bytes.fromhex("03 0000 0001"))) == 0
        assert master.is_closed()
    asked, turns = application.ended()
    assert asked == 10 > turns
