"""The compiled loop of a serial line, over pseudo-terminals: whatever comes in, whatever Python does, whatever becomes of the port."""

import contextlib
import errno
import fcntl
import gc
import os
import select
import struct
import subprocess
import sys
import termios
import threading
import time
import tty
from pathlib import Path

import minimalmodbus
import pytest
import serial
from adu import FRAME_GAP, all_there_is, block, image, master, pdu, refused, run_python, units, wrap_ascii, wrap_binary, wrap_rtu
from live.line import Line
from live.shim import CHIP, DRIVERS
from pymodbus.client import ModbusSerialClient
from test_answers_later import Asked
from test_custom_functions import SumRequest, decoder_of
from twisted.internet.defer import CancelledError

from mbcore import ModbusAsciiFramer, ModbusBinaryFramer, ModbusRtuFramer, ModbusSequentialDataBlock
from mbcore.engine.serial import SerialLoop
from mbcore.errors import RequestError
from mbcore.line import LineSession

pytestmark = pytest.mark.live

PATIENCE = 30
# Of a master: how long it waits for an answer, seconds, and how often it asks.
MASTERS_PATIENCE = 1
MASTERS_TRIES = 5
CHARACTER_TIME = 11 / 115200
READ, WRITE = pdu("03 0000 0001"), pdu("06 0001 BEEF")
ASKED, ANSWER = wrap_rtu(READ), wrap_rtu(pdu("03 02 0005"))
WRITTEN = wrap_rtu(WRITE)
FOREIGN = wrap_rtu(READ, 9)
# Of another unit's response the end, that has requests for us in it.
TURNED_ON = wrap_rtu(pdu("05 0003 FF00"))
END_OF_A_RESPONSE = WRITTEN + TURNED_ON + bytes(26) + b"\x12\x34"
# what Python needs not be asked for, where the holding registers are Python's
COILS, COILS_ANSWER = wrap_rtu(pdu("01 0000 0008")), wrap_rtu(pdu("01 01 00"))
# More writes than may be unknown to observers.
NOTES = 1024


def store(**tables):
    """Units 1 and 2, the second one plain."""
    plain = {"hr": block([5, 6, 7, *range(200)]), "ir": block(range(10)), "co": block([0] * 100), "di": block([1] * 16)}
    return units(u1=image(**plain | tables), u2=image(**plain))


def until(true):
    """Wait for what nothing tells of."""
    limit = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.0005)


class Bus:
    """A loop that runs on one end of a pseudo-terminal; the test has the other end."""

    def __init__(self, context=None, framer=ModbusRtuFramer, *, line=None, session=None, start=True, fd=None, **options):
        self.end, self.port = os.openpty()
        tty.setraw(self.port)
        os.set_blocking(self.port, False)
        options = {"frame_gap": FRAME_GAP} | options
        self.session = session or LineSession(framer, store() if context is None else context, **options)
        self.session.wake = self._wake
        self.woken = 0
        self.loop = SerialLoop(self.session, self.port if fd is None else fd, CHARACTER_TIME, **line or {})
        self.thread = threading.Thread(target=self._run)
        if start:
            self.thread.start()

    def _run(self):
        self.thread_id = threading.get_native_id()
        self.loop.run()

    def _wake(self):
        self.woken += 1
        self.loop.attend()

    def say(self, data):
        while data:
            data = data[os.write(self.end, data):]

    def say_piecewise(self, data, size=1):
        """Each piece is read before the next one comes."""
        for start in range(0, len(data), size):
            self.say(data[start : start + size])
            self.wait_until_read()

    def unread(self):
        return struct.unpack("i", fcntl.ioctl(self.port, termios.FIONREAD, bytes(4)))[0]

    def wait_until_read(self):
        until(lambda: not self.unread())

    def wants_python(self, seconds=PATIENCE):
        return bool(select.select([self.loop], [], [], seconds)[0])

    def hear(self, length, attending=True):
        """So many bytes from the loop; where it wants Python it gets it."""
        heard = b""
        while len(heard) < length:
            ready, _, _ = select.select([self.end, self.loop] if attending else [self.end], [], [], PATIENCE)
            assert ready, f"nothing comes after {heard.hex()}"
            if self.loop in ready:
                self.loop.attend()
            if self.end in ready:
                heard += os.read(self.end, length - len(heard))
        return heard

    def speaks(self):
        """Whether something comes before a master would ask again: a pause of this machine may have cut a request in two."""
        return bool(select.select([self.end], [], [], MASTERS_PATIENCE)[0])

    def ask(self, request, answer, attending=True):
        """The answer, and nothing else, comes."""
        self.say(request)
        assert self.hear(len(answer), attending) == answer

    def hang_up(self):
        os.close(self.end)
        self.end = -1

    def join(self):
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        assert self.loop.over

    def close(self):
        self.loop.stop()
        if self.thread.ident:
            self.thread.join(PATIENCE)
        for fd in (self.end, self.port):
            if fd >= 0:
                os.close(fd)
        self.end = self.port = -1
        assert not self.thread.is_alive()


@pytest.fixture
def bus(request):
    """bus(context, framer, line={keywords of the loop}, **keywords of the session) -> Bus, which runs"""

    def start(*args, **kwargs):
        made = Bus(*args, **kwargs)
        request.addfinalizer(made.close)
        return made

    return start


# ---- bytes ----------------------------------------------------------------------------------------------------------------------------

