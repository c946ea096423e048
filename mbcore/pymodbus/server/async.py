"""pymodbus 1.x's name of :mod:`mbcore.pymodbus.server.asynchronous`.

``async`` is a keyword since Python 3.7: no import statement can name this module, but what takes a module's name as text can.
"""

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
