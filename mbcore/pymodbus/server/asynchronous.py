"""The Twisted servers."""

from mbcore.compat import is_main_thread as _is_main_thread
from mbcore.server import (
    ModbusServerFactory,
    ModbusTcpProtocol,
    ModbusUdpProtocol,
    StartSerialServer,
    StartTcpServer,
    StartUdpServer,
    StopServer,
)

__all__ = [
    "ModbusServerFactory",
    "ModbusTcpProtocol",
    "ModbusUdpProtocol",
    "StartSerialServer",
    "StartTcpServer",
    "StartUdpServer",
    "StopServer",
    "_is_main_thread",
]