REQUESTS = [
    pdu(text)
    for text in (
        "01 0000 0010", "02 0000 0010", "03 0000 007D", "04 0000 0005", "05 0003 FF00", "06 0001 BEEF", "07", "08 0000 A537", "0B", "0C",
        "0F 0000 000A 02 CD01", "10 0001 0002 04 000A 0102", "11", "14 07 06 0001 0000 0002", "15 0D 06 0001 0000 0003 06AF 04BE 100D",
        "16 0001 00F2 0025", "17 0000 0002 0001 0002 04 0007 0008", "18 0000", "2B 0E 01 00", "03 FFFF 0002", "01 0000 0000",
    )
]
LINES = {
    "rtu": (ModbusRtuFramer, wrap_rtu, "rtu-serial"),
    "ascii": (ModbusAsciiFramer, wrap_ascii, "ascii-serial"),
    "binary": (ModbusBinaryFramer, wrap_binary, "binary"),
}


@pytest.mark.parametrize("piece", [1, 3, 1000])
@pytest.mark.parametrize("line", LINES)
def test_every_function_is_answered_as_by_a_session(bus, line, piece):
    framer, wrap, name = LINES[line]
    # The events that 0C tells of differ where a framer's session is not a line's.
    requests = [request for request in REQUESTS if line != "binary" or request[0] not in (0x0B, 0x0C)]

    def answers_all():
        judge, served = master(name, store()), bus(framer=framer)
        for request in requests:
            expected = wrap(judge.ask(request))
            served.say_piecewise(wrap(request), piece)
            if not served.speaks():
                return False
            assert served.hear(len(expected), attending=False) == expected, request.hex()
        return True

    # Anew, since a request that was cut in two stands in the events.
    assert any(answers_all() for _ in range(MASTERS_TRIES if piece < 1000 else 1))


def test_a_function_that_is_unknown_is_answered_after_silence(bus):
    bus().ask(wrap_rtu(pdu("41 01 02 03")), wrap_rtu(refused(0x41, 1)))


def test_of_requests_that_come_at_once_only_the_last_is_answered(bus):
    served = bus()
    served.ask(WRITTEN + FOREIGN + ASKED, ANSWER)
    served.ask(wrap_rtu(pdu("03 0001 0001")), wrap_rtu(pdu("03 02 BEEF")))
    counters = served.session.line_counters()
    assert counters["suppressed_replies"] == 1
    assert counters["foreign_frames"] == 1


def test_more_than_a_read_takes(bus):
    served = bus()
    # other units' requests, answered by nobody: 200 frames are more than three reads
    served.ask(FOREIGN * 200 + ASKED, ANSWER)
    assert served.session.line_counters()["foreign_frames"] == 200


@pytest.mark.parametrize("delay", [0.05, 0.2])
def test_the_reply_waits_for_reply_delay(bus, delay):
    served = bus(reply_delay=delay)
    begun = time.monotonic()
    served.ask(ASKED, ANSWER)
    assert time.monotonic() - begun >= delay


def test_another_frame_before_the_reply_drops_it(bus):
    context = store()
    context.add_observer(lambda *write: None)
    served = bus(context, reply_delay=0.3)
    served.say(WRITTEN)
    assert served.wants_python(), "it is executed"
    served.say(FOREIGN)
    served.ask(ASKED, ANSWER)
    assert served.session.line_counters()["suppressed_replies"] == 1
    assert served.session.control.Counter.SlaveNoResponse == 1


@pytest.mark.parametrize("stray", [b"\0", b"\0\0\0", b"\xff"])
def test_stray_bytes_cost_nothing(bus, stray):
    served = bus(reply_delay=FRAME_GAP)
    served.ask(stray + ASKED, ANSWER)
    served.ask(ASKED + stray, ANSWER)
    assert served.session.line_counters()["suppressed_replies"] == 0
    assert served.session.line_counters()["discarded_bytes"] == 2 * len(stray)


def test_a_frame_may_pause(bus):
    served = bus()

    def is_answered():
        served.say_piecewise(ASKED[:5])
        time.sleep(2 * FRAME_GAP)
        served.say(ASKED[5:])
        return served.speaks()

    assert any(is_answered() for _ in range(MASTERS_TRIES))
    assert served.hear(len(ANSWER)) == ANSWER


def test_what_follows_a_long_pause_is_a_request_at_once(bus):
    served = bus()
    served.say(b"\xa5\x5a\xa5")
    until(lambda: served.session.line_counters()["discarded_bytes"] == 3)
    served.ask(ASKED, ANSWER)
    assert served.session.line_counters()["crc_errors"] == 1


def test_after_a_reset_the_first_request_may_be_a_piece_of_something_else(bus):
    session = LineSession(ModbusRtuFramer, store(), frame_gap=FRAME_GAP)
    session.reset()
    served = bus(session=session)
    served.say(END_OF_A_RESPONSE)
    until(lambda: session.line_counters()["crc_errors"])
    time.sleep(0.06)
    served.ask(wrap_rtu(pdu("03 0001 0001")), wrap_rtu(pdu("03 02 0006")))


@pytest.fixture
def line():
    line = Line()
    yield line
    line.close()


def test_foreign_masters(line, bus):
    with serial.Serial(line.device_end, 115200, timeout=0, inter_byte_timeout=0) as port:
        bus(reply_delay=FRAME_GAP, fd=port.fileno())
        instrument = minimalmodbus.Instrument(line.client_end, 1)
        instrument.serial.baudrate, instrument.serial.timeout = 115200, PATIENCE
        with contextlib.closing(instrument.serial):
            instrument.write_registers(1, [10, 20])
            assert instrument.read_registers(0, 3) == [5, 10, 20]
        client = ModbusSerialClient(line.client_end, baudrate=115200, timeout=PATIENCE, retries=0)
        with client:
            assert not client.write_coils(2, [True, False, True], device_id=1).isError()
            assert client.read_coils(0, count=8, device_id=1).bits == [False, False, True, False, True, False, False, False]
            assert client.read_holding_registers(500, count=1, device_id=1).exception_code == 2


