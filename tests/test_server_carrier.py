"""What carries a serial line's bytes: the compiled loop where it can, Twisted where something wants to see them."""

import logging
import sys

import pytest
from doubles import Reactor

from mbcore.errors import ConfigurationError
from mbcore.server import StartSerialServer, serial
from mbcore.server.serial import ModbusSerialFactory

LINE = "/dev/ttyX"
LOOP = [{"engine": True}, {"realtime": True}, {"direction": "rts"}, {"direction": "gpio", "direction_line": 4}]
WISHES = ["engine is True", "realtime is True", 'direction is "rts"', 'direction is "gpio"']


@pytest.mark.parametrize(("options", "wish"), list(zip(LOOP, WISHES, strict=True)))
@pytest.mark.parametrize(
    ("circumstance", "obstacle"),
    [
        ({"trace_pdu": lambda sending, pdu: pdu}, "trace_pdu is given, which sees every message"),
        ({"trace_packet": lambda sending, data: data}, "trace_packet is given, which sees every message"),
    ],
)
def test_what_only_the_compiled_loop_does_is_refused_where_it_cannot_run(options, wish, circumstance, obstacle):
    with pytest.raises(ConfigurationError, match=f"{wish}, which needs the compiled loop, but {obstacle}: leave one of the two out"):
        StartSerialServer(port=LINE, reactor=Reactor(), defer_reactor_run=True, **options, **circumstance)


@pytest.mark.parametrize(("options", "wish"), list(zip(LOOP[1:], WISHES[1:], strict=True)))
def test_what_only_the_compiled_loop_does_is_refused_without_it(options, wish):
    with pytest.raises(ConfigurationError, match=f"{wish}, which needs the compiled loop, but engine is False"):
        StartSerialServer(port=LINE, reactor=Reactor(), defer_reactor_run=True, engine=False, **options)


def carrier_of(monkeypatch, **options):
    """What would carry the bytes of such a line."""
    monkeypatch.setattr(serial.Line, "open", lambda line: None)
    factory = ModbusSerialFactory(None, None, None, {"port": LINE, **options}, reactor=Reactor())
    return factory, serial.open_line(factory)


def test_the_compiled_loop_carries_the_bytes_where_it_can(monkeypatch):
    factory, line = carrier_of(monkeypatch)
    assert type(line._carrier).__name__ == "LoopCarrier"
    assert factory.engine is True


@pytest.mark.parametrize("reason", ["asked", "elsewhere", "protocol", "debug"])
def test_twisted_carries_them_otherwise(monkeypatch, caplog, reason):
    options = {}
    if reason == "asked":
        options["engine"] = False
    elif reason == "elsewhere":
        monkeypatch.setattr(sys, "platform", "darwin")
    elif reason == "protocol":
        monkeypatch.setattr(ModbusSerialFactory, "protocol", type("Mine", (serial.ModbusSerialProtocol,), {}))
    else:
        caplog.set_level(logging.DEBUG)
    factory, line = carrier_of(monkeypatch, **options)
    assert type(line._carrier) is serial.TwistedCarrier
    assert factory.engine is False


def test_a_log_of_every_message_is_no_obstacle_where_the_loop_is_asked_for(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    assert carrier_of(monkeypatch, engine=True)[0].engine is True
