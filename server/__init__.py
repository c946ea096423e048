"""Modbus servers on Twisted: protocols, factories and the functions that start and stop them.

Pure Python; what a request means is decided in the compiled rooms below. ``from mbcore.server import StartTcpServer``.
"""

if __name__ != "mbcore.server":
    raise ImportError("this folder is imported as mbcore.server: install mbcore and write `import mbcore.server`, not `import server`")

from .factory import ModbusServerFactory
from .options import IgnoredKeywordWarning
from .running import RunningServer, StopServer
from .start import StartSerialServer, StartTcpServer, StartTlsServer, StartUdpServer
from .tcp import ModbusTcpProtocol
from .udp import ModbusUdpProtocol

__all__ = [
    "IgnoredKeywordWarning",
    "ModbusServerFactory",
    "ModbusTcpProtocol",
    "ModbusUdpProtocol",
    "RunningServer",
    "StartSerialServer",
    "StartTcpServer",
    "StartTlsServer",
    "StartUdpServer",
    "StopServer",
]
