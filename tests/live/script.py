"""What every foreign client is made to say, and what the device has to answer: one table of steps.

A client does the steps whose operation it offers. A step's answer is the list of numbers that it must get, or the exception code that it
must be refused with; coils, registers and file are the values that it leaves in the device.
"""

from dataclasses import dataclass, field

from live.clients import READS, RefusedError
from live.device import (
    COILS,
    DISCRETE_INPUTS,
    EXCEPTION_STATUS,
    FILE,
    HOLDING_REGISTERS,
    IDENTITY,
    INPUT_REGISTERS,
    QUEUE,
    QUEUE_POINTER,
)

COIL_FUNCTION, REGISTER_FUNCTION = 1, 3
POLLS = {"get_comm_event_counter", "get_comm_event_log"}


@dataclass(frozen=True)
class Refusal:
    code: int


@dataclass(frozen=True)
class Step:
    operation: str
    numbers: tuple
    answer: list | Refusal = field(default_factory=list)
    coils: dict = field(default_factory=dict)
    registers: dict = field(default_factory=dict)
    file: dict = field(default_factory=dict)

    @property
    def expected(self):
        """The numbers of the answer; none in a refusal."""
        return self.answer if isinstance(self.answer, list) else []


def identity_objects(*keys):
    return [byte for key in keys for byte in (key, len(IDENTITY[key]), *IDENTITY[key].encode())]


STEPS = [
    Step("read_coils", (0, 1), COILS[:1]),
    Step("read_coils", (3, 17), COILS[3:20]),
    Step("read_coils", (0, 2000), COILS),
    Step("read_coils", (1999, 2), Refusal(2)),
    Step("read_discrete_inputs", (1, 9), DISCRETE_INPUTS[1:10]),
    Step("read_discrete_inputs", (2000, 1), Refusal(2)),
    Step("read_holding_registers", (0, 123), HOLDING_REGISTERS[:123]),
    Step("read_holding_registers", (75, 125), HOLDING_REGISTERS[75:]),
    Step("read_holding_registers", (199, 1), HOLDING_REGISTERS[199:]),
    Step("read_holding_registers", (199, 2), Refusal(2)),
    Step("read_input_registers", (75, 125), INPUT_REGISTERS[75:]),
    Step("read_input_registers", (65535, 1), Refusal(2)),
    Step("write_coil", (20, 1), coils={20: 1}),
    Step("write_coil", (21, 0), coils={21: 0}),
    Step("write_coil", (2000, 1), Refusal(2)),
    Step("write_coils", (30, 1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1), coils=dict(enumerate([1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1], 30))),
    Step("write_coils", (1999, 1, 1), Refusal(2)),
    Step("read_coils", (20, 21), [1, 0, *COILS[22:30], 1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1]),
    Step("write_register", (10, 0xBEEF), registers={10: 0xBEEF}),
    Step("write_register", (200, 1), Refusal(2)),
    Step("write_registers", (11, 0, 1, 0xFFFF, 0x8000), registers={11: 0, 12: 1, 13: 0xFFFF, 14: 0x8000}),
    # The bytes } and {, which the binary framing escapes.
    Step("write_registers", (15, 0x7D7B, 0x7B7B), registers={15: 0x7D7B, 16: 0x7B7B}),
    Step("write_registers", (199, 1, 2), Refusal(2)),
    Step("read_holding_registers", (10, 5), [0xBEEF, 0, 1, 0xFFFF, 0x8000]),
    Step("read_holding_registers", (15, 2), [0x7D7B, 0x7B7B]),
    Step("write_register", (4, 0x12), registers={4: 0x12}),
    # The example of the Application Protocol, 6.16.
    Step("mask_write_register", (4, 0xF2, 0x25), registers={4: 0x17}),
    Step("mask_write_register", (200, 0xF2, 0x25), Refusal(2)),
    Step("readwrite_registers", (40, 4, 42, 5, 6, 7), [*HOLDING_REGISTERS[40:42], 5, 6], registers={42: 5, 43: 6, 44: 7}),
    Step("readwrite_registers", (199, 2, 42, 9), Refusal(2)),
    Step("readwrite_registers", (42, 2, 199, 9, 9), Refusal(2)),
    Step("read_exception_status", (), [EXCEPTION_STATUS]),
    Step("diagnostics", (0, 0xA537), [0xA537]),
    Step("diagnostics", (2, 0), [0]),
    Step("read_file", (4, 2, 3), FILE[2:5]),
    Step("read_file", (4, 19, 2), Refusal(2)),
    Step("read_file", (5, 0, 1), Refusal(2)),
    Step("write_file", (4, 7, 0x06AF, 0x04BE, 0x100D), file={7: 0x06AF, 8: 0x04BE, 9: 0x100D}),
    Step("write_file", (4, 19, 1, 2), Refusal(2)),
    Step("read_file", (4, 6, 5), [FILE[6], 0x06AF, 0x04BE, 0x100D, FILE[10]]),
    Step("read_fifo_queue", (QUEUE_POINTER,), QUEUE),
    Step("read_fifo_queue", (0,), Refusal(2)),
    Step("read_device_information", (1, 0), identity_objects(0x00, 0x01, 0x02)),
    Step("read_device_information", (2, 0), identity_objects(0x00, 0x01, 0x02, 0x04)),
    Step("read_device_information", (3, 0x80), identity_objects(0x80)),
    Step("read_device_information", (4, 0x04), identity_objects(0x04)),
    Step("read_device_information", (4, 0x05), Refusal(2)),
    Step("report_id", (), [*b"ACME-X1-1.2", 0xFF]),
]


class Course:
    """The steps as one client does them, and what the device must hold and have counted at any point of them."""

    def __init__(self, client):
        self.steps = [
            step
            for step in STEPS
            if step.operation in client.operations
            and client.can_take(step.expected)
            and (client.hears_refusals or not isinstance(step.answer, Refusal))
        ]
        self.coils, self.registers, self.file = list(COILS), list(HOLDING_REGISTERS), list(FILE)
        self.messages = self.successes = self.refusals = 0
        self._client = client

    def ask(self, operation, *numbers):
        """One request; returns the numbers that came back, or the Refusal."""
        self.messages += 1
        try:
            answer = self._client.ask(operation, *numbers)
        except RefusedError as refusal:
            self.refusals += 1
            return Refusal(refusal.code)
        self.successes += operation not in POLLS
        return answer

    def run(self):
        """Do every step, and compare."""
        for step in self.steps:
            answer = self.ask(step.operation, *step.numbers)
            if step.operation in READS and isinstance(answer, list):
                # Some clients show the bits that fill the last byte: they must be 0.
                answer, filling = answer[: step.numbers[1]], answer[step.numbers[1] :]
                assert not any(filling), step
            assert answer == step.answer, step
            for image, changes in ((self.coils, step.coils), (self.registers, step.registers), (self.file, step.file)):
                for address, value in changes.items():
                    image[address] = value

    def compare(self, device):
        """The application must see what the master wrote, and nothing else may have changed."""
        assert device.values(COIL_FUNCTION, 0, len(COILS)) == self.coils
        assert device.values(REGISTER_FUNCTION, 0, len(HOLDING_REGISTERS)) == self.registers
        assert device.file(4) == self.file
