"""The demo unit: something to read and to write before the first line of one's own. Knows no transport.

Holding and input registers from address 0 carry live values; the registers from :data:`FREE` on, and all coils, keep what a master writes.
"""

import math
import os
from pathlib import Path
from typing import Any

from twisted.internet.task import LoopingCall

from mbcore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from mbcore.values import to_registers

#: Addresses of every table of the demo unit: 0..SIZE - 1.
SIZE = 200
#: The first register that the demo leaves to masters.
FREE = 100
#: Registers from address 0 that carry live values.
LIVE = 6
#: One turn of the sine, in seconds.
PERIOD = 60.0

SENSOR = Path("/sys/class/thermal/thermal_zone0/temp")

_DISCRETE_INPUTS, _HOLDING_REGISTERS, _INPUT_REGISTERS = 2, 3, 4


def demo_context(unit_id: int = 1) -> ModbusServerContext:
    """The context of a demo unit: four tables of :data:`SIZE` addresses, zero at the start."""
    slave = ModbusSlaveContext(
        di=ModbusSequentialDataBlock(0, [False] * SIZE),
        co=ModbusSequentialDataBlock(0, [False] * SIZE),
        hr=ModbusSequentialDataBlock(0, [0] * SIZE),
        ir=ModbusSequentialDataBlock(0, [0] * SIZE),
        zero_mode=True,
    )
    return ModbusServerContext(slaves={unit_id: slave}, single=False)


class DemoValues:
    """Keeps the live values of a demo context moving, once a second.

    :param context: what :func:`demo_context` made
    :param sensor: a file with the CPU temperature in 0.001 degC, as Linux' thermal zones have it; where it can't be read, the load average
        stands in for it
    """

    def __init__(self, context: ModbusServerContext, sensor: Path = SENSOR) -> None:
        self._context = context
        self._sensor = sensor
        self._temperature = _temperature(sensor)
        self._counter = 0
        self._clock: Any = None
        self._started = 0.0
        self._loop = LoopingCall(self._update)

    def start(self, reactor: Any = None) -> None:
        """Set the values now and then once a second of ``reactor``'s clock (the global reactor's when None)."""
        if reactor is None:
            from twisted.internet import reactor
        self._clock = self._loop.clock = reactor
        self._started = self._clock.seconds()
        self._loop.start(1.0)

    def stop(self) -> None:
        """Leave the values as they are."""
        self._loop.stop()

    def rows(self) -> list[tuple[str, str, str, str]]:
        """The map of the demo unit for people: (tables, addresses, type, meaning), one row for each."""
        condition = "load average of the last minute x 100" if self._temperature is None else "CPU temperature, 0.1 degC"
        return [
            ("hr, ir", "0", "uint16", "counter, one more every second"),
            ("hr, ir", "1..2", "float32", f"sine, -1..1 in {PERIOD:.0f} s, high word first"),
            ("hr, ir", "3..4", "uint32", "seconds since the start, high word first"),
            ("hr, ir", "5", "int16", condition),
            ("hr", f"{FREE}..{SIZE - 1}", "uint16", "yours: keeps what is written"),
            ("co", f"0..{SIZE - 1}", "bit", "yours: keeps what is written"),
            ("di", "0", "bit", "on in every other second"),
            ("di", "1", "bit", "the sine is above zero"),
        ]

    def _update(self) -> None:
        elapsed = self._clock.seconds() - self._started
        sine = math.sin(2 * math.pi * elapsed / PERIOD)
        registers = [
            self._counter,
            *to_registers(sine, "float32"),
            *to_registers(int(elapsed), "uint32"),
            *to_registers(self._condition(), "int16"),
        ]
        for unit_id in self._context.slaves():
            slave = self._context[unit_id]
            slave.setValues(_HOLDING_REGISTERS, 0, registers)
            slave.setValues(_INPUT_REGISTERS, 0, registers)
            slave.setValues(_DISCRETE_INPUTS, 0, [self._counter % 2 == 1, sine > 0])
        self._counter = (self._counter + 1) % 0x10000

    def _condition(self) -> int:
        if self._temperature is None:
            return min(round(os.getloadavg()[0] * 100), 0x7FFF)
        # Some sensors fail now and then: the last value stands.
        now = _temperature(self._sensor)
        self._temperature = self._temperature if now is None else now
        return self._temperature


def _temperature(sensor: Path) -> int | None:
    """In 0.1 degC; None when the sensor can't be read."""
    try:
        return round(int(sensor.read_text()) / 100)
    except (OSError, ValueError):
        return None
