"""The server that storms go over: on compiled loops, with Python in every place where a user may put it, and threads that use the image.

Run as a program it serves as told by the JSON in its argument and says on a line where. Each line on standard input is answered with what
can be seen from inside; when standard input ends it stops, and ends with 1 where anything went wrong that no client may cause.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import struct
import sys
import threading
import traceback
import warnings

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from mbcore import ModbusRtuFramer, ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext, ModbusSparseDataBlock, device
from mbcore.messages import ModbusRequest, ModbusResponse
from mbcore.server import StartSerialServer, StartTcpServer, StartUdpServer, StopServer

HOST = "127.0.0.1"
# Hosts of whom each has a few connections only, and one that is not in the table of hosts.
GUESTS = tuple(f"127.0.1.{number}" for number in range(1, 7))
STRANGER = "127.0.2.1"
CELLS = 2000
# Registers that the application writes with one value, as many as one request reads.
SAME, SAME_COUNT = 1000, 125
PLAIN, COUNTED, LATER, BROKEN, PASSING, GROWING = 1, 2, 3, 4, 5, 6
SUM = 0x64
ANSWER_SECONDS = 0.02
ANSWER_TIMEOUT = 0.5
MOST_CONNECTIONS = 60
# Of the server that is strict with its clients.
MOST_PER_HOST = 4
IDLE = 1.0
# Turns of the application between two forks, and seconds that one may live.
FORK_TURNS = 300
FORK_LIFE = 30


class SumResponse(ModbusResponse):
    function_code = SUM

    def __init__(self, total, **kwargs):
        super().__init__(**kwargs)
        self.total = total

    def encode(self):
        return struct.pack(">BH", 2, self.total & 0xFFFF)


class SumRequest(ModbusRequest):
    function_code = SUM
    _rtu_frame_size = 8

    def decode(self, data):
        self.address, self.count = struct.unpack(">HH", data[:4])

    def execute(self, context):
        values = context.getValues(3, self.address, self.count)
        if isinstance(values, Deferred):
            # A broadcast is for the unit that answers later too.
            values.addErrback(lambda _: None)
            values = ()
        return SumResponse(sum(values))


class CountedBlock(ModbusSequentialDataBlock):
    """Python is asked for every value."""

    def getValues(self, address, count=1):
        return [(address + index) & 0xFFFF for index in range(count)]


class LaterBlock(ModbusSequentialDataBlock):
    """Answers later: soon, or with an error, or never."""

    def getValues(self, address, count=1):
        answer = Deferred()
        if address % 4 < 2:
            reactor.callLater(ANSWER_SECONDS * (address % 4), self._answer, answer, [address & 0xFFFF] * count)
        elif address % 4 == 2:
            reactor.callLater(0, self._answer, answer, None)
        return answer

    def _answer(self, answer, values):
        # Who has gone, or whose time is over, has cancelled it.
        if not answer.called:
            answer.errback(OSError("the sensor does not answer")) if values is None else answer.callback(values)


class BrokenBlock(ModbusSequentialDataBlock):
    def getValues(self, address, count=1):
        raise OSError("the sensor does not answer")


def unit(hr, **tables):
    return ModbusSlaveContext(hr=hr, zero_mode=True, **tables)


def connections():
    """The peers of this process' connections."""
    found = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as one:
            if one.family == socket.AF_INET:
                found.append(one.getpeername())
    return found


