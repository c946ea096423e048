"""A Modbus server of mbcore with a plain context: TCP, or RTU on a serial line, on the compiled loop or on Twisted."""

import argparse
import threading
import time

from mbcore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from mbcore.server import StartTcpServer

SIZE = 1000
BLOCKED_FOR = 0.5  # seconds

options = argparse.ArgumentParser(description=__doc__)
carrier = options.add_mutually_exclusive_group(required=True)
carrier.add_argument("--port", type=int)
carrier.add_argument("--serial", metavar="PATH")
options.add_argument("--twisted", action="store_true", help="Twisted carries the bytes, not the compiled loop")
options.add_argument("--own-block", action="store_true", help="holding registers in a data block whose getValues is Python's")
options.add_argument("--observer", action="store_true", help="a function hears of every write")
options.add_argument("--busy", choices=("sleep", "compute"), help="the application blocks the reactor, or holds the GIL in a thread")
chosen = options.parse_args()


class OwnBlock(ModbusSequentialDataBlock):
    """The least that a user's block does: it sees every read."""

    reads = 0

    def getValues(self, address, count=1):
        self.reads += 1
        return super().getValues(address, count)


class Observer:
    """The least that an observer does: it has seen every write."""

    writes = 0

    def __call__(self, unit_id, table, address, values):
        self.writes += 1


# The pattern that mbload --expect pattern knows; block address 1 is wire address 0.
registers = [(a * 40503 + 0x1234) & 0xFFFF for a in range(SIZE)]
bits = [a.bit_count() & 1 for a in range(SIZE)]
slave = ModbusSlaveContext(
    di=ModbusSequentialDataBlock(1, bits),
    co=ModbusSequentialDataBlock(1, bits),
    hr=(OwnBlock if chosen.own_block else ModbusSequentialDataBlock)(1, registers),
    ir=ModbusSequentialDataBlock(1, registers),
)
context = ModbusServerContext(slaves=slave, single=True)
if chosen.observer:
    context.add_observer(Observer())


def sleep_again_and_again():
    """Hold up the reactor; it has one turn in between."""
    from twisted.internet import reactor

    time.sleep(BLOCKED_FOR)
    reactor.callLater(0, sleep_again_and_again)


def compute():
    """Hold the GIL, as far as Python lets one."""
    while True:
        pass


def be_busy():
    """What else this program does; from the reactor's first turn on."""
    if chosen.busy == "sleep":
        sleep_again_and_again()
    else:
        threading.Thread(target=compute, daemon=True).start()


if chosen.busy:
    from twisted.internet import reactor

    reactor.callWhenRunning(be_busy)


def serve_line(port):
    """RTU without a reply delay; says on standard output when the port is open."""
    from twisted.internet import reactor

    from mbcore import ModbusRtuFramer
    from mbcore.server import StartSerialServer

    StartSerialServer(
        context, framer=ModbusRtuFramer, port=port, baudrate=115200, units=[1], reply_delay=0, engine=not chosen.twisted,
        defer_reactor_run=True,
    )  # fmt: skip
    print("ready", flush=True)
    reactor.run()


if chosen.serial:
    serve_line(chosen.serial)
else:
    StartTcpServer(context, address=("127.0.0.1", chosen.port), engine=not chosen.twisted)
