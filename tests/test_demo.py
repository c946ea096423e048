"""The demo unit: what is where, how it moves, and what masters may keep there."""

import math

import pytest
from twisted.internet.task import Clock

from mbcore.server.demo import FREE, LIVE, SIZE, DemoValues, demo_context
from mbcore.values import from_registers

COILS, DISCRETE_INPUTS, HOLDING_REGISTERS, INPUT_REGISTERS = 1, 2, 3, 4


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def context():
    return demo_context()


@pytest.fixture
def sensor(tmp_path):
    file = tmp_path / "temp"
    file.write_text("48312\n")
    return file


def live(context, unit=1, function_code=HOLDING_REGISTERS):
    registers = list(context[unit].getValues(function_code, 0, LIVE))
    return {
        "counter": registers[0],
        "sine": from_registers(registers[1:3], "float32"),
        "uptime": from_registers(registers[3:5], "uint32"),
        "condition": from_registers(registers[5:6], "int16"),
    }


def test_unit_is_served_under_the_id_that_was_asked_for():
    context = demo_context(17)
    assert 17 in context
    assert 1 not in context


def test_values_are_there_at_once_and_move_every_second(context, clock, sensor):
    clock.advance(1000)  # the reactor's clock does not begin at 0
    DemoValues(context, sensor).start(clock)
    assert live(context) == {"counter": 0, "sine": 0.0, "uptime": 0, "condition": 483}
    for _ in range(15):
        clock.advance(1)
    now = live(context)
    assert now["counter"] == 15
    assert now["uptime"] == 15
    assert now["sine"] == pytest.approx(1.0)


def test_clock_is_the_installed_reactors_unless_another_is_given(context, clock, sensor, monkeypatch):
    monkeypatch.setattr("twisted.internet.reactor", clock, raising=False)
    DemoValues(context, sensor).start()
    clock.advance(1)
    assert live(context)["counter"] == 1


def test_sine_turns_once_a_minute(context, clock, sensor):
    DemoValues(context, sensor).start(clock)
    for second in range(1, 61):
        clock.advance(1)
        assert live(context)["sine"] == pytest.approx(math.sin(math.tau * second / 60), abs=1e-6)


def test_counter_begins_again_after_65535(context, clock, sensor):
    DemoValues(context, sensor).start(clock)
    clock.pump([1] * 65536)
    assert live(context)["counter"] == 0
    assert live(context)["uptime"] == 65536


def test_input_registers_show_the_same_as_holding_registers(context, clock, sensor):
    DemoValues(context, sensor).start(clock)
    clock.advance(1)
    assert live(context, function_code=INPUT_REGISTERS) == live(context, function_code=HOLDING_REGISTERS)


def test_discrete_inputs_follow_the_second_and_the_sine(context, clock, sensor):
    DemoValues(context, sensor).start(clock)
    seen = []
    for _ in range(60):
        clock.advance(1)
        seen.append([bool(bit) for bit in context[1].getValues(DISCRETE_INPUTS, 0, 2)])
    assert [blink for blink, _ in seen] == [True, False] * 30
    assert [above for _, above in seen[:29]] == [True] * 29
    assert [above for _, above in seen[30:59]] == [False] * 29


def test_temperature_below_zero_is_a_negative_int16(context, clock, sensor):
    sensor.write_text("-12500")
    DemoValues(context, sensor).start(clock)
    assert live(context)["condition"] == -125


def test_sensor_that_fails_now_and_then_keeps_its_last_value(context, clock, sensor):
    DemoValues(context, sensor).start(clock)
    sensor.write_text("busy")
    clock.advance(1)
    assert live(context) == {"counter": 1, "sine": pytest.approx(math.sin(math.tau / 60)), "uptime": 1, "condition": 483}


def test_load_average_stands_in_for_a_missing_sensor(context, clock, tmp_path, monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (1.57, 0.0, 0.0))
    values = DemoValues(context, tmp_path / "none")
    values.start(clock)
    assert live(context)["condition"] == 157
    assert any("load average" in row[3] for row in values.rows())


def test_overwhelming_load_stays_within_the_register(context, clock, tmp_path, monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (4000.0, 0.0, 0.0))
    DemoValues(context, tmp_path / "none").start(clock)
    assert live(context)["condition"] == 32767


def test_what_masters_write_stays(context, clock, sensor):
    DemoValues(context, sensor).start(clock)
    context[1].setValues(HOLDING_REGISTERS, FREE, [1] * (SIZE - FREE))
    context[1].setValues(COILS, 0, [True] * SIZE)
    clock.advance(1)
    assert list(context[1].getValues(HOLDING_REGISTERS, FREE, SIZE - FREE)) == [1] * (SIZE - FREE)
    assert all(context[1].getValues(COILS, 0, SIZE))


def test_stopped_values_stand_still(context, clock, sensor):
    values = DemoValues(context, sensor)
    values.start(clock)
    values.stop()
    clock.advance(5)
    assert live(context)["counter"] == 0
    assert not clock.getDelayedCalls()


def test_table_for_people_names_every_live_register(context, sensor):
    rows = DemoValues(context, sensor).rows()
    named = [(addresses, kind) for tables, addresses, kind, _ in rows if tables == "hr, ir"]
    assert named == [("0", "uint16"), ("1..2", "float32"), ("3..4", "uint32"), ("5", "int16")]
