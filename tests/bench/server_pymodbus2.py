"""A Modbus/TCP server of pymodbus 2.5.3 on Twisted, as its documentation starts one."""

import argparse

from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.server.asynchronous import StartTcpServer

SIZE = 1000

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--port", type=int, required=True)
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
StartTcpServer(ModbusServerContext(slaves=slave, single=True), address=("127.0.0.1", chosen.port))