def test_two_lines_with_one_context(bus):
    context, heard = watched()
    first, second = bus(context), bus(context)
    for number in range(100):
        first.ask(write(number), write(number))
        second.ask(wrap_rtu(pdu("03 0001 0001")), wrap_rtu(pdu(f"03 02 {number:04X}")))
    first.loop.attend()
    assert [values for *_, values in heard] == [[number] for number in range(100)]


# ---- Python's share -------------------------------------------------------------------------------------------------------------------


class Told(ModbusSequentialDataBlock):
    """Notes who asks; `outcome` raises, or is what is read."""

    def __init__(self, outcome=lambda count: [0x1234] * count):
        super().__init__(0, [0] * 100)
        self.outcome = outcome
        self.threads = []
        self.writes = []

    def getValues(self, address, count=1):
        self.threads.append(threading.get_ident())
        return self.outcome(count)

    def setValues(self, address, values):
        self.threads.append(threading.get_ident())
        self.writes.append((address, values))


def test_a_users_block_is_asked_in_the_thread_that_attends(bus):
    told = Told()
    served = bus(store(hr=told))
    served.ask(ASKED, wrap_rtu(pdu("03 02 1234")))
    served.ask(WRITTEN, WRITTEN)
    served.ask(COILS, COILS_ANSWER)
    assert told.threads == [threading.get_ident()] * 2
    assert told.writes == [(1, [0xBEEF])]


@pytest.mark.parametrize("request_pdu", ["03 0000 0001", "06 0001 BEEF", "37 0000 0003"], ids=["read", "write", "custom"])
def test_a_unit_that_is_taken_out_while_python_is_asked_is_silent_and_no_other_one_answers_for_it(bus, request_pdu):
    context = units(u1=image(hr=block([5, 6, 7])), u2=image(hr=Told()))
    served = bus(context, decoder=decoder_of(SumRequest))
    served.say(wrap_rtu(pdu(request_pdu), 2))
    assert served.wants_python()
    del context[2]
    served.loop.attend()
    served.ask(ASKED, ANSWER)
    assert context[1].getValues(3, 0, 3) == [5, 6, 7]


def test_a_unit_that_is_taken_out_before_observers_hear_of_a_broadcast_is_told_of_all_the_same(bus):
    context = units(u1=image(hr=block([0x12] * 3)), u2=image(hr=block([0x12] * 3)))
    heard = []
    context.add_observer(lambda *told: heard.append(told))
    served = bus(context)
    served.say(wrap_rtu(pdu("16 0001 00F2 0025"), 0))
    assert served.wants_python()
    until(lambda: context[2].getValues(3, 1, 1) == [0x17])
    del context[2]
    served.loop.attend()
    assert heard == [(1, "holding_registers", 1, [0x17]), (2, "holding_registers", 1, [0x17])]


def test_a_custom_function_is_answered(bus):
    served = bus(decoder=decoder_of(SumRequest))
    served.ask(wrap_rtu(pdu("37 0000 0003")), wrap_rtu(pdu("37 02 0012")))
    served.ask(wrap_rtu(pdu("37 0000 0011")), wrap_rtu(refused(0x37, 6)))
    served.say(wrap_rtu(pdu("37 0000 0010")))
    assert served.wants_python()
    served.loop.attend()
    served.ask(ASKED, ANSWER)


def raising(error):
    def outcome(count):
        raise error

    return outcome


@pytest.mark.parametrize(("error", "code", "said"), [(ValueError("off"), 4, 1), (SystemExit(), 4, 1), (RequestError(6, "busy"), 6, 0)])
def test_a_block_that_raises(bus, error, code, said):
    reports = []
    served = bus(store(hr=Told(raising(error))), report=lambda *report: reports.append(report))
    served.ask(ASKED, wrap_rtu(refused(3, code)))
    served.ask(COILS, COILS_ANSWER)
    assert len(reports) == said


def test_what_ends_the_program_costs_one_answer(bus):
    told = Told(raising(KeyboardInterrupt()))
    served = bus(store(hr=told))
    for behind in (b"", b"\0"):
        # A transceiver that turns round makes a zero.
        served.say(ASKED + behind)
        assert served.wants_python()
        with pytest.raises(KeyboardInterrupt):
            served.loop.attend()
        until(lambda: sleeps(served.thread_id))
        served.ask(COILS, COILS_ANSWER, attending=False)
    told.outcome = lambda count: [7] * count
    served.ask(ASKED, wrap_rtu(pdu("03 02 0007")))
    assert len(told.threads) == 3, "nothing is asked twice"


def test_an_observer_that_wants_the_program_to_end_costs_no_answer(bus):
    """Neither to the request that Python has answered nor to another one, and none is executed twice."""
    told = Told()
    context = store(hr=told)
    slips = [KeyboardInterrupt()]
    heard = []

    def observer(*event):
        heard.append(event)
        if slips:
            raise slips.pop()

    context.add_observer(observer)
    served = bus(context)
    served.say(WRITTEN)
    assert served.wants_python()
    with pytest.raises(KeyboardInterrupt):
        served.loop.attend()
    assert served.hear(len(WRITTEN), attending=False) == WRITTEN
    served.ask(COILS, COILS_ANSWER)
    assert len(told.writes) == len(heard) == 1


def test_a_line_does_not_wait_for_observers_of_what_python_has_answered(bus):
    context, replies = store(hr=Told()), []
    served = bus(context)
    context.add_observer(lambda *_: replies.append(served.hear(len(WRITTEN), attending=False)))
    served.say(WRITTEN)
    assert served.wants_python()
    served.loop.attend()
    assert replies == [WRITTEN]


