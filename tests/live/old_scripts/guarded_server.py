"""Servers for a few hosts only, which log the ports that they choose. Arguments: the certificate and its key."""

import logging
import sys

from mbcore.pymodbus.device import ModbusAccessControl
from mbcore.pymodbus.server.asynchronous import StartTcpServer, StartUdpServer
from mbcore.server import StartTlsServer

logging.basicConfig(level=logging.INFO)


def run_guarded_servers(certfile, keyfile):
    access = ModbusAccessControl()
    access.add(["127.0.0.2", "127.0.4.0/24"])
    access.remove("127.0.0.1")
    StartTlsServer(None, address=("127.0.0.1", 0), defer_reactor_run=True, certfile=certfile, keyfile=keyfile)
    StartUdpServer(None, address=("127.0.0.1", 0), defer_reactor_run=True)
    StartTcpServer(None, address=("127.0.0.1", 0))


if __name__ == "__main__":
    run_guarded_servers(*sys.argv[1:])
