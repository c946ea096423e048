"""The framers: MBAP, RTU, ASCII, binary, and the bare PDU inside TLS."""

from mbcore.framer.ascii import ModbusAsciiFramer
from mbcore.framer.base import Framer, build_request, parse_response
from mbcore.framer.binary import ModbusBinaryFramer
from mbcore.framer.rtu import ModbusRtuFramer
from mbcore.framer.socket import ModbusSocketFramer
from mbcore.framer.tls import ModbusTlsFramer

__all__ = [
    "Framer", "ModbusAsciiFramer", "ModbusBinaryFramer", "ModbusRtuFramer", "ModbusSocketFramer", "ModbusTlsFramer", "build_request",
    "parse_response",
]