class Application:
    """What a user's program does meanwhile: its threads use the image that the clients use."""

    def __init__(self):
        self.plain = unit(ModbusSequentialDataBlock(0, [0] * CELLS), files={4: list(range(100))}, fifos={0x04DE: [1, 2, 3]})
        self.growing = ModbusSparseDataBlock(dict.fromkeys(range(CELLS), 0))
        units = {
            PLAIN: self.plain,
            COUNTED: unit(CountedBlock(0, [0] * CELLS)),
            LATER: unit(LaterBlock(0, [0] * CELLS)),
            BROKEN: unit(BrokenBlock(0, [0] * CELLS)),
            GROWING: unit(self.growing),
        }
        self.context = ModbusServerContext(slaves=dict(units), single=False)
        self.context.add_observer(self._hear)
        # The same units for servers that nobody observes: these answer together what comes together.
        self.unobserved = ModbusServerContext(slaves=dict(units), single=False)
        self.heard = self.counted = self.torn = self.turns = 0
        # Of the clients' writes that count themselves: the last of each that was heard of, and those that came out of order.
        self.last = {}
        self.disorder = 0
        self.failures = []
        self.forks = 0
        self._handles = ()
        self._over = threading.Event()
        self._threads = []
        for work in (self._write, self._read, self._replace, self._grow):
            self._begin(work)

    def _begin(self, work):
        self._threads.append(threading.Thread(target=self._guarded, args=(work,)))
        self._threads[-1].start()

    def fork_now_and_then(self, handles):
        """Fork the process while it serves; `handles`: of its servers."""
        self._handles = handles
        self._begin(self._fork)

    def state(self):
        return {name: getattr(self, name) for name in ("heard", "counted", "torn", "disorder", "turns", "forks", "failures")}

    def end(self):
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _hear(self, unit_id, table, address, values):
        self.heard += 1
        if unit_id == PLAIN and table == "holding_registers" and len(values) == 2 and address < SAME:
            number = values[0] << 16 | values[1]
            # Of values that were written again before they were heard of, the last ones are told.
            self.disorder += number <= self.last.get(address, -1)
            self.counted += 1
            self.last[address] = number

    def _guarded(self, work):
        number = 0
        try:
            while not self._over.wait(0.0005):
                number += 1
                work(number & 0xFFFF)
                self.turns += 1
        except BaseException as error:
            self.failures.append(repr(error))

    def _write(self, number):
        self.plain.setValues(3, SAME, [number] * SAME_COUNT)
        self.plain.setValues(4, SAME, [number] * SAME_COUNT)

    def _read(self, number):
        self.torn += len(set(self.plain.getValues(3, SAME, SAME_COUNT))) != 1
        self.torn += len(set(self.plain.getValues(4, SAME, SAME_COUNT))) != 1

    def _replace(self, number):
        """A unit that comes and goes, and whose blocks are replaced."""
        if number % 20 == 0:
            passing = unit(ModbusSequentialDataBlock(0, [number] * CELLS) if number % 40 else CountedBlock(0, [0] * CELLS))
            self.context[PASSING] = passing
        elif number % 20 == 10 and PASSING in self.context:
            self.context[PASSING].store["h"] = ModbusSequentialDataBlock(0, [number] * CELLS)
        elif number % 20 == 19 and PASSING in self.context:
            del self.context[PASSING]

    def _grow(self, number):
        """A block whose addresses come and go, beside those that clients write."""
        address = 2 * CELLS + number % 100
        if number // 100 % 2:
            self.growing.setValues(address, {address: number})
        else:
            self.growing.values.pop(address, None)

    def _fork(self, number):
        if number % FORK_TURNS:
            return
        child = os.fork()
        if not child:
            os._exit(self._in_fork())
        _, status = os.waitpid(child, 0)
        self.forks += 1
        if status:
            self.failures.append(f"a fork ends with {os.waitstatus_to_exitcode(status)}")

    def _in_fork(self):
        """A process that was forked: the image is whole, and the servers are the parent's; its exit code."""
        signal.alarm(FORK_LIFE)
        try:
            assert len(set(self.plain.getValues(3, SAME, SAME_COUNT))) == 1, "a torn image"
            assert connections() == [], "connections that a client would not see end"
            for handle in self._handles:
                refusal = ""
                try:
                    handle.alive  # noqa: B018
                except RuntimeError as error:
                    refusal = str(error)
                assert "since a fork" in refusal, f"in a fork {handle} can be used: {refusal}"
        except BaseException:
            traceback.print_exc()
            return 1
        return 0


def main(order):
    # What clients make a user's blocks raise is reported, and of no interest; what goes wrong elsewhere is.
    logging.disable(logging.CRITICAL)
    unexpected = []

    def notice(event):
        if "log_failure" in event:
            unexpected.append(event["log_failure"].getTraceback())

    globalLogPublisher.addObserver(notice)
    application = Application()
    if order["gated"]:
        for host in (HOST, *GUESTS):
            device.ModbusAccessControl().add(host)
    options = {"custom_functions": [SumRequest], "answer_timeout": ANSWER_TIMEOUT, "defer_reactor_run": True, "engine": True}
    handles = {
        "tcp": StartTcpServer(application.context, address=(HOST, 0), max_connections=MOST_CONNECTIONS, **options),
        "rtu-over-tcp": StartTcpServer(application.unobserved, address=(HOST, 0), framer=ModbusRtuFramer, **options),
    }
    handles["limited"] = StartTcpServer(
        application.unobserved, address=(HOST, 0), max_connections_per_host=MOST_PER_HOST, idle_timeout=IDLE, **options
    )
    handles["udp"] = StartUdpServer(application.context, address=(HOST, 0), **options)
    if order["line"]:
        handles["line"] = StartSerialServer(application.context, framer=ModbusRtuFramer, port=order["line"], baudrate=115200, **options)

    def converse():
        for _ in sys.stdin:
            say(application.state())
        # First: a fork finds servers that are not stopped.
        application.end()
        StopServer()

    reactor.callWhenRunning(say, {name: handle.port for name, handle in handles.items()})
    reactor.callWhenRunning(threading.Thread(target=converse, daemon=True).start)
    if order["forks"]:
        # Newer Pythons warn of what is tried here.
        warnings.filterwarnings("ignore", ".*is multi-threaded, use of fork", DeprecationWarning)
        # After the loops have begun, with the reactor: until then they are nobody's.
        reactor.callWhenRunning(reactor.callLater, 0, application.fork_now_and_then, tuple(handles.values()))
    reactor.run()
    state = application.state() | {"unexpected": unexpected}
    say(state)
    return int(bool(state["torn"] or state["disorder"] or state["failures"] or unexpected))


def say(words):
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
