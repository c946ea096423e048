"""Listening: both directions of a line with a clock of its own, noise, pairing, any bytes; what is printed, and what a capture holds."""

import io
import os
import struct
import time
from itertools import count, pairwise
from types import SimpleNamespace

import pytest
from adu import pdu, wrap_ascii, wrap_binary, wrap_rtu
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_codec import REQUESTS, RESPONSES

from mbcore import ModbusAsciiFramer, ModbusBinaryFramer, ModbusRtuFramer, ModbusSocketFramer, cli
from mbcore.errors import ConfigurationError, LineError
from mbcore.monitor import Monitor
from mbcore.sniff import Capture, Sniffer, frame_line

CHARACTER = 11 / 19200
GAP = 3.5 * CHARACTER
TURNAROUND = 0.005
CYCLE = 0.1
LINES = {"rtu": (ModbusRtuFramer, wrap_rtu), "ascii": (ModbusAsciiFramer, wrap_ascii), "binary": (ModbusBinaryFramer, wrap_binary)}
every_framing = pytest.mark.parametrize("framing", LINES)

ASK = pdu("03 0000 0002")
TELL = pdu("03 04 0011 0022")
WRITE = pdu("06 0001 0003")
# Every request with a response that fits it.
EXCHANGES = [
    (pdu(request), pdu(request) if code in (5, 6, 8) else next(pdu(text) for other, _, text in RESPONSES if other == code))
    for code, _, request in REQUESTS
    if code != 23
]
EXCHANGES += [
    (pdu("17 0003 0006 000E 0003 06 00FF 00FF 00FF"), pdu("17 0C 00FE 0ACD 0001 0003 000D 00FF")),
    (pdu("08 0000 A537 0001 0002"), pdu("08 0000 A537 0001 0002")),
    (pdu("41 01 02 03"), pdu("41 0A")),
    (pdu("03 FFFF 0002"), pdu("83 02")),
    (pdu("41"), pdu("C1 01")),
    (pdu("2B 0D 0102"), pdu("2B 0D 01")),
    # Responses as long as a request of their function, and a request that is as long as its response.
    (pdu("01 0300 0018"), pdu("01 03 AABBCC")),
    (pdu("02 0300 0011"), pdu("02 03 000000")),
    (pdu("11"), pdu("11 01 FF")),
]


