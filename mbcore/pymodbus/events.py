"""The entries of the event log."""

from mbcore.events import (
    CommunicationRestartEvent,
    EnteredListenModeEvent,
    ModbusEvent,
    RemoteReceiveEvent,
    RemoteSendEvent,
)

__all__ = [
    "CommunicationRestartEvent",
    "EnteredListenModeEvent",
    "ModbusEvent",
    "RemoteReceiveEvent",
    "RemoteSendEvent",
]
