"""The entries of the event log, bit by bit as AP 6.10 has them."""

import pytest

from mbcore.errors import NotImplementedException, ParameterException
from mbcore.events import (
    CommunicationRestartEvent,
    EnteredListenModeEvent,
    ModbusEvent,
    RemoteReceiveEvent,
    RemoteSendEvent,
    decode_event,
)

RECEIVE_BITS = {"error": 1, "overrun": 4, "listen": 5, "broadcast": 6}
SEND_BITS = {"read": 0, "slave_abort": 1, "slave_busy": 2, "slave_nak": 3, "write_timeout": 4, "listen": 5}


@pytest.mark.parametrize(("kind", "base", "name", "bit"), [
    *((RemoteReceiveEvent, 0x80, name, bit) for name, bit in RECEIVE_BITS.items()),
    *((RemoteSendEvent, 0x40, name, bit) for name, bit in SEND_BITS.items()),
])
def test_each_flag_is_its_bit(kind, base, name, bit):
    octet = bytes([base | 1 << bit])
    assert kind(**{name: True}).encode() == octet
    event = kind()
    event.decode(octet)
    assert getattr(event, name) is True
    assert event == kind(**{name: True})
    event.decode(bytes([base]))
    assert getattr(event, name) is False


def test_events_without_flags():
    assert RemoteReceiveEvent().encode() == b"\x80"
    assert RemoteSendEvent().encode() == b"\x40"
    assert EnteredListenModeEvent().encode() == b"\x04"
    assert CommunicationRestartEvent().encode() == b"\x00"


@pytest.mark.parametrize(("kind", "octet"), [(EnteredListenModeEvent, b"\x00"), (CommunicationRestartEvent, b"\x04"),
                                             (RemoteReceiveEvent, b""), (RemoteSendEvent, b"\x40\x40")])
def test_a_byte_of_another_event_is_refused(kind, octet):
    with pytest.raises(ParameterException):
        kind().decode(octet)


@pytest.mark.parametrize("code", [*range(0x40, 0x80), *range(0x80, 0x100, 2), 0x04, 0x00])
def test_every_byte_of_the_log_is_an_event(code):
    event = decode_event(code)
    if code & 0x80:
        used = 0x80 | sum(1 << bit for bit in RECEIVE_BITS.values())
        assert isinstance(event, RemoteReceiveEvent)
        assert event.encode() == bytes([code & used])
    else:
        assert event.encode() == bytes([code])


def test_a_byte_that_is_no_event_is_refused():
    with pytest.raises(ParameterException):
        decode_event(0x05)


def test_the_base_class_has_no_byte():
    for call in (lambda: ModbusEvent().encode(), lambda: ModbusEvent().decode(b"\x00")):
        with pytest.raises(NotImplementedException, match="ModbusEvent"):
            call()


def test_events_are_told_apart():
    assert RemoteReceiveEvent() != RemoteReceiveEvent(listen=True)
    assert RemoteReceiveEvent() != 0x80