class Wire:
    """A line with a clock: says things at its speed, and calls the monitor when it wants to be called."""

    def __init__(self, framing="rtu", piece=1, late=0.0, **options):
        framer, self.wrap = LINES[framing]
        self.monitor = Monitor(framer, character_time=CHARACTER, frame_gap=GAP, **options)
        self.piece, self.late = piece, late
        self.now = 100.0
        self.frames = []

    def say(self, data):
        """`data` goes over the line without a pause, and is delivered in pieces."""
        for start in range(0, len(data), self.piece):
            part = data[start : start + self.piece]
            self.pass_time(len(part) * CHARACTER)
            self.frames += self.monitor.receive(part, self.now)

    def pass_time(self, seconds):
        until = self.now + seconds
        while (due := self.monitor.deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            self.frames += self.monitor.expire(self.now)
        self.now = until

    def exchange(self, request, response, unit=1, pause=CYCLE):
        self.say(self.wrap(request, unit))
        self.pass_time(TURNAROUND)
        self.say(self.wrap(response, unit))
        self.pass_time(pause)

    def kinds(self):
        return [frame.kind for frame in self.frames]

    def end(self):
        self.pass_time(10)
        assert self.monitor.deadline() is None
        return self.frames


def heard(frames):
    return [(frame.kind, frame.unit, frame.pdu) for frame in frames]


def said(unit, *exchanges):
    return [(kind, unit, half) for exchange in exchanges for kind, half in zip(("request", "response"), exchange, strict=True)]


# ---- both directions ----


@every_framing
@pytest.mark.parametrize("piece", [1, 3, 64, 1000])
@pytest.mark.parametrize("pause", [CYCLE, 2 * GAP], ids=["calm", "busy"])
def test_every_function_is_heard_both_ways(framing, piece, pause):
    wire = Wire(framing, piece)
    for request, response in EXCHANGES:
        wire.exchange(request, response, 17, pause)
    frames = wire.end()
    assert heard(frames) == said(17, *EXCHANGES)
    assert b"".join(frame.raw for frame in frames) == b"".join(wire.wrap(half, 17) for exchange in EXCHANGES for half in exchange)
    tally = wire.monitor.units[17]
    refusals = sum(response[0] & 0x80 > 0 for _, response in EXCHANGES)
    assert (tally.requests, tally.answers, tally.exceptions) == (len(EXCHANGES), len(EXCHANGES) - refusals, refusals)
    assert (tally.unanswered, tally.damaged, tally.unasked) == (0, 0, 0)
    assert (wire.monitor.damaged_frames, wire.monitor.discarded_bytes) == (0, 0)


@pytest.mark.parametrize("number", range(len(EXCHANGES)))
def test_request_and_response_delivered_as_one_are_told_apart(number):
    request, response = EXCHANGES[number]
    wire = Wire(piece=1000)
    wire.say(wrap_rtu(request) + wrap_rtu(response))
    assert heard(wire.end()) == said(1, (request, response))


def test_frames_without_a_told_length_are_told_apart_by_silence_or_their_checksums():
    exchanges = [(pdu("41 01 02 03"), pdu("41 0A")), (pdu("08 0000 A537"), pdu("08 0000 A537")), (pdu("41 02"), pdu("C1 01"))]
    for pause in (2 * GAP, 0.015, 0.030):
        wire = Wire(piece=64)
        for request, response in exchanges:
            wire.say(wrap_rtu(request) + wrap_rtu(response))
            wire.pass_time(pause)
        assert heard(wire.end()) == said(1, *exchanges)
    wire = Wire(piece=1000)
    wire.say(b"".join(wrap_rtu(half) for exchange in exchanges for half in exchange))
    assert heard(wire.end()) == said(1, *exchanges)


@pytest.mark.parametrize(("code", "fields", "text"), REQUESTS)
def test_fields_of_requests_are_the_codecs(code, fields, text):
    wire = Wire()
    wire.say(wrap_rtu(pdu(text)))
    assert [frame.fields for frame in wire.end()] == [{"function_code": code, **fields}]


def test_bits_of_a_response_are_as_many_as_were_asked_for():
    wire = Wire()
    wire.exchange(pdu("01 0013 0013"), pdu("01 03 CD6B05"))
    assert len(wire.end()[1].fields["bits"]) == 0x13


def test_a_request_that_deserves_an_exception_is_heard_with_its_reason():
    wire = Wire()
    wire.exchange(pdu("03 0000 007E"), pdu("83 03"))
    request, response = wire.end()
    assert (request.kind, request.fields, request.refused) == ("request", None, 3)
    assert response.fields == {"function_code": 3, "exception_code": 3}


@pytest.mark.parametrize("text", ["10 0001 0002 03 000A 01", "03 0000 0001 00", "17 0000 0001 0000 0001 01 00", "06 0001"])
def test_a_request_of_another_length_than_its_functions_is_heard_by_its_checksum(text):
    wire = Wire()
    wire.exchange(pdu(text), bytes([pdu(text)[0] | 0x80, 3]))
    assert heard(wire.end()) == said(1, (pdu(text), bytes([pdu(text)[0] | 0x80, 3])))


# ---- who speaks ----


def test_a_response_may_look_like_a_request_in_its_beginning():
    """Its first eight bytes are a request with a right CRC; delivered byte by byte, with pauses as of a USB adapter."""
    start = bytes([1, 3, 60, 0, 0, 1])
    response = wrap_rtu(b"\x03\x3c" + (wrap_rtu(start[1:], 1)[3:]).ljust(60, b"\x55"))
    wire = Wire()
    wire.say(wrap_rtu(pdu("03 0000 001E")))
    for at in range(0, len(response), 8):
        wire.pass_time(0.016)
        wire.say(response[at : at + 8])
    assert wire.kinds() == ["request", "response"]
    assert wire.frames[1].raw == response


def test_a_repeated_write_after_the_time_out_is_a_request_again():
    wire = Wire(timeout=0.5)
    wire.say(wrap_rtu(WRITE))
    wire.pass_time(0.6)
    wire.exchange(WRITE, WRITE)
    assert wire.kinds() == ["request", "request", "response"]
    assert wire.monitor.units[1].unanswered == 1


def test_another_write_before_the_time_out_is_a_request():
    wire = Wire()
    wire.say(wrap_rtu(WRITE))
    wire.pass_time(0.2)
    wire.exchange(pdu("06 0002 0003"), pdu("06 0002 0003"))
    assert wire.kinds() == ["request", "request", "response"]
    assert wire.monitor.units[1].unanswered == 1


def test_a_repeated_write_after_a_damaged_answer_is_a_request():
    wire = Wire()
    wire.exchange(WRITE, WRITE)
    wire.say(wrap_rtu(WRITE))
    wire.pass_time(TURNAROUND)
    wire.say(wrap_rtu(WRITE)[:-1] + b"\0")
    wire.pass_time(0.2)
    wire.exchange(WRITE, WRITE)
    assert wire.kinds() == ["request", "response", "request", "bad", "request", "response"]
    assert wire.monitor.units[1].damaged == 1
    assert wire.monitor.units[1].unanswered == 0


def test_a_request_to_another_unit_ends_the_waiting():
    wire = Wire()
    wire.say(wrap_rtu(ASK, 5))
    wire.pass_time(0.2)
    wire.exchange(ASK, TELL, 6)
    wire.end()
    assert wire.monitor.units[5].unanswered == 1
    assert wire.monitor.units[6].answers == 1


def test_a_response_of_the_wrong_unit_or_function_answers_nothing():
    wire = Wire()
    wire.say(wrap_rtu(ASK, 5))
    wire.pass_time(TURNAROUND)
    wire.say(wrap_rtu(TELL, 6))
    wire.pass_time(TURNAROUND)
    wire.say(wrap_rtu(pdu("04 02 0001"), 5))
    wire.end()
    assert wire.kinds() == ["request", "response", "response"]
    assert (wire.monitor.units[5].unasked, wire.monitor.units[6].unasked) == (1, 1)
    assert wire.monitor.units[5].unanswered == 1


@every_framing
def test_broadcasts_and_listen_only_mode_want_no_answer(framing):
    wire = Wire(framing)
    for request, unit in ((WRITE, 0), (pdu("08 0004 0000"), 3)):
        wire.say(wire.wrap(request, unit))
        wire.pass_time(2)
    wire.end()
    assert wire.kinds() == ["request", "request"]
    assert [wire.monitor.units[unit].unanswered for unit in (0, 3)] == [0, 0]


@every_framing
def test_an_answer_after_the_time_out_is_unasked(framing):
    wire = Wire(framing, timeout=0.1)
    wire.say(wire.wrap(ASK, 1))
    wire.pass_time(0.2)
    wire.say(wire.wrap(TELL, 1))
    wire.end()
    assert wire.kinds() == ["request", "response"]
    assert (wire.monitor.units[1].unanswered, wire.monitor.units[1].unasked, wire.monitor.units[1].timed) == (1, 1, 0)


def test_an_answer_that_begins_before_the_time_out_is_one():
    wire = Wire(timeout=0.1)
    wire.say(wrap_rtu(ASK))
    wire.pass_time(0.095)
    wire.say(wrap_rtu(pdu("03 04 0011 0022")))
    wire.end()
    assert wire.monitor.units[1].answers == 1


# ---- noise ----


@pytest.mark.parametrize("noise", [b"\0", b"\xff" * 3, b"\1\3", bytes(40), b"\xa5" * 300, bytes(range(256)) * 3])
@pytest.mark.parametrize("silence", [0.0, 2 * GAP, 0.1])
def test_frames_are_found_behind_noise(noise, silence):
    wire = Wire()
    wire.exchange(ASK, TELL)
    wire.say(noise)
    wire.pass_time(silence)
    wire.exchange(ASK, TELL)
    frames = wire.end()
    assert heard(frame for frame in frames if frame.kind != "bad") == 2 * said(1, (ASK, TELL))
    assert b"".join(frame.raw for frame in frames if frame.kind == "bad") == noise
    assert wire.monitor.discarded_bytes == len(noise)
    assert (wire.monitor.damaged_frames > 0) == (len(noise) >= 4)


@pytest.mark.parametrize("pause", [2 * GAP, 0.03, CYCLE])
@pytest.mark.parametrize("cut", range(1, 9))
def test_a_frame_that_is_cut_off_costs_no_other(cut, pause):
    wire = Wire()
    wire.say(wrap_rtu(ASK))
    wire.pass_time(TURNAROUND)
    wire.say(wrap_rtu(TELL)[:-cut])
    for _ in range(2):
        wire.pass_time(pause)
        wire.exchange(ASK, TELL, pause=0)
    frames = wire.end()
    assert heard(frame for frame in frames if frame.kind != "bad") == [("request", 1, ASK), *2 * said(1, (ASK, TELL))]


@pytest.mark.parametrize("at", range(9))
def test_a_flipped_bit_damages_one_frame(at):
    wire = Wire()
    damaged = bytearray(wrap_rtu(TELL))
    damaged[at] ^= 0x10
    wire.say(wrap_rtu(ASK))
    wire.pass_time(TURNAROUND)
    wire.say(bytes(damaged))
    wire.pass_time(CYCLE)
    wire.exchange(ASK, TELL)
    assert wire.kinds() == ["request", "bad", "request", "response"]
    tally = wire.monitor.units[1]
    assert (tally.requests, tally.answers, tally.damaged, tally.unanswered) == (2, 1, 1, 0)
    assert (wire.monitor.damaged_frames, wire.monitor.discarded_bytes) == (1, 9)


@pytest.mark.parametrize("framing", ["ascii", "binary"])
def test_a_damaged_delimited_frame_costs_no_other(framing):
    wire = Wire(framing)
    wire.say(b"??" + wire.wrap(ASK, 1)[:-4])
    wire.pass_time(2)
    wire.say(wire.wrap(ASK, 1).replace(b"3", b"4"))
    wire.exchange(ASK, TELL)
    frames = wire.end()
    assert heard(frame for frame in frames if frame.kind != "bad") in (said(1, (ASK, TELL)), [("request", 1, ASK), *said(1, (ASK, TELL))])
    assert wire.monitor.damaged_frames >= 1


@every_framing
def test_a_line_of_nothing_but_noise_is_held_for_a_moment_only(framing):
    wire = Wire(framing, piece=7)
    noise = bytes(range(128, 256)) * 40
    for _ in range(3):
        wire.say(noise)
    assert sum(len(frame.raw) for frame in wire.frames) >= 3 * len(noise) - 1100
    assert b"".join(frame.raw for frame in wire.end()) == 3 * noise


def test_a_late_piece_belongs_to_its_frame():
    wire = Wire(piece=62)
    response = b"\x03\x64" + bytes(range(100))
    wire.say(wrap_rtu(pdu("03 0000 0032")))
    raw = wrap_rtu(response)
    wire.pass_time(TURNAROUND)
    wire.say(raw[:62])
    wire.pass_time(0.016)
    wire.say(raw[62:])
    assert heard(wire.frames) == said(1, (pdu("03 0000 0032"), response))


# ---- time ----


def test_times_are_those_of_the_line_whatever_the_delivery():
    expected = None
    for piece in (1, 8, 64):
        wire = Wire(piece=piece)
        wire.exchange(ASK, TELL)
        wire.exchange(WRITE, WRITE)
        times = [(round(frame.start, 6), round(frame.end, 6)) for frame in wire.end()]
        expected = expected or times
        assert times == expected
    assert [round(frame.response_time, 6) for frame in wire.frames if frame.kind == "response"] == [TURNAROUND] * 2
    assert [round(frame.gap, 6) for frame in wire.frames[1:]] == [TURNAROUND, CYCLE, TURNAROUND]
    assert wire.frames[0].gap is None
    tally = wire.monitor.units[1]
    assert [round(seconds, 6) for seconds in (tally.shortest, tally.mean, tally.longest)] == [TURNAROUND] * 3


def test_response_times_are_summed_per_unit():
    monitor = Monitor()
    now = 0.0
    for seconds in (0.010, 0.030, 0.020):
        monitor.receive(wrap_rtu(ASK), now)
        monitor.receive(wrap_rtu(TELL), now + seconds)
        now += 1
    tally = monitor.units[1]
    assert [round(value, 6) for value in (tally.shortest, tally.mean, tally.longest)] == [0.01, 0.02, 0.03]


def test_nothing_is_due_on_a_silent_line():
    monitor = Monitor(timeout=0.5)
    assert monitor.deadline() is None
    assert monitor.expire(1.0) == []
    assert monitor.receive(b"", 1.0) == []
    monitor.receive(wrap_rtu(ASK), 2.0)
    assert monitor.deadline() == 2.5
    assert monitor.expire(2.4) == []
    assert monitor.units[1].unanswered == 0
    assert monitor.expire(2.5) == []
    assert monitor.units[1].unanswered == 1
    assert monitor.deadline() is None


def test_what_is_left_comes_out_at_the_end():
    monitor = Monitor()
    monitor.receive(wrap_rtu(ASK)[:5], 0.0)
    assert [frame.raw for frame in monitor.finish()] == [wrap_rtu(ASK)[:5]]
    assert monitor.finish() == []


def test_a_framing_without_a_line_is_refused():
    with pytest.raises(ConfigurationError, match="frames no serial line; use ModbusRtuFramer"):
        Monitor(ModbusSocketFramer)


# ---- any bytes ----

pieces = st.one_of(
    st.binary(max_size=40),
    st.binary(min_size=1, max_size=253).map(wrap_rtu),
    st.builds(wrap_rtu, st.sampled_from([half for exchange in EXCHANGES for half in exchange]), st.integers(0, 2)),
    st.builds(wrap_ascii, st.sampled_from([half for exchange in EXCHANGES for half in exchange]), st.integers(0, 2)),
    st.builds(wrap_binary, st.sampled_from([half for exchange in EXCHANGES for half in exchange]), st.integers(0, 2)),
    st.sampled_from([b":", b"{", b"}", b"\r\n", b":0103", b"\1\x10\0\0\0\x7b\xf6", b"\5\x03\xfa", b"\1\x14", b"\1\x2b\x0e\1\0\0\0\xff"]),
)
steps = st.lists(st.tuples(pieces, st.sampled_from([0.0, 0.001, 0.004, 0.025, 0.06, 2.0])), max_size=12)


@every_framing
@settings(max_examples=300, deadline=None)
@given(steps=steps, piece=st.sampled_from([1, 5, 300]))
@example(steps=[(b"\1", 2.0)], piece=1)
def test_any_bytes_come_out_in_frames_once_and_in_order(framing, steps, piece):
    wire = Wire(framing, piece)
    for data, seconds in steps:
        wire.say(data)
        wire.pass_time(seconds)
        assert len(wire.monitor._buffer) < 1100
    frames = wire.end()
    assert b"".join(frame.raw for frame in frames) == b"".join(data for data, _ in steps)
    assert all(frame.start <= frame.end for frame in frames)
    assert all(before.end <= after.end and after.gap >= 0 for before, after in pairwise(frames))
    assert wire.monitor.discarded_bytes == sum(len(frame.raw) for frame in frames if frame.kind == "bad")
    tallies = wire.monitor.units.values()
    assert sum(tally.requests for tally in tallies) == wire.kinds().count("request")
    assert sum(tally.answers + tally.exceptions + tally.unasked for tally in tallies) == wire.kinds().count("response")
    for frame in frames:
        assert frame_line(frame, 0.0).isprintable()
    for tally in tallies:
        assert tally.answers + tally.exceptions + tally.unanswered + tally.damaged <= tally.requests


@every_framing
@settings(max_examples=100, deadline=None)
@given(
    exchanges=st.lists(st.tuples(st.sampled_from(EXCHANGES), st.integers(1, 3)), max_size=8),
    piece=st.sampled_from([1, 8, 64]),
    pause=st.floats(2 * GAP, 0.3),
)
def test_any_exchanges_are_paired(framing, exchanges, piece, pause):
    wire = Wire(framing, piece)
    for (request, response), unit in exchanges:
        wire.exchange(request, response, unit, pause)
    frames = wire.end()
    assert heard(frames) == [half for exchange, unit in exchanges for half in said(unit, exchange)]
    assert [frame.request for frame in frames[1::2]] == frames[::2]


# ---- text ----

LINES_OF_TEXT = [
    (ASK, TELL, "request   03 read holding registers: address 0, quantity 2", "response  03 read holding registers: registers 17 34"),
    (pdu("05 0007 FF00"), pdu("05 0007 FF00"), "05 write single coil: address 7, value on", "05 write single coil: address 7, value on"),
    (pdu("01 0000 000A"), pdu("01 02 FF01"), "address 0, quantity 10", "01 read coils: bits 1 1 1 1 1 1 1 1 ... (10)"),
    (
        pdu("03 FFFF 0002"),
        pdu("83 02"),
        "address 65535, quantity 2",
        "response  03 read holding registers: exception 02 illegal data address",
    ),
    (pdu("07"), pdu("07 6D"), "request   07 read exception status", "07 read exception status: status 109"),
    (pdu("41 0102"), pdu("41"), "request   65 of its own: 01 02", "response  65 of its own: no data"),
    (pdu("41 0102"), pdu("C1 63"), "request   65 of its own: 01 02", "response  65 of its own: exception 99 of its own"),
    (pdu("03 0000 007E"), pdu("83 03"), "03 read holding registers: not valid, 03 00 00 00 7e", "exception 03 illegal data value"),
    (pdu("14 07 06 0004 0001 0002"), pdu("14 06 05 06 0DFE 0020"), "groups (4 1 2)", "groups (3582 32)"),
    (pdu("18 04DE"), pdu("18 0002 0000"), "24 read fifo queue: address 1246", "24 read fifo queue: registers none"),
    (pdu("2B 0E 01 00"), pdu("2B 0E 01 81 00 00 02 00 02 4143 01 01 0A"), "read code 1, object id 0", "objects 0='AC' 1='\\n'"),
    (pdu("2B 0E 01 00"), pdu("2B 0E 01 81 00 00 00"), "read code 1, object id 0", "next object 0, objects none"),
]


@pytest.mark.parametrize(("request_pdu", "response_pdu", "asked", "answered"), LINES_OF_TEXT)
def test_a_frame_is_a_line(request_pdu, response_pdu, asked, answered):
    wire = Wire()
    wire.exchange(request_pdu, response_pdu)
    request, response = (frame_line(frame, frame.start - 100) for frame in wire.end())
    assert request.startswith("     0.000         -     1  request   ")
    assert request.endswith(asked)
    assert f"{1000 * TURNAROUND:10.1f}     1  response  " in response
    assert response.endswith(answered)


def test_bad_bytes_are_shown_in_hex_and_shortened():
    wire = Wire()
    wire.say(b"\xa5\x5a")
    wire.pass_time(1)
    wire.say(b"\xa5" * 40)
    first, second = (frame_line(frame, 0.0) for frame in wire.end())
    assert first.endswith("bad       a5 5a")
    assert second.endswith(" a5" * 31 + " ... (40 bytes)")


# ---- the capture ----

PCAP_HEAD = struct.Struct("<IHHiIII")
RECORD_HEAD = struct.Struct("<IIII")


def records(path):
    """(time in nanoseconds, {tag: value}, payload) of each record."""
    held = path.read_bytes()
    magic, major, minor, _, _, _, link = PCAP_HEAD.unpack_from(held)
    assert (magic, major, minor, link) == (0xA1B23C4D, 2, 4, 252)
    at, found = PCAP_HEAD.size, []
    while at < len(held):
        seconds, nanoseconds, captured, length = RECORD_HEAD.unpack_from(held, at)
        assert captured == length
        data = held[at + RECORD_HEAD.size :][:length]
        assert len(data) == length
        at += RECORD_HEAD.size + length
        tags = {}
        while True:
            tag, size = struct.unpack_from(">HH", data)
            value, data = data[4 : 4 + size], data[4 + size :]
            if not tag:
                break
            assert size % 4 == 0
            tags[tag] = value.rstrip(b"\0") if tag == 12 else value
        found.append((seconds * 1_000_000_000 + nanoseconds, tags, data))
    return found


@every_framing
def test_capture_holds_rtu_frames_with_their_direction(framing, tmp_path):
    wire = Wire(framing)
    wire.say(b"?")
    wire.exchange(ASK, TELL, 17)
    capture = Capture(str(tmp_path / "x.pcap"), LINES[framing][0])
    for frame in wire.end():
        capture.add(frame, 1_700_000_000 + frame.start - 100)
        assert records(tmp_path / "x.pcap")[-1][2] == (frame.raw if frame.kind == "bad" else wrap_rtu(frame.pdu, 17))
    capture.close()
    noise, request, response = records(tmp_path / "x.pcap")
    assert noise[1:] == ({12: b"data"}, b"?")
    master, unit, tcp = (b"\n\0\0\0", struct.pack(">I", 50000)), (b"\n\0\1\x11", struct.pack(">I", 502)), b"\0\0\0\2"
    assert request[1] == {12: b"mbrtu", 20: master[0], 21: unit[0], 24: tcp, 25: master[1], 26: unit[1]}
    assert response[1] == {12: b"mbrtu", 20: unit[0], 21: master[0], 24: tcp, 25: unit[1], 26: master[1]}
    ended = wire.frames[1].end - wire.frames[1].start + TURNAROUND
    assert (response[0] - request[0]) / 1e9 == pytest.approx(ended, abs=1e-6)
    assert 1_700_000_000e9 <= noise[0] < request[0] < 1_700_000_001e9


# ---- the loop, on a port that is a pipe ----


class Pipe:
    """What a Sniffer needs of a port."""

    name = "/dev/pipe"

    def __init__(self):
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)

    def fileno(self):
        return self._reader

    def close(self):
        os.close(self._reader)