def test_an_answer_that_comes_later(bus):
    asked = Asked()
    served = bus(store(hr=asked), answer_timeout=1.0)
    before = time.monotonic()
    served.say(ASKED)
    assert served.wants_python()
    served.loop.attend()
    assert served.session.waiting
    assert before + 1.0 <= served.session.deadline() <= time.monotonic() + 1.0
    asked.answer([9])
    assert served.woken == 1
    assert served.hear(7, attending=False) == wrap_rtu(pdu("03 02 0009"))
    assert not served.session.waiting
    served.ask(COILS, COILS_ANSWER)


def test_an_observer_may_have_the_rest_of_a_broadcast_answered(bus):
    asked, heard = Asked(("setValues",)), []
    context = units(u1=image(hr=block([0]), co=block([0] * 8)), u2=image(hr=asked))

    def observer(unit_id, table, address, values):
        heard.append((unit_id, values))
        if unit_id == 1:
            asked.answer(None)

    context.add_observer(observer)
    served = bus(context, broadcast_enable=True)
    served.say(wrap_rtu(pdu("06 0000 0005"), 0))
    assert served.wants_python()
    served.loop.attend()
    served.ask(COILS, COILS_ANSWER)
    assert heard == [(1, [5]), (2, [5])]


def test_an_answer_in_steps(bus):
    asked = Asked(("validate", "getValues", "setValues"))
    served = bus(store(hr=asked))
    served.say(wrap_rtu(pdu("17 0000 0001 0002 0001 02 00FF")))
    assert served.wants_python()
    served.loop.attend()
    for answer in (True, True, None, [9]):
        asked.answer(answer)
    assert served.hear(7, attending=False) == wrap_rtu(pdu("17 02 0009"))


def test_an_answer_that_does_not_come_is_given_up(bus):
    asked = Asked()
    served = bus(store(hr=asked), reply_deadline=60.0)
    served.say(ASKED)
    assert served.wants_python()
    served.loop.attend()
    asked.calls[0][-1].addErrback(lambda failure: failure.trap(CancelledError))
    served.loop.give_up()
    assert served.hear(5, attending=False) == wrap_rtu(refused(3, 0x0B))
    assert asked.calls[0][-1].called
    served.loop.give_up()
    served.ask(COILS, COILS_ANSWER)


def test_a_frame_that_came_while_python_was_waited_for_drops_the_reply(bus):
    told = Told()
    served = bus(store(hr=told))
    for following in (FOREIGN, wrap_rtu(WRITE, 2)):
        served.say(ASKED)
        assert served.wants_python()
        served.say(following)
        served.loop.attend()
        if following != FOREIGN:
            assert served.hear(8) == following
    served.ask(COILS, COILS_ANSWER)
    assert len(told.threads) == 2
    assert served.session.line_counters()["suppressed_replies"] == 2


def test_bytes_that_come_while_python_is_waited_for_have_their_time(bus):
    served = bus(store(hr=Told()), reply_deadline=0.05)
    served.say(ASKED)
    assert served.wants_python()
    served.say(COILS)
    served.wait_until_read()
    time.sleep(0.5)
    served.loop.attend()
    # Both masters have given up.
    until(lambda: served.session.line_counters()["suppressed_replies"] == 2)
    served.ask(COILS, COILS_ANSWER)


def test_more_comes_than_is_kept_while_python_is_waited_for(bus):
    served = bus(store(hr=Told()))
    served.say(ASKED)
    assert served.wants_python()
    flood = threading.Thread(target=served.say, args=(FOREIGN * 2000,))
    flood.start()
    until(lambda: served.unread() and sleeps(served.thread_id))
    served.loop.attend()
    flood.join()
    until(lambda: served.session.line_counters()["foreign_frames"] == 2000)
    served.ask(COILS, COILS_ANSWER)


def watched(**tables):
    """A store and the list of what its observer has heard."""
    context, heard = store(**tables), []
    context.add_observer(lambda *write: heard.append(write))
    return context, heard


def write(number):
    return wrap_rtu(pdu(f"06 0001 {number:04X}"))


def test_observers_hear_of_every_write_in_order(bus):
    context, heard = watched()
    served = bus(context)
    for number in range(3 * NOTES):
        served.ask(write(number), write(number), attending=number % 50 == 0)
        if number % 50 == 0:
            served.loop.attend()
    served.loop.attend()
    assert heard == [(1, "holding_registers", 1, [number]) for number in range(3 * NOTES)]


def test_a_line_does_not_wait_for_its_observers(bus):
    context, heard = watched()
    served = bus(context)
    for number in range(2 * NOTES):
        served.ask(write(number), write(number), attending=False)
    assert heard == []
    served.loop.attend()
    assert [values for *_, values in heard] == [[number] for number in [*range(NOTES), 2 * NOTES - 1]]
    assert served.session.store.coalesced == NOTES - 1


def write_all_that_can_be_written(served):
    for request in REQUESTS:
        if request[0] in (5, 6, 0xF, 0x10, 0x16, 0x17):
            served.say(wrap_rtu(request))
            served.hear(9 if request[0] == 0x17 else 10 if request[0] == 0x16 else 8, attending=False)
    served.loop.attend()


BITS = [True, False, True, True, False, False, True, True, True, False]


def test_observers_hear_what_was_written(bus):
    context, heard = watched()
    write_all_that_can_be_written(bus(context))
    assert heard == [
        (1, "coils", 3, [True]),
        (1, "holding_registers", 1, [0xBEEF]),
        (1, "coils", 0, BITS),
        (1, "holding_registers", 1, [0x000A, 0x0102]),
        (1, "holding_registers", 1, [0x0007]),
        (1, "holding_registers", 1, [7, 8]),
    ]


