"""Custom function codes: a user's request class answers, over every framer."""

import struct

import pytest
from adu import LINES, block, image, one_unit, pdu, refused

from mbcore import ModbusControlBlock, ModbusServerContext
from mbcore.errors import RequestError
from mbcore.messages import ModbusRequest, ModbusResponse, ServerDecoder
from mbcore.session import Session


def decoder_of(*classes):
    decoder = ServerDecoder()
    for cls in classes:
        decoder.register(cls)
    return decoder


class SumResponse(ModbusResponse):
    function_code = 0x37

    def __init__(self, total, **kwargs):
        super().__init__(**kwargs)
        self.total = total

    def encode(self):
        return struct.pack(">BH", 2, self.total)


class SumRequest(ModbusRequest):
    """The sum of `count` holding registers from `address`."""

    function_code = 0x37
    _rtu_frame_size = 8

    def decode(self, data):
        self.address, self.count = struct.unpack(">HH", data)

    def execute(self, context):
        if self.count == 0x10:
            return None
        if self.count == 0x11:
            raise RequestError(6)
        if self.count == 0x12:
            raise ValueError("a slip in the user's code")
        return SumResponse(sum(context.getValues(3, self.address, self.count)))


class CountedRequest(SumRequest):
    """The same with a byte count: unit, function, count, data, CRC."""

    _rtu_frame_size = None
    _rtu_byte_count_pos = 2

    def decode(self, data):
        super().decode(data[1:])


@pytest.fixture
def slave():
    return image(hr=block(range(32)))


def ask(line, store, request, cls=SumRequest, bytewise=False, **options):
    session = LINES[line].session(store, decoder=decoder_of(cls), **options)
    frame = LINES[line].wrap(request, 1, 7)
    step = 1 if bytewise else len(frame)
    out = b"".join(session.receive(frame[i : i + step], 0.0) for i in range(0, len(frame), step))
    replies = LINES[line].unwrap(out) if out else []
    return [reply.pdu for reply in replies]


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("line", ["socket", "ascii"])
def test_a_custom_request_is_answered_by_its_class(line, bytewise, slave):
    assert ask(line, one_unit(slave), pdu("37 0002 0003"), bytewise=bytewise) == [pdu("37 02 0009")]


@pytest.mark.parametrize(
    ("cls", "request_pdu"), [(SumRequest, "37 0002 0003"), (CountedRequest, "37 04 0002 0003")], ids=["fixed", "counted"]
)
@pytest.mark.parametrize("line", ["rtu", "rtu-serial", "tls"])
def test_where_no_length_stands_in_the_frame_the_class_declares_it(line, cls, request_pdu, slave):
    session = LINES[line].session(one_unit(slave), decoder=decoder_of(cls))
    frame = LINES[line].wrap(pdu(request_pdu), 1, 0)
    assert all(session.receive(frame[i : i + 1], 0.0) == b"" for i in range(len(frame) - 1))
    reply = session.receive(frame[-1:], 0.0)
    assert reply == LINES[line].wrap(pdu("37 02 0009"), 1, 0)
    assert session.deadline() is None


def test_a_frame_may_be_as_long_as_rtu_allows(slave):
    class Long(SumRequest):
        _rtu_frame_size = 256

        def decode(self, data):
            super().decode(data[:4])

    session = LINES["rtu"].session(one_unit(slave), decoder=decoder_of(Long))
    frame = LINES["rtu"].wrap(pdu("37 0002 0003") + bytes(248), 1, 0)
    assert len(frame) == 256
    assert session.receive(frame[:-1], 0.0) == b""
    assert session.receive(frame[-1:], 0.0) == LINES["rtu"].wrap(pdu("37 02 0009"), 1, 0)


def test_none_is_silence(slave):
    assert ask("socket", one_unit(slave), pdu("37 0000 0010")) == []


