"""The TLS framer."""

from mbcore.framer import ModbusTlsFramer

__all__ = [
    "ModbusTlsFramer",
]
