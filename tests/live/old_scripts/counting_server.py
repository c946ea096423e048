"""A server that shows masters its own counters: the script asks for "the" control block, which is its server's. Argument: the port."""

import sys

from twisted.internet.task import LoopingCall

from mbcore.pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from mbcore.pymodbus.device import ModbusControlBlock
from mbcore.pymodbus.server.asynchronous import StartTcpServer


def show_counters(context, control):
    context[0].setValues(4, 0, [control.Counter.BusMessage, control.Counter.BusExceptionError, len(control.Events)])


def run_counting_server(port):
    ModbusControlBlock().Identity.VendorName = "ACME"
    context = ModbusServerContext(slaves=ModbusSlaveContext(ir=ModbusSequentialDataBlock(1, [0] * 3)), single=True)
    LoopingCall(show_counters, context, ModbusControlBlock()).start(0.05)
    StartTcpServer(context, address=("127.0.0.1", port))


if __name__ == "__main__":
    run_counting_server(int(sys.argv[1]))
