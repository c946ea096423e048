"""As pymodbus' updating server: the reactor's loop calls a function that reads and writes the context. Argument: the port."""

import sys

from twisted.internet.task import LoopingCall

from mbcore.pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from mbcore.pymodbus.device import ModbusDeviceIdentification
from mbcore.pymodbus.server.asynchronous import StartTcpServer


def updating_writer(a):
    context = a[0]
    register = 3
    slave_id = 0x00
    address = 0x10
    values = context[slave_id].getValues(register, address, count=5)
    context[slave_id].setValues(register, address, [v + 1 for v in values])


def run_updating_server(port):
    store = ModbusSlaveContext(
        di=ModbusSequentialDataBlock(0, [17] * 100),
        co=ModbusSequentialDataBlock(0, [17] * 100),
        hr=ModbusSequentialDataBlock(0, [17] * 100),
        ir=ModbusSequentialDataBlock(0, [17] * 100),
    )
    context = ModbusServerContext(slaves=store, single=True)
    identity = ModbusDeviceIdentification()
    identity.VendorName = "pymodbus"
    loop = LoopingCall(f=updating_writer, a=(context,))
    loop.start(0.05, now=False)
    StartTcpServer(context, identity=identity, address=("127.0.0.1", port))


if __name__ == "__main__":
    run_updating_server(int(sys.argv[1]))