def test_observers_that_are_behind_hear_what_was_written_last(bus):
    context, heard = watched(hr=block([5, 6, 7, *range(200)]))
    served = bus(context)
    for number in range(NOTES):
        served.ask(write(number), write(number), attending=False)
    write_all_that_can_be_written(served)
    assert heard[NOTES:] == [(1, "coils", 0, BITS), (1, "holding_registers", 1, [7, 8])]
    assert served.session.store.coalesced == 5
    del heard[:]
    for number in range(NOTES):
        served.ask(write(number), write(number), attending=False)
    served.say(wrap_rtu(pdu("16 0001 EFFF 1000"), 0))
    served.wait_until_read()
    # Behind it, so that it has been executed.
    served.ask(wrap_rtu(pdu("03 0001 0001")), wrap_rtu(pdu(f"03 02 {NOTES - 1 | 0x1000:04X}")), attending=False)
    served.loop.attend()
    # Of a broadcast each unit has its own result.
    assert heard[NOTES:] == [(1, "holding_registers", 1, [NOTES - 1 | 0x1000]), (2, "holding_registers", 1, [0x1006])]


def test_observers_hear_the_result_of_a_broadcast_mask_write_though_it_is_written_again(bus):
    context, heard = watched()
    served = bus(context)
    served.say(wrap_rtu(pdu("16 0001 0000 0007"), 0))
    served.wait_until_read()
    served.ask(write(9), write(9), attending=False)
    served.loop.attend()
    assert [write for write in heard if write[0] == 1] == [(1, "holding_registers", 1, [7]), (1, "holding_registers", 1, [9])]


def test_observers_hear_of_a_broadcast_once_for_each_unit(bus):
    context, heard = watched()
    served = bus(context)
    served.say(wrap_rtu(WRITE, 0))
    served.wait_until_read()
    served.ask(COILS, COILS_ANSWER, attending=False)
    served.loop.attend()
    assert heard == [(1, "holding_registers", 1, [0xBEEF]), (2, "holding_registers", 1, [0xBEEF])]


def test_an_observer_that_fails_loses_nothing(bus):
    context, heard = watched()
    failing = [KeyboardInterrupt(), ValueError()]

    def fail(*write):
        if failing:
            raise failing.pop(0)

    context.add_observer(fail)
    served = bus(context)
    for number in range(3):
        served.ask(write(number), write(number), attending=False)
    with pytest.raises(KeyboardInterrupt):
        served.loop.attend()
    served.loop.attend()
    assert [values for *_, values in heard] == [[0], [1], [2]]


def test_a_users_block_and_an_observer(bus):
    context, heard = watched(hr=Told())
    served = bus(context)
    served.ask(TURNED_ON, TURNED_ON, attending=False)
    served.ask(WRITTEN, WRITTEN)
    served.ask(wrap_rtu(pdu("05 0003 0000")), wrap_rtu(pdu("05 0003 0000")), attending=False)
    served.loop.attend()
    assert heard == [(1, "coils", 3, [True]), (1, "holding_registers", 1, [0xBEEF]), (1, "coils", 3, [False])]


# ---- whatever Python does -------------------------------------------------------------------------------------------------------------

OUTSIDE = """
import mmap, os, sys
end, shared = int(sys.argv[1]), mmap.mmap(int(sys.argv[2]), 1)
asked, answer = map(bytes.fromhex, sys.argv[3:])
print("ready", flush=True)
while not shared[0]:
    pass
for _ in range(100):
    os.write(end, asked)
    heard = b""
    while len(heard) < len(answer):
        heard += os.read(end, len(answer) - len(heard))
    assert heard == answer
shared[0] = 2
"""


def test_a_thread_that_keeps_the_gil_keeps_nobody_waiting(bus, tmp_path):
    import mmap

    served = bus(reply_delay=FRAME_GAP)
    (tmp_path / "shared").write_bytes(b"\0")
    interval = sys.getswitchinterval()
    with open(tmp_path / "shared", "r+b") as file, mmap.mmap(file.fileno(), 1) as shared:
        fds = (served.end, file.fileno())
        command = [sys.executable, "-c", OUTSIDE, *map(str, fds), ASKED.hex(), ANSWER.hex()]
        with subprocess.Popen(command, pass_fds=fds, stdout=subprocess.PIPE) as outside:
            assert outside.stdout.readline() == b"ready\n"
            sys.setswitchinterval(1000)
            try:
                shared[0] = 1
                while shared[0] != 2:
                    pass
            finally:
                sys.setswitchinterval(interval)
        assert outside.returncode == 0


def test_an_observer_that_blocks_keeps_nobody_waiting(bus):
    context = store()
    entered, released = threading.Event(), threading.Event()

    def blocking(*write):
        entered.set()
        assert released.wait(PATIENCE)

    context.add_observer(blocking)
    served = bus(context)
    served.ask(WRITTEN, WRITTEN, attending=False)
    reactor = threading.Thread(target=served.loop.attend)
    reactor.start()
    assert entered.wait(PATIENCE)
    for _ in range(20):
        served.ask(ASKED, ANSWER, attending=False)
    served.ask(WRITTEN, WRITTEN, attending=False)
    released.set()
    reactor.join()


# ---- the end --------------------------------------------------------------------------------------------------------------------------


def test_an_end_while_nothing_happens(bus):
    served = bus()
    served.ask(ASKED, ANSWER)
    assert not served.loop.over
    assert not served.wants_python(0)
    served.loop.stop()
    served.join()
    assert served.loop.errno == 0
    assert served.wants_python(), "that it is over"
    served.loop.attend()


def test_an_end_while_a_reply_waits(bus):
    context, heard = watched()
    served = bus(context, reply_delay=1000.0)
    served.say(WRITTEN)
    assert served.wants_python()
    served.loop.stop()
    served.join()
    served.loop.attend()
    assert heard == [(1, "holding_registers", 1, [0xBEEF])]


