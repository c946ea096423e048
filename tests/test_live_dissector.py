"""tshark's Modbus dissector, an opinion of its own, reads what went over the wire: no answer is malformed, none is missed."""

import functools
import socket

import pytest
from live import clients, programs, raw
from live.device import HOST
from live.script import Course
from live.wire import Dissection, Piece, Tap, write_capture

pytestmark = pytest.mark.live

# Every function code, and after it what is refused with 01, 02, 03, 04 (unit 3) and 0B (unit 9): (unit, request).
REQUESTS = [
    (unit, bytes.fromhex(pdu))
    for unit, pdu in [
        (1, "01 0000 0013"),
        (1, "01 0000 07D0"),
        (1, "02 0005 0001"),
        (1, "03 0000 007D"),
        (1, "04 0000 007D"),
        (1, "05 0001 FF00"),
        (1, "05 0001 0000"),
        (1, "06 0001 BEEF"),
        (1, "07"),
        (1, "08 0000 A537"),
        (1, "08 0000 A537 0001 0002"),
        (1, "08 0001 FF00"),
        (1, "08 0001 0000"),
        (1, "08 0002 0000"),
        (1, "08 0003 0A00"),
        (1, "08 000A 0000"),
        (1, "08 000B 0000"),
        (1, "08 000C 0000"),
        (1, "08 000D 0000"),
        (1, "08 000E 0000"),
        (1, "08 000F 0000"),
        (1, "08 0010 0000"),
        (1, "08 0011 0000"),
        (1, "08 0012 0000"),
        (1, "08 0014 0000"),
        (1, "0B"),
        (1, "0C"),
        (1, "0F 0013 000A 02 CD01"),
        (1, "10 0001 0002 04 000A 0102"),
        (1, "11"),
        (1, "14 07 06 0004 0001 0002"),
        (1, "14 0E 06 0004 0001 0002 06 0004 0009 0002"),
        (1, "15 0D 06 0004 0007 0003 06AF 04BE 100D"),
        (1, "16 0004 00F2 0025"),
        (1, "17 0003 0006 000E 0003 06 00FF 00FF 00FF"),
        (1, "18 04DE"),
        (1, "2B 0E 01 00"),
        (1, "2B 0E 02 00"),
        (1, "2B 0E 03 80"),
        (1, "2B 0E 04 01"),
        (1, "64"),
        (1, "08 0005 0000"),
        (1, "2B 0D 00 00"),
        (1, "01 FFFF 0002"),
        (1, "03 00C7 0002"),
        (1, "18 0000"),
        (1, "2B 0E 04 7F"),
        (1, "03 0000 007E"),
        (1, "05 0001 1234"),
        (1, "10 0001 0002 03 000A 01"),
        (3, "03 0000 0001"),
        (9, "03 0000 0001"),
    ]
]
CODES = [pdu[0] for _, pdu in REQUESTS]
EXCEPTIONS = [1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 11]


@pytest.fixture(scope="module")
def tshark():
    return programs.need("tshark", "tshark")


@pytest.fixture
def dissect(tshark, tmp_path):
    def make(pieces, dissector):
        path = tmp_path / "run.pcap"
        write_capture(path, pieces, udp=dissector == "mbudp")
        return Dissection(tshark, path, dissector)

    return make


@pytest.fixture
def tap(request):
    def make(device):
        tap = Tap(device.address)
        request.addfinalizer(tap.close)
        return tap

    return make


def assert_clean(dissection, codes, exceptions):
    assert dissection.complaints() == []
    assert dissection.answers() == codes
    assert dissection.exceptions() == exceptions


def test_dissector_complains_about_an_answer_that_is_cut_off(dissect):
    """The net would catch something."""
    request, answer = raw.adu(bytes.fromhex("2B 0E 01 00")), raw.adu(bytes.fromhex("2B 0E 01 81 00 00 01 00 10 41"))
    assert dissect([Piece(0, False, request), Piece(0, True, answer)], "mbtcp").complaints()


@pytest.mark.parametrize("at_once", [1, 8, len(REQUESTS)])
def test_every_answer_over_tcp_is_well_formed(at_once, serve, tap, dissect):
    recorded = tap(serve("tcp"))
    adus = [raw.adu(pdu, unit, transaction) for transaction, (unit, pdu) in enumerate(REQUESTS)]
    with raw.Master((HOST, recorded.port)) as master:
        for start in range(0, len(adus), at_once):
            batch = adus[start : start + at_once]
            master.send(b"".join(batch))
            assert [master.receive()[0] for _ in batch] == list(range(start, start + len(batch)))
    dissection = dissect(recorded.pieces, "mbtcp")
    assert_clean(dissection, CODES, EXCEPTIONS)
    registers = dissection.show("modbus.func_code == 4 && tcp.srcport == 502", "modbus.regval_uint16")
    assert sum(len(values) for (values,) in registers) >= 125


def test_every_answer_over_rtu_over_tcp_is_well_formed(serve, tap, dissect):
    recorded = tap(serve("rtu-over-tcp", ignore_missing_slaves=False))
    requests = [(unit, pdu) for unit, pdu in REQUESTS if unit != 9]
    with raw.Master((HOST, recorded.port)) as master:
        for unit, pdu in requests:
            heard = len(b"".join(recorded.answers()))
            master.send(raw.rtu(pdu, unit))
            answer = b""
            while not answer or raw.crc16(answer[:-2]) != answer[-2:]:
                answer += master.socket.recv(256)
            assert len(b"".join(recorded.answers())) == heard + len(answer)
    # 08/00 with more than two bytes has a length that no dissector of RTU can know.
    assert_clean(dissect(recorded.pieces, "mbrtu"), [pdu[0] for _, pdu in requests], EXCEPTIONS[:-1])


def test_every_answer_over_udp_is_well_formed(serve, dissect):
    device = serve("udp")
    pieces = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as master:
        master.settimeout(raw.PATIENCE)
        master.connect(device.address)
        for transaction, (unit, pdu) in enumerate(REQUESTS):
            request = raw.adu(pdu, unit, transaction)
            master.send(request)
            pieces += [Piece(0, False, request), Piece(0, True, master.recv(300))]
    assert_clean(dissect(pieces, "mbudp"), CODES, EXCEPTIONS)


def test_what_foreign_clients_hear_is_well_formed(serve, tap, dissect, libmodbus_program, pymodbus2_python):
    recorded = tap(serve("tcp"))
    recorded.transport, recorded.path, recorded.certificates = serve("tcp").transport, None, None
    makers = [
        functools.partial(clients.libmodbus, libmodbus_program),
        functools.partial(clients.pymodbus2, pymodbus2_python),
        clients.Pymodbus3,
    ]
    messages = refusals = 0
    for make in makers:
        client = make(recorded)
        course = Course(client)
        for step in course.steps:
            course.ask(step.operation, *step.numbers)
        client.close()
        messages += course.messages
        refusals += course.refusals
    dissection = dissect(recorded.pieces, "mbtcp")
    assert dissection.complaints() == []
    assert len(dissection.answers()) == messages
    assert dissection.exceptions() == [2] * refusals