@pytest.fixture
def sniff():
    """sniff(data, **options) -> what is printed of `data`, after which the port goes."""
    made = []

    def run(data, monitor=None, **options):
        port, out = Pipe(), io.StringIO()
        sniffer = Sniffer(port, monitor or Monitor(), "TITLE", out=out, **options)
        made.extend((sniffer, port))
        os.write(port.writer, data)
        if "seconds" not in options:
            os.close(port.writer)
        try:
            sniffer.run()
        except LineError as error:
            print(f"ENDED {error}", file=out)
        if "seconds" in options:
            os.close(port.writer)
        return out.getvalue().splitlines()

    yield run
    for one in made:
        one.close()


def test_frames_then_the_table_are_printed_and_a_port_that_goes_is_one_sentence(sniff):
    title, head, request, response, bad, *rest = sniff(wrap_rtu(ASK) + wrap_rtu(TELL) + b"\xff")
    assert title.startswith("TITLE; time 0 is 2")
    assert head.split() == ["time", "gap", "ms", "unit", "function"]
    assert request.endswith("request   03 read holding registers: address 0, quantity 2")
    assert response.endswith("response  03 read holding registers: registers 17 34")
    assert bad.endswith("bad       ff")
    assert rest == [
        "",
        "unit  requests  answers  exceptions  no answer  damaged  unasked  min ms  mean ms  max ms",
        "   1         1        1           0          0        0        0     0.0      0.0     0.0",
        "damaged frames: 0, discarded bytes: 1",
        "ENDED the serial port /dev/pipe is gone: plug the adapter in and start again",
    ]


