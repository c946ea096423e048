"""Run with pymodbus 2.5.3: reads a payload from a server and prints what its decoder makes of it, a value a line.

Arguments: the port, the byte order and the word order.
"""

import sys

from pymodbus.client.sync import ModbusTcpClient
from pymodbus.constants import Endian
from pymodbus.payload import BinaryPayloadDecoder

port, byteorder, wordorder = sys.argv[1:]
client = ModbusTcpClient("127.0.0.1", port=int(port))
registers = client.read_holding_registers(0, 28, unit=1).registers
client.close()
decoder = BinaryPayloadDecoder.fromRegisters(registers, byteorder=getattr(Endian, byteorder), wordorder=getattr(Endian, wordorder))
print(decoder.decode_string(8).decode())
print(*map(int, decoder.decode_bits()))
for kind in ("8bit_int", "8bit_uint", "16bit_int", "16bit_uint", "32bit_int", "32bit_uint"):
    print(getattr(decoder, f"decode_{kind}")())
for _ in range(2):
    print(f"{decoder.decode_32bit_float():.4f}")
print(decoder.decode_64bit_int(), decoder.decode_64bit_uint(), decoder.decode_64bit_float(), sep="\n")
