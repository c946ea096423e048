"""As pymodbus' payload server: the registers are what a payload builder made. Arguments: the port, the byte order and the word order."""

import sys

from mbcore.pymodbus.constants import Endian
from mbcore.pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from mbcore.pymodbus.payload import BinaryPayloadBuilder
from mbcore.pymodbus.server.asynchronous import StartTcpServer


def run_payload_server(port, byteorder, wordorder):
    builder = BinaryPayloadBuilder(byteorder=getattr(Endian, byteorder), wordorder=getattr(Endian, wordorder))
    builder.add_string("abcdefgh")
    builder.add_bits([0, 1, 0, 1, 1, 0, 1, 0])
    builder.add_8bit_int(-0x12)
    builder.add_8bit_uint(0x12)
    builder.add_16bit_int(-0x5678)
    builder.add_16bit_uint(0x1234)
    builder.add_32bit_int(-0x1234)
    builder.add_32bit_uint(0x12345678)
    builder.add_32bit_float(22.34)
    builder.add_32bit_float(-22.34)
    builder.add_64bit_int(-0xDEADBEEF)
    builder.add_64bit_uint(0x12345678DEADBEEF)
    builder.add_64bit_float(123.45)
    block = ModbusSequentialDataBlock(1, builder.to_registers())
    store = ModbusSlaveContext(di=block, co=block, hr=block, ir=block)
    context = ModbusServerContext(slaves=store, single=True)
    StartTcpServer(context, address=("127.0.0.1", port))


if __name__ == "__main__":
    run_payload_server(int(sys.argv[1]), *sys.argv[2:])
