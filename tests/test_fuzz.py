"""Any bytes into any framer, any PDU into a session, any valid requests against a plain Python model of the image."""

import pytest
from adu import LINES, block, every_line, image, master, one_unit, pdu, resident, units, wrap_ascii, wrap_binary, wrap_rtu, wrap_socket
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mbcore import ModbusControlBlock, ModbusDeviceIdentification
from mbcore.codec import decode_response, encode_request
from mbcore.errors import FramingError
from mbcore.framer import build_request, parse_response

LIMITS = {"socket": (8, 260), "rtu": (4, 256), "ascii": (9, 513), "binary": (6, 513), "tls": (1, 253)}  # shortest request, longest reply
GOOD = pdu("03 0000 0001")
CODES = [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 15, 16, 17, 20, 21, 22, 23, 24, 43]
NOT_OURS = bytes.maketrans(b"\0\1:{", b"\2\3;|")  # noise that is no frame by chance: our units and the starts of frames are left out
many = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])

word = st.integers(0, 0xFFFF)
pdus = st.one_of(
    st.binary(min_size=1, max_size=253),
    st.builds(lambda code, rest: bytes([code]) + rest, st.sampled_from(CODES), st.binary(max_size=252)),
    st.builds(lambda code, address, quantity, rest: bytes([code]) + (address & 0xFFFF).to_bytes(2) + quantity.to_bytes(2) + rest,
              st.sampled_from([1, 2, 3, 4, 5, 6, 15, 16, 22, 23]), st.integers(-3, 12), st.integers(0, 12),
              st.one_of(st.just(b""), st.binary(max_size=30), st.binary(max_size=200).map(lambda data: bytes([len(data)]) + data))),
)
pieces = st.one_of(
    st.binary(max_size=40),
    st.builds(wrap_socket, pdus, st.integers(0, 3), word), st.builds(wrap_rtu, pdus, st.integers(0, 3)),
    st.builds(wrap_ascii, pdus, st.integers(0, 3)), st.builds(wrap_binary, pdus, st.integers(0, 3)), pdus,
    st.sampled_from([b":", b"{", b"}", b"\r\n", b"\0\1\0\0", b"\0\1\0\0\xff\xff\1", b":0103", b"\1\x10\0\0\0\x7b\xf6", b"\5\x03\xfa"]),
)
streams = st.lists(pieces, max_size=8).map(b"".join)


def unit():
    return image(hr=block(list(range(10))), co=block([True] * 10), di=block([False] * 10), ir=block(list(range(10))), files={1: [1, 2, 3]},
                 fifos={1: [5] * 31})


def fed(session, stream, cuts, now=100.0):
    """What the session says to `stream` cut at `cuts`; a few milliseconds pass between the pieces."""
    out, last = [], 0
    for cut in [*sorted({cut % (len(stream) + 1) for cut in cuts}), len(stream)]:
        now += 0.003
        due = session.deadline()
        if due is not None and due <= now:
            out.append(session.expire(now))
        out.append(session.receive(stream[last:cut], now))
        last = cut
    return b"".join(out)