def test_an_end_while_python_is_waited_for(bus):
    told = Told()
    served = bus(store(hr=told))
    served.say(ASKED)
    assert served.wants_python()
    served.loop.stop()
    served.join()
    served.loop.attend()
    assert told.threads == [], "the answer would go nowhere"


def test_an_end_while_an_answer_is_waited_for(bus):
    asked = Asked()
    served = bus(store(hr=asked))
    served.say(ASKED)
    assert served.wants_python()
    served.loop.attend()
    served.loop.stop()
    served.join()
    asked.answer([1])
    served.loop.attend()
    served.session.reset()
    assert not served.session.waiting


def test_the_session_serves_again_after_an_end(bus):
    told = Told()
    first = bus(store(hr=told))
    # Behind silence, which the next loop has to wait for as well.
    first.say(b"\0" + ASKED)
    assert first.wants_python()
    first.loop.stop()
    first.join()
    first.session.reset()
    second = bus(session=first.session)
    second.say(END_OF_A_RESPONSE)
    second.wait_until_read()
    time.sleep(0.5)
    second.ask(COILS, COILS_ANSWER)
    second.ask(ASKED, wrap_rtu(pdu("03 02 1234")))
    assert told.writes == []


@pytest.mark.parametrize("state", ["idle", "standing still", "an answer is waited for", "a reply waits"])
def test_a_port_that_hangs_up(bus, state):
    asked = Asked()
    context = store(hr=asked)
    context.add_observer(lambda *write: None)
    served = bus(context, reply_delay=1000.0)
    served.say({"idle": FOREIGN, "a reply waits": TURNED_ON}.get(state, ASKED))
    if state != "idle":
        assert served.wants_python()
    if state == "an answer is waited for":
        served.loop.attend()
    served.hang_up()
    served.join()
    assert served.loop.errno == errno.EIO
    assert served.wants_python()
    served.loop.attend()
    served.loop.stop()


def test_a_descriptor_that_is_closed_under_the_loop(bus):
    served = bus()
    served.ask(ASKED, ANSWER)
    until(lambda: sleeps(served.thread_id))
    os.close(served.port)
    served.port = -1
    served.say(ASKED)
    served.join()
    assert served.loop.errno == errno.EBADF


def test_a_descriptor_that_is_not_open(bus):
    served = bus(fd=1000)
    served.join()
    assert served.loop.errno == errno.EBADF


def test_a_descriptor_that_cannot_be_read(bus):
    reader, writer = os.pipe()
    os.close(reader)
    served = bus(fd=writer)
    served.join()
    os.close(writer)
    assert served.loop.errno == errno.EIO


def test_who_does_not_run_the_loop_takes_no_ring_from_who_does(bus):
    """Processes that share a loop since a fork share what it rings."""
    served = bus(start=False)
    os.eventfd_write(served.loop.fileno(), 1)
    served.loop.attend()
    assert served.wants_python(0)
    assert served.loop.claim()
    served.loop.attend()
    assert not served.wants_python(0)


def test_an_end_before_the_beginning(bus):
    served = bus(start=False)
    served.loop.stop()
    assert not served.loop.over
    served.thread.start()
    served.join()
    assert served.loop.errno == 0


def test_two_hundred_loops_leave_nothing_behind():
    before = all_there_is()
    for number in range(200):
        served = Bus()
        if number % 2:
            served.ask(ASKED, ANSWER)
        if number % 5 == 0:
            served.hang_up()
        served.close()
        del served
    until(lambda: all_there_is() == before)


def test_a_loop_that_never_runs_leaves_nothing_behind():
    before = os.listdir("/proc/self/fd")
    for _ in range(10):
        loop = SerialLoop(LineSession(ModbusRtuFramer, store()), 0, CHARACTER_TIME)
        assert loop.fileno() >= 0
        loop.__init__(loop.session, 0, CHARACTER_TIME)
    del loop
    gc.collect()
    assert os.listdir("/proc/self/fd") == before


def test_what_was_made_without_init_says_so():
    loop = SerialLoop.__new__(SerialLoop)
    for method in (loop.run, loop.attend, loop.give_up):
        with pytest.raises(TypeError, match="without __init__"):
            method()
    with pytest.raises(TypeError, match="without __init__"):
        SerialLoop(LineSession.__new__(LineSession), 0, CHARACTER_TIME)


# ---- a slow receiver ------------------------------------------------------------------------------------------------------------------


def stat(thread_id):
    return Path(f"/proc/self/task/{thread_id}/stat").read_text().rpartition(")")[2].split()


def sleeps(thread_id):
    return stat(thread_id)[0] == "S"


def processor_time(thread_id):
    """Seconds, in ticks."""
    fields = stat(thread_id)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fill(fd):
    """Write until nothing more is taken, nor after the kernel has moved it on; how many bytes."""
    filled = 0
    while select.select([], [fd], [], 0.1)[1]:
        with contextlib.suppress(BlockingIOError):
            while True:
                filled += os.write(fd, bytes(256))
    return filled


def test_a_receiver_that_reads_late_gets_the_reply(bus):
    served = bus()
    filled = fill(served.port)
    served.say(ASKED)
    served.wait_until_read()
    until(lambda: sleeps(served.thread_id))
    assert served.hear(filled + 7) == bytes(filled) + ANSWER
    assert served.session.line_counters()["suppressed_replies"] == 0


def test_a_receiver_that_never_reads_costs_the_reply_and_no_processor(bus):
    served = bus()
    fill(served.port)
    begun = processor_time(served.thread_id)
    served.say(ASKED)
    until(lambda: served.session.line_counters()["suppressed_replies"] == 1)
    assert served.session.control.Counter.SlaveNoResponse == 1
    assert processor_time(served.thread_id) - begun < 0.1, "of a second"
    while select.select([served.end], [], [], 0)[0]:
        os.read(served.end, 65536)
    served.ask(ASKED, ANSWER)


