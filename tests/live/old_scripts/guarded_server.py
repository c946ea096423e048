"""Servers for a few hosts only. Arguments: the port of TCP and UDP, that of TLS, the certificate and its key."""

import sys

from mbcore.pymodbus.device import ModbusAccessControl
from mbcore.pymodbus.server.asynchronous import StartTcpServer, StartUdpServer
from mbcore.server import StartTlsServer


def run_guarded_servers(port, tls_port, certfile, keyfile):
    access = ModbusAccessControl()
    access.add(["127.0.0.2", "127.0.4.0/24"])
    access.remove("127.0.0.1")
    StartTlsServer(None, address=("127.0.0.1", tls_port), defer_reactor_run=True, certfile=certfile, keyfile=keyfile)
    StartUdpServer(None, address=("127.0.0.1", port), defer_reactor_run=True)
    StartTcpServer(None, address=("127.0.0.1", port))


if __name__ == "__main__":
    run_guarded_servers(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
