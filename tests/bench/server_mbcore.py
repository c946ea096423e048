"""A Modbus server of mbcore with a plain context: TCP on Twisted, or RTU on a serial line."""

import argparse

from mbcore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from mbcore.server import StartTcpServer

SIZE = 1000

options = argparse.ArgumentParser(description=__doc__)
carrier = options.add_mutually_exclusive_group(required=True)
carrier.add_argument("--port", type=int)
carrier.add_argument("--serial", metavar="PATH")
options.add_argument("--twisted", action="store_true", help="Twisted carries the line's bytes, not the compiled loop")
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
    StartTcpServer(context, address=("127.0.0.1", chosen.port))
