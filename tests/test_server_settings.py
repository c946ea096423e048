"""What users say about a serial line: taken, or refused with one sentence."""

from pathlib import Path

import pytest
from adu import block, image, units

from mbcore import ModbusAsciiFramer, ModbusBinaryFramer, ModbusRtuFramer, ModbusServerContext
from mbcore.errors import ConfigurationError
from mbcore.server.rs485 import Direction
from mbcore.server.settings import check_line, frame_gap

T35 = 3.5 * 11 / 19200


def checked(framer=ModbusRtuFramer, store=None, **given):
    return check_line(given, framer, store or ModbusServerContext())


@pytest.mark.parametrize(
    ("baudrate", "gap"),
    [(9600, 3.5 * 11 / 9600), (19200, 3.5 * 11 / 19200), (19201, 0.00175), (115200, 0.00175)],
)
def test_the_gap_between_frames_is_3_5_characters_of_11_bits_and_fixed_above_19200(baudrate, gap):
    assert frame_gap(baudrate) == pytest.approx(gap)


def test_without_a_word_a_line_is_as_pymodbus_has_it_and_careful():
    settings = checked()
    assert settings.name == "/dev/ttyS0"
    assert settings.port == {"baudrate": 19200, "bytesize": 8, "parity": "N", "stopbits": 1, "xonxoff": False, "rtscts": False}
    assert settings.session == {
        "frame_gap": pytest.approx(T35),
        "reply_delay": pytest.approx(T35),
        "reply_deadline": 1.0,
        "echo": "auto",
        "character_time": pytest.approx(11 / 19200),
        "paced": True,
        "units": None,
    }
    assert settings.direction == Direction()
    assert (settings.reopen, settings.low_latency, settings.engine, settings.realtime) == (True, True, None, False)


def test_every_keyword_has_its_place():
    settings = checked(
        port=Path("/dev/ttyUSB3"),
        baudrate=9600,
        bytesize=7,
        parity="O",
        stopbits=2,
        xonxoff=True,
        rtscts=True,
        units=range(3, 6),
        frame_gap=0.005,
        reply_delay=0.01,
        reply_deadline=0,
        echo="drop",
        direction="gpio",
        direction_chip="/dev/gpiochip4",
        direction_line=18,
        direction_active="low",
        delay_before=0.001,
        delay_after=0.002,
        reopen=False,
        low_latency=False,
        engine=False,
        realtime=True,
    )
    assert settings.name == "/dev/ttyUSB3"
    assert settings.port == {"baudrate": 9600, "bytesize": 7, "parity": "O", "stopbits": 2, "xonxoff": True, "rtscts": True}
    assert settings.session == {
        "frame_gap": 0.005,
        "reply_delay": 0.01,
        "reply_deadline": 0.0,
        "echo": "drop",
        "character_time": pytest.approx(11 / 9600),
        "paced": True,
        "units": (3, 4, 5),
    }
    assert settings.character_time == pytest.approx(11 / 9600)
    assert settings.direction == Direction("gpio", "/dev/gpiochip4", 18, "low", 0.001, 0.002)
    assert (settings.reopen, settings.low_latency, settings.engine, settings.realtime) == (False, False, False, True)


@pytest.mark.parametrize(
    ("framer", "given", "delay"),
    [
        (ModbusRtuFramer, {}, T35),
        (ModbusRtuFramer, {"frame_gap": 0.02}, 0.02),
        (ModbusRtuFramer, {"reply_delay": 0}, 0.0),
        (ModbusAsciiFramer, {}, 0.0),
        (ModbusBinaryFramer, {}, 0.0),
        (ModbusAsciiFramer, {"reply_delay": 0.003}, 0.003),
    ],
)
def test_a_reply_waits_for_the_frame_gap_with_rtu_alone(framer, given, delay):
    assert checked(framer, **given).session["reply_delay"] == pytest.approx(delay)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"port": 7}, 'the serial port is 7: give port= the name of a device, e.g. "/dev/ttyUSB0"'),
        ({"baudrate": "9600"}, "baudrate is '9600', a str: give a whole number, 1 or more"),
        ({"frame_gap": 0}, "frame_gap is 0: give seconds, 0.0001..1"),
        ({"frame_gap": 4}, "frame_gap is 4: give seconds, 0.0001..1"),
        ({"frame_gap": "4ms"}, "frame_gap is '4ms': give seconds, 0.0001..1"),
        ({"reply_delay": -1}, "reply_delay is -1: give seconds, 0..60"),
        ({"reply_delay": float("nan")}, "reply_delay is nan: give seconds, 0..60"),
        ({"reply_delay": True}, "reply_delay is True: give seconds, 0..60"),
        ({"reply_deadline": 61}, "reply_deadline is 61: give seconds, 0..60"),
        ({"reply_deadline": None}, "reply_deadline is None: give seconds, 0..60"),
        (
            {"reply_delay": 2},
            "reply_deadline is 1 s and no reply would go out before 2 s of reply_delay or frame gap are over:"
            " give a later one, or 0 for none",
        ),
        ({"echo": True}, "echo is True: give 'auto' or 'drop' or 'none'"),
        ({"echo": "AUTO"}, "echo is 'AUTO': give 'auto' or 'drop' or 'none'"),
        ({"reopen": 1}, "reopen is 1: give True or False"),
        ({"low_latency": None}, "low_latency is None: give True or False"),
        ({"realtime": "yes"}, "realtime is 'yes': give True or False"),
        ({"engine": 0}, "engine is 0: give True or False or None"),
        ({"units": 0}, "units names 0: unit ids on a serial line are whole numbers, 1..247"),
        ({"units": [1, 248]}, "units names 248: unit ids on a serial line are whole numbers, 1..247"),
        ({"units": True}, "units names True: unit ids on a serial line are whole numbers, 1..247"),
        ({"units": "12"}, "units names '12': unit ids on a serial line are whole numbers, 1..247"),
        ({"units": b"\1"}, "units names b'\\x01': unit ids on a serial line are whole numbers, 1..247"),
        ({"units": [1.0]}, "units names 1.0: unit ids on a serial line are whole numbers, 1..247"),
        ({"units": []}, "units is empty: name the unit ids that the line answers, or leave it out"),
    ],
)
def test_a_wrong_value_is_one_sentence(given, sentence):
    with pytest.raises(ConfigurationError) as caught:
        checked(**given)
    assert str(caught.value) == sentence


def test_a_wrong_direction_is_refused_too():
    with pytest.raises(ConfigurationError, match="direction_line is None: give its number"):
        checked(direction="gpio")
    with pytest.raises(ConfigurationError, match="both want RTS"):
        checked(direction="kernel", rtscts=True)


@pytest.mark.parametrize("given", [7, (7,), [7, 7], {7}, range(7, 8), iter([7])])
def test_units_are_one_or_several(given):
    assert checked(units=given).session["units"] == (7,)


def test_units_are_some_of_the_contexts():
    store = units(u1=image(hr=block([1])), u5=image(hr=block([5])))
    assert checked(store=store, units=[5]).session["units"] == (5,)
    with pytest.raises(ConfigurationError) as caught:
        checked(store=store, units=[1, 2])
    assert str(caught.value) == "units names 2, which the context does not have: add it there, or name some of 1, 5"