def test_a_request_error_is_its_own_exception_code(slave):
    assert ask("socket", one_unit(slave), pdu("37 0000 0011")) == [refused(0x37, 6)]


def test_bytes_that_the_class_cannot_decode_are_exception_3(slave):
    assert ask("socket", one_unit(slave), pdu("37 00")) == [refused(0x37, 3)]


def test_what_execute_raises_is_exception_4_and_reported(slave):
    reports = []
    answers = ask("socket", one_unit(slave), pdu("37 0000 0012"), report=lambda sentence, error: reports.append((sentence, error)))
    assert answers == [refused(0x37, 4)]
    assert len(reports) == 1
    assert "SumRequest" in reports[0][0]


def test_a_class_may_answer_a_public_function_code(slave):
    class Fixed(SumRequest):
        function_code = 3

        def decode(self, data):
            self.address, self.count = 1, 2

    session = LINES["socket"].session(one_unit(slave), decoder=decoder_of(Fixed))
    out = session.receive(LINES["socket"].wrap(pdu("03 0000 0001"), 1, 7), 0.0)
    assert out[7:] == pdu("37 02 0003")


def test_a_broadcast_reaches_every_unit_and_is_not_answered(slave):
    seen = []

    class Seen(SumRequest):
        def execute(self, context):
            seen.append(context)
            return SumResponse(0)

    other = image(hr=block([0]))
    store = ModbusServerContext({1: slave, 2: other}, single=False)
    session = LINES["rtu-serial"].session(store, decoder=decoder_of(Seen))
    assert session.receive(LINES["rtu-serial"].wrap(pdu("37 0000 0001"), 0, 0), 0.0) == b""
    assert seen == [slave, other]


@pytest.mark.parametrize("line", ["rtu-serial", "rtu"])
def test_a_broadcast_that_reaches_nobody_is_not_answered(line):
    store = ModbusServerContext({}, single=False)
    session = LINES[line].session(store, decoder=decoder_of(SumRequest), broadcast_enable=True)
    assert session.receive(LINES[line].wrap(pdu("37 0000 0001"), 0, 0), 0.0) == b""


def test_a_custom_request_counts_like_any_other(slave):
    control = ModbusControlBlock()
    session = LINES["socket"].session(one_unit(slave), control, decoder=decoder_of(SumRequest))
    for count in ("0001", "0011"):
        session.receive(LINES["socket"].wrap(pdu("37 0000" + count), 1, 0), 0.0)
    counter = control.Counter
    assert (counter.SlaveMessage, counter.Event, counter.BusExceptionError, counter.SlaveBusy) == (2, 1, 1, 1)


def test_listen_only_holds_for_custom_requests_too(slave):
    control = ModbusControlBlock()
    control.ListenOnly = True
    session = LINES["socket"].session(one_unit(slave), control, decoder=decoder_of(SumRequest))
    assert session.receive(LINES["socket"].wrap(pdu("37 0000 0001"), 1, 0), 0.0) == b""


def test_a_sub_function_of_ones_own_leaves_the_others_alone(slave):
    class Own(ModbusRequest):
        function_code = 8
        sub_function_code = 0x40
        _rtu_frame_size = 8

        def decode(self, data):
            self.data = data

        def execute(self, context):
            return self.doException(6)

    session = LINES["socket"].session(one_unit(slave), decoder=decoder_of(Own))

    def asked(text):
        return session.receive(LINES["socket"].wrap(pdu(text), 1, 7), 0.0)[7:]

    assert asked("08 0040 0000") == refused(8, 6)
    assert asked("08 0000 1234") == pdu("08 0000 1234")
    assert asked("08 0041 0000") == refused(8, 1)


def test_without_the_class_the_function_is_unknown(slave):
    session = Session(LINES["socket"].framer, one_unit(slave))
    assert session.receive(LINES["socket"].wrap(pdu("37 0000 0001"), 1, 0), 0.0)[7:] == refused(0x37, 1)