def test_quiet_prints_the_table_only(sniff):
    lines = sniff(wrap_rtu(ASK), quiet=True)
    assert len(lines) == 6
    assert lines[3].split() == ["1", "1", "0", "0", "0", "0", "0", "-", "-", "-"]


def test_count_ends_after_so_many_frames(sniff):
    lines = sniff(3 * (wrap_rtu(ASK) + wrap_rtu(TELL)), count=3)
    assert sum(" request " in line or " response " in line for line in lines) == 3
    assert not any("ENDED" in line for line in lines)


def test_seconds_end_it(sniff, monkeypatch):
    # Each look at this clock is a millisecond of it, whatever this machine does meanwhile.
    clock = count(1000.0, 0.001)
    monkeypatch.setattr("mbcore.sniff.time", SimpleNamespace(monotonic=lambda: next(clock), time=time.time))
    lines = sniff(wrap_rtu(ASK), seconds=0.05, monitor=Monitor(timeout=0.01))
    assert lines[5].split()[:5] == ["1", "1", "0", "0", "1"]
    assert not any("ENDED" in line for line in lines)


@pytest.mark.parametrize(("data", "hint"), [(b"", "Nothing was heard"), (b"\xa5" * 9, "No frame was whole: compare -b, -m")])
def test_a_line_without_frames_is_explained(sniff, data, hint):
    assert any(line.startswith(hint) for line in sniff(data))