@every_line
@many
@given(stream=streams, cuts=st.lists(st.integers(0, 2000), max_size=6))
@example(stream=b"\0\1\0\0\0\0\1", cuts=[])
@example(stream=b":" * 600, cuts=[513])
@example(stream=b"{" * 600 + b"}" * 600, cuts=[600])
@example(stream=b"\1\x17" + b"\xff" * 300, cuts=[])
@example(stream=wrap_rtu(pdu("14 03 060000")), cuts=[])
@example(stream=wrap_rtu(pdu("15 03 060000")), cuts=[])
@example(stream=wrap_rtu(pdu("10 0000 0002 02 0000")), cuts=[])
def test_any_bytes_are_survived_and_a_good_request_is_answered_afterwards(line, stream, cuts):
    control, store = ModbusControlBlock(), one_unit(unit()) if line == "tls" else units(u1=unit(), u2=unit())
    it = master(line, store, control)
    shortest, longest = LIMITS[line.partition("-")[0]]
    out = fed(it.session, stream, cuts)
    it.now = 1000.0
    out += it.silence()
    assert len(out) <= (len(stream) // shortest + 1) * longest
    control.ListenOnly = False  # the stream may have asked for it, and for another delimiter
    control.Delimiter = ModbusControlBlock().Delimiter
    if line in ("socket", "tls"):
        it = master(line, store, control)  # a new connection: nothing else ends a half frame
    assert it.session.deadline() is None
    (answer,) = it.line.unwrap(it.send(it.line.wrap(GOOD)))
    assert answer.pdu[:2] == pdu("03 02")


@pytest.mark.parametrize("line", ["socket", "rtu", "ascii", "binary", "tls"])
@many
@given(requests=st.lists(st.tuples(st.sampled_from(["03 0000 0002", "06 0001 7B7D", "16 0001 F0F0 7D7D", "10 0002 0002 04 7B7B 0001",
                                                    "01 0000 000A", "0B", "07",
                                                    "17 0000 0003 0001 0001 02 7D00", "18 0001", "14 07 06 0001 0000 0003", "2B 0E 01 00",
                                                    "03 0000 000B",
                                                    "0F 0001 0009 02 FFFF"]), st.integers(1, 3), word), max_size=8),
       cuts=st.lists(st.integers(0, 2000), max_size=8))
def test_any_split_of_good_frames_is_answered_as_the_whole(line, requests, cuts):
    wrap = LINES[line].wrap
    stream = b"".join(wrap(pdu(request), unit_id, transaction) for request, unit_id, transaction in requests)
    answers = []
    for cut_at in (cuts, [], range(len(stream))):
        store = units(u1=unit(), u2=unit(), u3=unit()) if line != "tls" else one_unit(unit())
        answers.append(fed(master(line, store).session, stream, cut_at))
    assert answers[0] == answers[1] == answers[2]
    assert len(LINES[line].unwrap(answers[0])) == len(requests)


@pytest.mark.parametrize("line", ["socket", "ascii", "binary"])
@many
@given(stream=streams, cuts=st.lists(st.integers(0, 2000), max_size=8))
def test_any_split_of_any_stream_is_answered_as_the_whole(line, stream, cuts):
    whole, cut = master(line, units(u1=unit(), u2=unit())), master(line, units(u1=unit(), u2=unit()))
    bytewise = master(line, units(u1=unit(), u2=unit()))
    said = whole.session.receive(stream, 1.0)
    assert fed(cut.session, stream, cuts) == said
    assert b"".join(bytewise.session.receive(stream[n : n + 1], 1.0) for n in range(len(stream))) == said
    assert cut.session.closing == bytewise.session.closing == whole.session.closing


@pytest.mark.parametrize("line", ["rtu-serial", "ascii-serial", "binary", "rtu", "ascii"])
@many
@given(stream=st.binary(max_size=600))
def test_noise_is_not_answered(line, stream):
    it = master(line, units(u1=unit()), ignore_missing_slaves=True)  # a valid frame for an absent unit may be in it by chance
    stream = stream.translate(NOT_OURS)
    assert it.send(stream, piece=50) == b""
    assert it.ask(GOOD) == pdu("03 02 0000")


@many
@given(request_=pdus)
def test_any_pdu_gets_a_well_formed_response(request_):
    control = ModbusControlBlock(ModbusDeviceIdentification(info={0: "a", 1: "b", 2: "c", 3: "d", 0x80: "e" * 200, 0x81: "f" * 200}))
    answer = master("socket", unit(), control).ask(request_)
    if control.ListenOnly:
        assert answer is None
        return
    if answer is None:
        assert request_[0] == 0 or request_[0] & 0x80, "only what is no request may be ignored"
        return
    assert answer[0] & 0x7F == request_[0] & 0x7F
    try:
        fields = decode_response(answer)
    except FramingError:
        pytest.fail(f"{request_.hex()} -> {answer.hex()}")
    assert fields.get("exception_code") in ((1, 2, 3) if answer[0] & 0x80 else (None,))


@many
@given(request_=pdus, unit_id=st.integers(0, 255))
def test_any_datagram_is_answered_once_or_not_at_all(request_, unit_id):
    for name in ("socket", "rtu", "ascii", "binary"):
        line = LINES[name]
        out = line.session(one_unit(unit())).datagram(line.wrap(request_, unit_id, 77))
        assert len(line.unwrap(out)) <= 1


@many
@given(data=st.binary(max_size=600))
def test_any_bytes_as_a_datagram_are_survived(data):
    for line in LINES.values():
        assert len(line.session(one_unit(unit())).datagram(data)) <= 513


@pytest.mark.parametrize("line", ["socket", "rtu", "ascii", "binary", "tls"])
@many
@given(data=st.one_of(streams, st.binary(max_size=600)))
def test_a_client_survives_any_bytes(line, data):
    try:
        parsed = parse_response(LINES[line].framer, data)
    except FramingError:
        return
    if parsed is not None:
        _, _, found, consumed = parsed
        assert 1 <= len(found) <= 253
        assert len(found) <= consumed <= len(data)


@pytest.mark.parametrize("line", ["socket", "rtu", "ascii", "binary"])
@many
@given(request_=pdus, unit_id=st.integers(0, 255), transaction=word)
def test_a_client_frames_any_request_as_specified(line, request_, unit_id, transaction):
    assert build_request(LINES[line].framer, request_, unit_id, transaction) == LINES[line].wrap(request_, unit_id, transaction)


# A model of the image

addresses, sizes = st.integers(0, 11), st.integers(1, 6)
operations = st.one_of(
    st.tuples(st.sampled_from([1, 2, 3, 4]), st.fixed_dictionaries({"address": addresses, "quantity": sizes})),
    st.tuples(st.just(5), st.fixed_dictionaries({"address": addresses, "value": st.booleans()})),
    st.tuples(st.just(6), st.fixed_dictionaries({"address": addresses, "value": word})),
    st.tuples(st.just(15), st.fixed_dictionaries({"address": addresses, "bits": st.lists(st.booleans(), min_size=1, max_size=11)})),
    st.tuples(st.just(16), st.fixed_dictionaries({"address": addresses, "registers": st.lists(word, min_size=1, max_size=11)})),
    st.tuples(st.just(22), st.fixed_dictionaries({"address": addresses, "and_mask": word, "or_mask": word})),
    st.tuples(st.just(23), st.fixed_dictionaries({"address": addresses, "quantity": sizes, "write_address": addresses,
                                                  "registers": st.lists(word, min_size=1, max_size=6)})),
    st.tuples(st.just(20), st.fixed_dictionaries({"groups": st.lists(st.tuples(st.integers(1, 2), addresses, sizes), min_size=1,
                                                                     max_size=3)})),
    st.tuples(st.just(21), st.fixed_dictionaries({"groups": st.lists(st.tuples(st.integers(1, 2), addresses,
                                                                               st.lists(word, min_size=1, max_size=4)),
                                                                     min_size=1, max_size=3)})),
)
SIZE = 10


class Model:
    """What the image should hold, and what a request should give."""

    def __init__(self):
        self.bits = {1: [False] * SIZE, 2: [True] * SIZE}
        self.registers = {3: list(range(SIZE)), 4: list(range(100, 100 + SIZE))}
        self.file = list(range(SIZE))

    def request(self, code, fields):
        """The exception code, or the fields of the response that tell something."""
        try:
            return getattr(self, f"function_{code}", None)(**fields) if code > 4 else self.read(code, **fields)
        except LookupError:
            return 2

    @staticmethod
    def range(table, address, quantity):
        if address + quantity > len(table):
            raise LookupError(address)
        return slice(address, address + quantity)

    def read(self, code, address, quantity):
        if code in self.bits:
            bits = self.bits[code][self.range(self.bits[code], address, quantity)]
            return {"bits": bits + [False] * (-quantity % 8)}
        return {"registers": self.registers[code][self.range(self.registers[code], address, quantity)]}

    def function_5(self, address, value):
        return self.function_15(address, [value])

    def function_6(self, address, value):
        return self.function_16(address, [value])

    def function_15(self, address, bits):
        self.bits[1][self.range(self.bits[1], address, len(bits))] = bits
        return {"address": address}

    def function_16(self, address, registers):
        self.registers[3][self.range(self.registers[3], address, len(registers))] = registers
        return {"address": address}

    def function_22(self, address, and_mask, or_mask):
        self.range(self.registers[3], address, 1)
        current = self.registers[3][address]
        return self.function_6(address, current & and_mask | or_mask & ~and_mask & 0xFFFF)

    def function_23(self, address, quantity, write_address, registers):
        self.range(self.registers[3], address, quantity)
        self.function_16(write_address, registers)
        return self.read(3, address, quantity)

    def function_20(self, groups):
        if any(file != 1 for file, _, _ in groups):
            raise LookupError
        return {"groups": [self.file[self.range(self.file, record, length)] for _, record, length in groups]}

    def function_21(self, groups):
        if any(file != 1 for file, _, _ in groups):
            raise LookupError
        ranges = [self.range(self.file, record, len(values)) for _, record, values in groups]
        for where, (_, _, values) in zip(ranges, groups, strict=True):
            self.file[where] = values
        return {}


@every_line
@settings(max_examples=100, deadline=None)
@given(requests=st.lists(operations, max_size=20))
def test_requests_do_to_the_image_what_they_do_to_a_model(line, requests):
    model = Model()
    slave = image(co=block(model.bits[1]), di=block(model.bits[2]), hr=block(model.registers[3]), ir=block(model.registers[4]),
                  files={1: model.file})
    it = master(line, slave)
    for code, fields in requests:
        expected = model.request(code, fields)
        response = decode_response(it.ask(encode_request(code, **fields)))
        if isinstance(expected, int):
            assert response["exception_code"] == expected
        else:
            assert "exception_code" not in response
            assert all(response[name] == value for name, value in expected.items())
        assert slave.getValues(1, 0, SIZE) == model.bits[1]
        assert slave.getValues(2, 0, SIZE) == model.bits[2]
        assert slave.getValues(3, 0, SIZE) == model.registers[3]
        assert slave.getValues(4, 0, SIZE) == model.registers[4]
        assert list(slave.files[1]) == model.file


# Memory

NOISE = {
    "socket": [wrap_socket(GOOD), wrap_socket(GOOD, 9), b"\0\1\0\5\0\x40" + bytes(64)],
    "rtu": [b"\0", b"\x01\x10\x00\x00\x00\x7b\xf6", wrap_rtu(GOOD, 9), b"\x01\x55"],
    "ascii": [b"0", b":", b":01", wrap_ascii(GOOD, 9), wrap_ascii(GOOD)[:-2]],
    "binary": [b"0", b"{", b"{\x01\x03", b"}", wrap_binary(GOOD, 9)],
    "tls": [GOOD, b"\x55", b"\x10\x00\x00\x00\x7b\xf7"],
}


@pytest.mark.parametrize(("line", "noise"), [(line, noise) for line in LINES for noise in NOISE[line.partition("-")[0]]])
def test_no_stream_makes_a_session_grow(line, noise):
    session = master(line, units(u1=unit()), ignore_missing_slaves=True).session
    chunk = (noise * (4096 // len(noise) + 1))[:4096 // len(noise) * len(noise)]
    before = resident()
    for n in range(500):  # 2 MB, without any silence
        session.receive(chunk, n * 0.0001)
    assert resident() - before < 1000, "kilobytes"