# ---- at the system-call boundary ------------------------------------------------------------------------------------------------------

PROGRAM = """
import os, sys, threading, tty
from adu import block, image, one_unit
from mbcore import ModbusRtuFramer
from mbcore.engine.serial import SerialLoop
from mbcore.line import LineSession
from mbcore.server import rs485
device, chip, options = sys.argv[1], sys.argv[2], eval(sys.argv[3])
fd = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
tty.setraw(fd)
if options.get("direction") == "gpio":
    options["gpio_fd"] = rs485.request_gpio(chip, 17, active=options.get("active", "high"))
session = LineSession(ModbusRtuFramer, one_unit(image(hr=block([5, 6, 7]))), frame_gap=0.00175, **options.pop("session", {}))
loop = SerialLoop(session, fd, 0.001, **options)
thread = threading.Thread(target=loop.run)
thread.start()
print("ready", flush=True)
sys.stdin.read()
loop.stop()
thread.join()
print(loop.errno, loop.schedule_errno)
"""


class Child:
    """A loop in a process of its own, whose calls are recorded."""

    def __init__(self, line, watched, **options):
        self.watched = watched
        self._fd = os.open(line.client_end, os.O_RDWR | os.O_NOCTTY)
        environment = dict(watched.environment)
        environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
        command = [sys.executable, "-P", "-c", PROGRAM, line.device_end, CHIP, repr(options)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, env=environment, text=True, **pipes)
        assert self._process.stdout.readline() == "ready\n"

    def ask(self, request, length):
        os.write(self._fd, request)
        heard = b""
        while len(heard) < length:
            assert select.select([self._fd], [], [], PATIENCE)[0]
            heard += os.read(self._fd, length - len(heard))
        return heard

    def say(self, request):
        os.write(self._fd, request)

    def end(self):
        """The loop's errno, and that of its schedule."""
        out, _ = self._process.communicate(timeout=PATIENCE)
        os.close(self._fd)
        assert self._process.returncode == 0
        return [int(number) for number in out.split()]


DIRECTIONS = {
    "rts": ({"direction": "rts"}, ("TIOCMBIS", "RTS"), ("TIOCMBIC", "RTS")),
    "rts, low": ({"direction": "rts", "active": "low"}, ("TIOCMBIC", "RTS"), ("TIOCMBIS", "RTS")),
    "gpio": ({"direction": "gpio"}, ("GPIO_V2_LINE_SET_VALUES", "1"), ("GPIO_V2_LINE_SET_VALUES", "0")),
}
SWITCHES = ("TIOCMBIS", "TIOCMBIC", "GPIO_V2_LINE_SET_VALUES", "write", "TIOCSERGETLSR")


def of_the_port(watched):
    """The calls that switch, write, and ask whether all is out."""
    return [call for call in watched.calls(*SWITCHES) if call.target in ("port", "line")]


@pytest.mark.parametrize("kind", DIRECTIONS)
def test_the_transceiver_sends_from_before_the_reply_until_it_is_out(line, shim, kind):
    options, on, off = DIRECTIONS[kind]
    watched = shim(DRIVERS["uart-pl011"], device=line.device_end, character_time=0.001, busy=2)
    child = Child(line, watched, delay_before=0.002, delay_after=0.003, **options)
    for _ in range(3):
        assert child.ask(ASKED, 7) == ANSWER
    assert child.end() == [0, 0]
    calls = of_the_port(watched)
    assert len({call.thread for call in calls}) == 1
    rounds = [number for number, call in enumerate(calls) if (call.name, call.argument) == on]
    assert len(rounds) == 3
    for start, stop in zip(rounds, [*rounds[1:], len(calls)], strict=True):
        up, sent, *asked, down = calls[start:stop]
        assert (sent.name, sent.data) == ("write", ANSWER)
        assert sent.begin - up.end >= 0.002
        assert {call.name for call in asked} == {"TIOCSERGETLSR"}
        assert len(asked) >= 3
        assert asked[0].begin - sent.begin >= 6.9 * 0.001, "slept to the computed end of the last character"
        assert [call.argument for call in asked] == ["busy"] * (len(asked) - 1) + ["empty"]
        assert down.begin - asked[-1].end >= 0.003
        assert (down.name, down.argument) == off
    assert not watched.calls("tcdrain")


@pytest.mark.parametrize("kind", DIRECTIONS)
def test_a_driver_that_does_not_tell_is_asked_once(line, shim, kind):
    options, on, off = DIRECTIONS[kind]
    watched = shim("TIOCSERGETLSR=ENOTTY", device=line.device_end)
    child = Child(line, watched, **options)
    for _ in range(3):
        assert child.ask(ASKED, 7) == ANSWER
    assert child.end() == [0, 0]
    said = [(call.name, "" if call.name == "write" else call.argument) for call in of_the_port(watched) if call.name != "TIOCSERGETLSR"]
    assert said == [on, ("write", ""), off] * 3
    assert [call.result for call in watched.calls("TIOCSERGETLSR")] == ["ENOTTY"]


def test_a_driver_that_is_never_done_does_not_keep_the_bus(line, shim):
    watched = shim(device=line.device_end, busy=1000000)
    child = Child(line, watched, direction="rts")
    assert child.ask(ASKED, 7) == ANSWER
    assert child.ask(ASKED, 7) == ANSWER
    assert child.end() == [0, 0]
    assert [call.name for call in of_the_port(watched) if call.name != "TIOCSERGETLSR"] == ["TIOCMBIS", "write", "TIOCMBIC"] * 2