def test_a_stop_before_it_begins_ends_it_and_a_table_may_be_asked_for():
    port, out = Pipe(), io.StringIO()
    sniffer = Sniffer(port, Monitor(), "TITLE", out=out)
    for _ in range(70000):  # more than a pipe holds
        sniffer.show_table()
    os.write(port.writer, wrap_rtu(ASK))
    os.close(port.writer)
    with pytest.raises(LineError):
        sniffer.run()
    assert out.getvalue().count("damaged frames") > 2
    sniffer.close()
    again = Sniffer(port, Monitor(), "TITLE", out=out)
    again.stop()
    again.run()
    again.close()
    port.close()


def test_a_read_that_finds_nothing_waits_on_and_one_that_fails_ends_it(sniff, monkeypatch):
    true_read, failures = os.read, [BlockingIOError(), OSError(5, "Input/output error")]

    def read(descriptor, size):
        if failures and size == 4096:
            raise failures.pop(0)
        return true_read(descriptor, size)

    monkeypatch.setattr("mbcore.sniff.os.read", read)
    lines = sniff(wrap_rtu(ASK))
    assert failures == []
    assert lines[-1] == "ENDED the serial port /dev/pipe is gone: plug the adapter in and start again"


def test_a_capture_that_can_not_be_written_any_more_is_one_sentence_after_the_table(sniff):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with pytest.raises(LineError, match="/dev/full can't be written on: no space left on device"):
        Capture("/dev/full")
    capture = Capture(os.devnull)
    capture._file.close()
    capture._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 - closed below
    lines = sniff(wrap_rtu(ASK), capture=capture)
    capture.close()
    assert lines[-1].endswith("can't be written on: no space left on device")
    assert any("damaged frames" in line for line in lines)


