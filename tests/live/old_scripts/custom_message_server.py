"""As pymodbus' server with a custom message: function 55 reads a table of its own. Arguments: "tcp" or "rtu", port or device."""

import logging
import struct
import sys

from mbcore.pymodbus.compat import int2byte
from mbcore.pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from mbcore.pymodbus.pdu import ModbusExceptions, ModbusRequest, ModbusResponse
from mbcore.pymodbus.server.asynchronous import StartSerialServer, StartTcpServer
from mbcore.pymodbus.transaction import ModbusRtuFramer

logging.basicConfig(level=logging.INFO)


class CustomModbusResponse(ModbusResponse):
    function_code = 55
    _rtu_byte_count_pos = 2

    def __init__(self, values=None, **kwargs):
        ModbusResponse.__init__(self, **kwargs)
        self.values = values or []

    def encode(self):
        result = int2byte(len(self.values) * 2)
        for register in self.values:
            result += struct.pack(">H", register)
        return result


class CustomModbusRequest(ModbusRequest):
    function_code = 55
    _rtu_frame_size = 8

    def __init__(self, address=None, **kwargs):
        ModbusRequest.__init__(self, **kwargs)
        self.address = address
        self.count = 16

    def decode(self, data):
        self.address, self.count = struct.unpack(">HH", data)

    def execute(self, context):
        if not 1 <= self.count <= 0x7D:
            return self.doException(ModbusExceptions.IllegalValue)
        if not context.validate(self.function_code, self.address, self.count):
            return self.doException(ModbusExceptions.IllegalAddress)
        return CustomModbusResponse(context.getValues(self.function_code, self.address, self.count))


def run_server(kind, place):
    store = ModbusSlaveContext(hr=ModbusSequentialDataBlock(0, [1] * 100))
    store.register(CustomModbusRequest.function_code, "cm", ModbusSequentialDataBlock(0, [17] * 100))
    context = ModbusServerContext(slaves=store, single=True)
    if kind == "tcp":
        StartTcpServer(context, address=("127.0.0.1", int(place)), custom_functions=[CustomModbusRequest])
    else:
        StartSerialServer(context, port=place, framer=ModbusRtuFramer, custom_functions=[CustomModbusRequest])


if __name__ == "__main__":
    run_server(*sys.argv[1:])
