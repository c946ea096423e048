"""As pymodbus' asynchronous server: four tables, an identity, and the server that the arguments name: a kind, and its port or device."""

import logging
import sys

from mbcore.pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from mbcore.pymodbus.device import ModbusDeviceIdentification
from mbcore.pymodbus.server.asynchronous import StartSerialServer, StartTcpServer, StartUdpServer
from mbcore.pymodbus.transaction import ModbusAsciiFramer, ModbusRtuFramer
from mbcore.pymodbus.version import version

FORMAT = "%(asctime)-15s %(threadName)-15s %(levelname)-8s %(module)-15s:%(lineno)-8s %(message)s"
logging.basicConfig(format=FORMAT)
log = logging.getLogger()
log.setLevel(logging.DEBUG)


def run_async_server(kind, place):
    store = ModbusSlaveContext(
        di=ModbusSequentialDataBlock(0, [17] * 100),
        co=ModbusSequentialDataBlock(0, [17] * 100),
        hr=ModbusSequentialDataBlock(0, [17] * 100),
        ir=ModbusSequentialDataBlock(0, [17] * 100),
    )
    context = ModbusServerContext(slaves=store, single=True)
    identity = ModbusDeviceIdentification()
    identity.VendorName = "Pymodbus"
    identity.ProductCode = "PM"
    identity.VendorUrl = "http://example.org/"
    identity.ProductName = "Pymodbus Server"
    identity.ModelName = "Pymodbus Server"
    identity.MajorMinorRevision = version.short()

    if kind == "tcp":
        StartTcpServer(context, identity=identity, address=("127.0.0.1", int(place)))
    elif kind == "deferred":
        from twisted.internet import reactor

        StartTcpServer(context, identity=identity, address=("127.0.0.1", int(place)), defer_reactor_run=True)
        reactor.run()
    elif kind == "rtu-over-tcp":
        StartTcpServer(context, identity=identity, address=("127.0.0.1", int(place)), framer=ModbusRtuFramer)
    elif kind == "udp":
        StartUdpServer(context, identity=identity, address=("127.0.0.1", int(place)))
    elif kind == "rtu":
        StartSerialServer(context, identity=identity, port=place, framer=ModbusRtuFramer)
    elif kind == "ascii":
        StartSerialServer(context, identity=identity, port=place, framer=ModbusAsciiFramer)


if __name__ == "__main__":
    run_async_server(*sys.argv[1:])
