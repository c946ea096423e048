"""A shared line on which marks tell the frames: whatever stands between them, each own request is answered, and nothing else is."""

import pytest
from adu import block, image, one_unit, pdu, wrap_ascii, wrap_binary
from hypothesis import given, settings
from hypothesis import strategies as st

from mbcore import ModbusAsciiFramer, ModbusBinaryFramer
from mbcore.line import LineSession

US, OTHER = 1, 9
CHARACTER = 11 / 19200
SILENCE = 1.5  # more than a frame may pause

words = st.integers(0, 0xFFFF).map(lambda value: value.to_bytes(2))
payloads = st.binary(min_size=2, max_size=40).map(lambda data: data[: len(data) // 2 * 2])
writes = st.builds(lambda address, value: b"\x06" + bytes([0, address]) + value, st.integers(0, 9), words)
reads = st.just(pdu("03 0000 0002"))
requests = st.one_of(writes, reads)
responses = payloads.map(lambda data: bytes([3, len(data)]) + data)
frames = st.one_of(
    st.tuples(st.just("own"), requests),
    st.tuples(st.just("other"), st.one_of(requests, responses, st.just(pdu("83 02")))),
)
damaged = st.tuples(st.just("damaged"), requests, st.integers(0, 200), st.integers(1, 255))
cut = st.tuples(st.just("cut"), requests, st.integers(0, 200))
silent = st.tuples(st.just("silence"))
asked = st.one_of(frames, damaged, cut, silent, st.tuples(st.just("noise"), st.binary(max_size=30)))
sizes = st.lists(st.integers(1, 64), min_size=1, max_size=5)


class Listener:
    """A line with us on it, in time; what it is to have said and written."""

    def __init__(self, framer, wrap, sizes):
        self.slave = image(hr=block([0] * 10))
        self.session = LineSession(framer, one_unit(self.slave), units=[US], character_time=CHARACTER)
        self.wrap, self.sizes = wrap, sizes
        self.now, self.said, self.right, self.image = 1.0, b"", b"", [0] * 10

    def hear(self, data):
        sizes = iter(self.sizes * len(data))
        while data:
            piece, data = data[: (size := next(sizes))], data[size:]
            self.now += len(piece) * CHARACTER
            self.said += self.session.receive(piece, self.now)

    def wait(self, seconds):
        self.now += seconds
        while (due := self.session.deadline()) is not None and due <= self.now:
            self.said += self.session.expire(due)

    def meet(self, what, request=b"", *how):
        match what:
            case "own":
                self.hear(self.wrap(request, US))
                self.answer(request)
            case "other":
                self.hear(self.wrap(request, OTHER))
            case "damaged":
                frame = bytearray(self.wrap(request, US))
                at, flip = how
                frame[at % len(frame)] ^= flip
                # Lower case is the same figure.
                if bytes(frame).upper() != self.wrap(request, US):
                    self.hear(bytes(frame))
            case "cut":
                frame = self.wrap(request, US)
                self.hear(frame[: how[0] % len(frame)])
            case "noise":
                self.hear(request)
            case "silence":
                self.wait(SILENCE)

    def answer(self, request):
        response = request
        if request[0] == 6:
            self.image[request[2]] = int.from_bytes(request[3:])
        else:
            response = b"\x03\x04" + b"".join(value.to_bytes(2) for value in self.image[:2])
        self.right += self.wrap(response, US)

    def check(self):
        assert (self.said, self.slave.getValues(3, 0, 10)) == (self.right, self.image)


@settings(max_examples=500)
@given(conversation=st.lists(asked, max_size=20), sizes=sizes)
def test_on_an_ascii_line(conversation, sizes):
    # A colon begins a frame, whatever stood before it (2.5.2).
    listener = Listener(ModbusAsciiFramer, wrap_ascii, sizes)
    for event in conversation:
        listener.meet(*event)
    listener.check()


@settings(max_examples=500)
@given(conversation=st.lists(asked, max_size=20), sizes=sizes)
def test_on_a_binary_line(conversation, sizes):
    listener = Listener(ModbusBinaryFramer, wrap_binary, sizes)
    for event in conversation:
        listener.meet(*event)
        if event[0] in ("damaged", "cut", "noise"):
            # Two braces are one of the contents.
            listener.wait(SILENCE)
    listener.check()


@pytest.mark.parametrize(("framer", "wrap"), [(ModbusAsciiFramer, wrap_ascii), (ModbusBinaryFramer, wrap_binary)])
def test_each_run_of_noise_between_silences_is_one_error(framer, wrap):
    listener = Listener(framer, wrap, [64])
    for _ in range(3):
        listener.hear(wrap(pdu("03 0000 0002"), US)[:-3])
        listener.wait(SILENCE)
    assert listener.session.line_counters()["crc_errors"] == 3
    assert listener.said == b""
