"""The servers; pymodbus has them in ``server.asynchronous``."""

from mbcore.pymodbus.server.asynchronous import (
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
]
