"""Modbus servers on Twisted: protocols, factories and the functions that start and stop them.

Pure Python; what a request means is decided in the compiled rooms below. ``from mbcore.server import StartTcpServer``.
A name's module is loaded when the name is first asked for: whoever wants a module below alone, as the command line's tools for boards do,
does not wait for Twisted.
"""

if __name__ != "mbcore.server":
    raise ImportError("this folder is imported as mbcore.server: install mbcore and write `import mbcore.server`, not `import server`")

from importlib import import_module
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from .factory import ModbusServerFactory
    from .foreign import IgnoredKeywordWarning
    from .running import RunningServer, StopServer
    from .start import StartSerialServer, StartTcpServer, StartTlsServer, StartUdpServer
    from .tcp import ModbusTcpProtocol
    from .udp import ModbusUdpProtocol
else:
    _MODULES = {
        "IgnoredKeywordWarning": "foreign",
        "ModbusServerFactory": "factory",
        "ModbusTcpProtocol": "tcp",
        "ModbusUdpProtocol": "udp",
        "RunningServer": "running",
        "StartSerialServer": "start",
        "StartTcpServer": "start",
        "StartTlsServer": "start",
        "StartUdpServer": "start",
        "StopServer": "running",
    }

    def __getattr__(name):
        if name in _MODULES:
            found = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
            return found
        # mbcore.server.tcp is there without an import of its own.
        try:
            return import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None

    def __dir__():
        return sorted({*globals(), *__all__})
