"""A Modbus server of pymodbus 2.5.3 on Twisted, as its documentation starts one: TCP, or RTU on a serial line."""

import argparse

from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.server.asynchronous import StartTcpServer

SIZE = 1000

options = argparse.ArgumentParser(description=__doc__)
carrier = options.add_mutually_exclusive_group(required=True)
carrier.add_argument("--port", type=int)
carrier.add_argument("--serial", metavar="PATH")
options.add_argument("--own-block", action="store_true", help="holding registers in a data block whose getValues is Python's")
chosen = options.parse_args()


class OwnBlock(ModbusSequentialDataBlock):
    """The least that a user's block does: it sees every read."""

    reads = 0

    def getValues(self, address, count=1):
        self.reads += 1
        return super().getValues(address, count)


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
