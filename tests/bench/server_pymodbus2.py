"""A Modbus server of pymodbus 2.5.3 on Twisted, as its documentation starts one: TCP, or RTU on a serial line."""

import argparse
import threading
import time

from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.server.asynchronous import StartTcpServer

SIZE = 1000
BLOCKED_FOR = 0.5  # seconds

options = argparse.ArgumentParser(description=__doc__)
carrier = options.add_mutually_exclusive_group(required=True)
carrier.add_argument("--port", type=int)
carrier.add_argument("--serial", metavar="PATH")
options.add_argument("--own-block", action="store_true", help="holding registers in a data block whose getValues is the user's")
options.add_argument("--observer", action="store_true", help="holding registers in a data block whose setValues is the user's")
options.add_argument("--busy", choices=("sleep", "compute"), help="the application blocks the reactor, or holds the GIL in a thread")
chosen = options.parse_args()


class OwnBlock(ModbusSequentialDataBlock):
    """The least that a user's block does: it sees every read."""

    reads = 0

    def getValues(self, address, count=1):
        self.reads += 1
        return super().getValues(address, count)


class Observer(ModbusSequentialDataBlock):
    """pymodbus has no observers: its callback server is a block that sees every write."""

    writes = 0

    def setValues(self, address, values):
        super().setValues(address, values)
        self.writes += 1


# The pattern that mbload --expect pattern knows; block address 1 is wire address 0.
registers = [(a * 40503 + 0x1234) & 0xFFFF for a in range(SIZE)]
bits = [a.bit_count() & 1 for a in range(SIZE)]
slave = ModbusSlaveContext(
    di=ModbusSequentialDataBlock(1, bits),
    co=ModbusSequentialDataBlock(1, bits),
    hr=(OwnBlock if chosen.own_block else Observer if chosen.observer else ModbusSequentialDataBlock)(1, registers),
    ir=ModbusSequentialDataBlock(1, registers),
)
context = ModbusServerContext(slaves=slave, single=True)


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
    """RTU by the quickest of its servers: this one answers as soon as a frame is whole, the synchronous ones wait for a time-out.

    Says on standard output when the port is open.
    """
    from pymodbus.framer.rtu_framer import ModbusRtuFramer
    from pymodbus.server.asynchronous import StartSerialServer
    from twisted.internet import reactor

    StartSerialServer(context, framer=ModbusRtuFramer, port=port, baudrate=115200, timeout=0, defer_reactor_run=True)
    print("ready", flush=True)
    reactor.run()


if chosen.serial:
    serve_line(chosen.serial)
else:
    StartTcpServer(context, address=("127.0.0.1", chosen.port))
