"""The framers: MBAP, RTU, ASCII, binary, and the bare PDU inside TLS.

A framer's module is loaded when the framer is first asked for: a server needs one of them, and each takes some 40 KB of memory.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mbcore.framer.base import Framer, build_request, parse_response

__all__ = [
    "Framer", "ModbusAsciiFramer", "ModbusBinaryFramer", "ModbusRtuFramer", "ModbusSocketFramer", "ModbusTlsFramer", "build_request",
    "parse_response",
]

if TYPE_CHECKING:
    from mbcore.framer.ascii import ModbusAsciiFramer
    from mbcore.framer.binary import ModbusBinaryFramer
    from mbcore.framer.rtu import ModbusRtuFramer
    from mbcore.framer.socket import ModbusSocketFramer
    from mbcore.framer.tls import ModbusTlsFramer
else:  # a type checker would take every name for an existing one

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = name.removeprefix("Modbus").removesuffix("Framer").lower()
        framer = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
        return framer

    def __dir__():
        return sorted({*globals(), *__all__})
