"""The TLS framer."""

from mbcore.framer.face import ModbusTlsFramer

__all__ = [
    "ModbusTlsFramer",
]
