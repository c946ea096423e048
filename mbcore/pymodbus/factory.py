"""From a PDU to a message."""

from mbcore.messages import ClientDecoder, ServerDecoder

__all__ = [
    "ClientDecoder",
    "ServerDecoder",
]