@pytest.mark.parametrize(
    ("script", "after", "last"),
    [
        # the first reply goes out, the second one meets a device that has gone
        ("TIOCMBIS=EIO@2", ["TIOCMBIS", "TIOCMBIC"], errno.EIO),
        ("TIOCMBIC=ENODEV@2", ["TIOCMBIS", "write", "TIOCMBIC", "TIOCMBIC"], errno.ENODEV),
        ("write=EIO@2", ["TIOCMBIS", "write", "TIOCMBIC", "TIOCMBIC"], errno.EIO),
    ],
)
def test_a_transceiver_is_never_left_sending(line, shim, script, after, last):
    watched = shim(script, device=line.device_end, TIOCSERGETLSR="ENOTTY")
    child = Child(line, watched, direction="rts")
    assert child.ask(ASKED, 7) == ANSWER
    child.say(ASKED)
    until(lambda: len(of_the_port(watched)) == 4 + len(after))
    assert child.end() == [last, 0]
    assert [call.name for call in of_the_port(watched) if call.name != "TIOCSERGETLSR"] == ["TIOCMBIS", "write", "TIOCMBIC", *after]


def test_a_gpio_line_that_fails_ends_the_loop(line, shim):
    watched = shim("GPIO_V2_LINE_SET_VALUES=ENODEV@3", device=line.device_end, TIOCSERGETLSR="ENOTTY")
    child = Child(line, watched, direction="gpio")
    assert child.ask(ASKED, 7) == ANSWER
    child.say(ASKED)
    until(lambda: len(watched.calls("GPIO_V2_LINE_SET_VALUES")) == 4)
    assert child.end() == [errno.ENODEV, 0]
    assert [call.argument for call in watched.calls("GPIO_V2_LINE_SET_VALUES")] == ["1", "0", "1", "0"]
    assert len([call for call in watched.calls("write") if call.target == "port"]) == 1


def test_others_switch_and_the_loop_does_not(line, shim):
    watched = shim(device=line.device_end)
    child = Child(line, watched, direction="kernel", delay_before=1000.0, delay_after=1000.0)
    assert child.ask(ASKED, 7) == ANSWER
    assert child.end() == [0, 0]
    assert [call.name for call in of_the_port(watched)] == ["write"]


def test_the_reply_goes_out_reply_delay_after_the_last_byte(line, shim):
    watched = shim(device=line.device_end)
    child = Child(line, watched, session={"reply_delay": 0.05})
    assert child.ask(ASKED, 7) == ANSWER
    child.say(ASKED[:5])
    until(lambda: sum(len(call.data) for call in watched.calls("read") if call.target == "port") >= len(ASKED) + 5)
    assert child.ask(ASKED[5:], 7) == ANSWER
    assert child.end() == [0, 0]
    replies = [call for call in watched.calls("write") if call.target == "port"]
    assert len(replies) == 2
    for sent in replies:
        heard = [call for call in watched.calls("read") if call.target == "port" and call.end <= sent.begin and call.data]
        assert heard
        assert sent.begin - heard[-1].begin >= 0.05


def test_a_loop_that_waits_asks_nothing(line, shim):
    watched = shim(device=line.device_end)
    child = Child(line, watched)
    assert child.ask(ASKED, 7) == ANSWER
    counts = [-1]

    def rests():
        counts.append(len(watched.calls("ppoll")))
        time.sleep(0.2)
        return counts[-1] == counts[-2]

    # A loop that asks often never does.
    until(rests)
    assert child.end() == [0, 0]
    # What ends it ends a wait that has no end of its own.
    assert watched.calls("ppoll")[-1].argument == "for:forever"


def test_a_real_time_schedule_that_is_refused_is_told_and_the_line_served():
    said = run_python(
        "import os, resource, threading, tty\n"
        "from mbcore import ModbusRtuFramer, ModbusServerContext, ModbusSlaveContext\n"
        "from mbcore.engine.serial import SerialLoop\n"
        "from mbcore.line import LineSession\n"
        "end, port = os.openpty()\n"
        "tty.setraw(port)\n"
        "os.set_blocking(port, False)\n"
        "resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))\n"
        "if not os.geteuid():\n"
        "    os.setuid(65534)\n"
        "context = ModbusServerContext(ModbusSlaveContext())\n"
        "loop = SerialLoop(LineSession(ModbusRtuFramer, context), port, 0.0001, priority=40)\n"
        "thread = threading.Thread(target=loop.run)\n"
        "thread.start()\n"
        f"os.write(end, bytes.fromhex('{wrap_rtu(pdu('08 0000 A537')).hex()}'))\n"
        "print(os.read(end, 8).hex())\n"
        "loop.stop()\n"
        "thread.join()\n"
        "print(loop.schedule_errno, loop.errno)\n"
    )
    assert said == f"{wrap_rtu(pdu('08 0000 A537')).hex()}\n{errno.EPERM} 0\n"


def test_a_schedule_that_does_not_exist_is_told(bus):
    served = bus(line={"priority": 1000})
    assert served.wants_python(), "that it is refused"
    served.ask(ASKED, ANSWER)
    assert served.loop.schedule_errno == errno.EINVAL


def test_a_real_time_schedule_where_it_is_permitted(bus):
    served = bus(line={"priority": 1})
    served.ask(ASKED, ANSWER)
    permitted = not served.loop.schedule_errno
    assert os.sched_getscheduler(served.thread_id) == (os.SCHED_FIFO if permitted else os.SCHED_OTHER)
    assert permitted or served.loop.schedule_errno == errno.EPERM


def test_a_loop_hears_a_knock_when_it_turns(bus):
    served = bus(start=False)
    assert served.loop.knock()
    assert not served.loop.knock(), "it does not run yet"
    served.thread.start()
    until(served.loop.knock)
