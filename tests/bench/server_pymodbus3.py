"""A Modbus TCP server of pymodbus 3 on asyncio, as its documentation starts one."""

import argparse

from pymodbus.datastore import ModbusDeviceContext, ModbusSequentialDataBlock, ModbusServerContext
from pymodbus.server import StartTcpServer

SIZE = 1000

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--port", type=int, required=True)
chosen = options.parse_args()

# The pattern that mbload --expect pattern knows; block address 1 is wire address 0.
registers = [(a * 40503 + 0x1234) & 0xFFFF for a in range(SIZE)]
bits = [bool(a.bit_count() & 1) for a in range(SIZE)]
device = ModbusDeviceContext(
    di=ModbusSequentialDataBlock(1, bits),
    co=ModbusSequentialDataBlock(1, bits),
    hr=ModbusSequentialDataBlock(1, registers),
    ir=ModbusSequentialDataBlock(1, registers),
)
StartTcpServer(ModbusServerContext(devices=device, single=True), address=("127.0.0.1", chosen.port))