# ---- the command line ----

MISTAKES = {
    "sniff": "device",
    "sniff /dev/null --framer socket": "'socket'",
    "sniff /dev/null --count 0": "'0' is not a whole number in 1..",
    "sniff /dev/null --seconds 0": "'0' is no time in seconds above 0",
    "sniff /dev/null -m 7E1": "7 data bits can't carry rtu frames, which need 8; only ascii takes 7",
    "sniff /dev/null -P mark": "'mark' is no parity",
    "sniff /dev/null --pcap -": "'-' is standard output, where the frames are printed; name a file",
    "sniff {port} --pcap /no/such/x.pcap": "/no/such/x.pcap can't be written: no such file or directory; name another file",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistake_is_one_sentence_and_exit_code_2(line, capsys):
    ends = os.openpty()
    try:
        assert cli.main(line.format(port=os.ttyname(ends[1])).split()) == 2
    finally:
        for end in ends:
            os.close(end)
    heard = capsys.readouterr()
    assert MISTAKES[line] in heard.err
    assert heard.err.startswith("mbcore")
    assert heard.err.count("\n") == 1
    assert heard.out == ""


def test_absent_port_is_one_sentence_and_exit_code_1(capsys):
    assert cli.main(["sniff", "/dev/no-such-port"]) == 1
    assert "there is no serial port /dev/no-such-port" in capsys.readouterr().err


def test_help_explains_and_succeeds(capsys):
    assert cli.main(["sniff", "--help"]) == 0
    assert "usage: mbcore sniff" in capsys.readouterr().out
