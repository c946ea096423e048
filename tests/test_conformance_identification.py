"""AP 6.13, 6.21: report server id and device identification, over every framer (the fixture `connect`)."""

import pytest
from adu import block, image, pdu, refused
from carried import malformed

from mbcore import ModbusControlBlock, ModbusDeviceIdentification

BASIC = {0: "Company identification", 1: "Product code XX", 2: "V2.11"}
REGULAR = BASIC | {3: "http://example.com", 4: "Product", 5: "Model", 6: "Application"}
EXTENDED = REGULAR | {0x80: "first of ours", 0xFF: "last of ours"}


def unit():
    return image(hr=block([0]))


def identified(info) -> ModbusControlBlock:
    return ModbusControlBlock(ModbusDeviceIdentification(info=info))


def objects_of(answer: bytes) -> tuple[bytes, dict[int, bytes]]:
    """The head (2B 0E code conformity more next) and the objects of a response; every length must add up (AP 6.21)."""
    objects, at = {}, 7
    for _ in range(answer[6]):
        number, size = answer[at : at + 2]
        assert number not in objects
        objects[number] = answer[at + 2 : at + 2 + size]
        assert len(objects[number]) == size
        at += 2 + size
    assert at == len(answer) <= 253
    assert sorted(objects) == list(objects), "objects come in the order of their ids"
    return answer[:6], objects


def encoded(info) -> dict[int, bytes]:
    return {number: text.encode() for number, text in info.items()}


def read_all(master, code: int, first: int = 0) -> dict[int, bytes]:
    """All transactions of a stream access: next object ids are followed until nothing follows."""
    found, number = {}, first
    for _ in range(300):
        head, objects = objects_of(master.ask(bytes([0x2B, 0x0E, code, number])))
        assert objects, "an answer without objects leads nowhere"
        assert not found.keys() & objects.keys()
        found |= objects
        if head[4] == 0:
            assert head[5] == 0, "next object id is 00 when nothing follows"
            return found
        assert head[4] == 0xFF
        assert head[5] > max(objects)
        number = head[5]
    raise AssertionError("the stream does not end")


# 43/14

def test_read_device_identification_example(connect):
    # AP 6.21: function, MEI type, basic (01), object id 00
    #       -> function, MEI type, 01, conformity, more follows 00, next object 00, 3 objects (id, length, text)
    expected = (pdu("2B 0E 01 81 00 00 03") + pdu("00 16") + b"Company identification" + pdu("01 0F") + b"Product code XX"
                + pdu("02 05") + b"V2.11")
    assert connect(unit(), identified(BASIC)).ask(pdu("2B 0E 01 00")) == expected


@pytest.mark.parametrize(("info", "conformity"), [(BASIC, 0x81), (REGULAR, 0x82), (EXTENDED, 0x83)])
@pytest.mark.parametrize("code", [1, 2, 3, 4])
def test_conformity_level_tells_what_the_device_has_with_individual_access(connect, info, conformity, code):
    head, _ = objects_of(connect(unit(), identified(info)).ask(bytes([0x2B, 0x0E, code, 0])))
    assert head[:4] == bytes([0x2B, 0x0E, code, conformity])


@pytest.mark.parametrize(("code", "info"), [(1, BASIC), (2, REGULAR), (3, EXTENDED)])
def test_stream_access_reads_its_category(connect, code, info):
    head, objects = objects_of(connect(unit(), identified(EXTENDED)).ask(bytes([0x2B, 0x0E, code, 0])))
    assert objects == encoded(info)
    assert head[4:6] == b"\0\0"


@pytest.mark.parametrize("code", [2, 3])
def test_stream_access_above_the_conformity_level_reads_what_there_is(connect, code):
    # AP 6.21: asked for a level above its conformity, the device answers in accordance with its actual level
    _, objects = objects_of(connect(unit(), identified(BASIC)).ask(bytes([0x2B, 0x0E, code, 0])))
    assert objects == encoded(BASIC)


@pytest.mark.parametrize(("code", "first", "ids"), [(1, 1, [1, 2]), (1, 2, [2]), (2, 3, [3, 4, 5, 6]), (3, 6, [6, 0x80, 0xFF]),
                                                    (3, 0xFF, [0xFF])])
def test_stream_access_starts_at_the_object(connect, code, first, ids):
    _, objects = objects_of(connect(unit(), identified(EXTENDED)).ask(bytes([0x2B, 0x0E, code, first])))
    assert list(objects) == ids


@pytest.mark.parametrize(("code", "first"), [(1, 0x50), (2, 0x07), (2, 0x7F), (3, 0x07), (3, 0x81), (3, 0xFE)])
def test_stream_access_to_an_unknown_object_starts_at_the_first(connect, code, first):
    master = connect(unit(), identified(EXTENDED))
    assert master.ask(bytes([0x2B, 0x0E, code, first])) == master.ask(bytes([0x2B, 0x0E, code, 0]))


def test_individual_access_reads_one_object(connect):
    master = connect(unit(), identified(EXTENDED))
    for number, text in encoded(EXTENDED).items():
        assert master.ask(bytes([0x2B, 0x0E, 4, number])) == pdu("2B 0E 04 83 00 00 01") + bytes([number, len(text)]) + text


def test_individual_access_to_an_unknown_object_is_illegal_data_address(connect):
    master = connect(unit(), identified(EXTENDED))
    for number in (0x07, 0x7F, 0x81, 0xFE):
        assert master.ask(bytes([0x2B, 0x0E, 4, number])) == refused(43, 2)


def test_read_code_out_of_1_to_4_is_illegal_data_value(connect):
    master = connect(unit(), identified(EXTENDED))
    for code in (0, 5, 6, 0x7F, 0x80, 0xFF):
        assert master.ask(bytes([0x2B, 0x0E, code, 0])) == refused(43, 3)


def test_read_code_is_checked_before_the_object(connect):
    assert connect(unit(), identified(BASIC)).ask(pdu("2B 0E 05 99")) == refused(43, 3)


@malformed(bytes([0x2B, mei_type]) + pdu(rest) for mei_type in (0x0D, 0x00, 0x0F, 0xFF) for rest in ("0000", "0100"))
def test_mei_type_other_than_0E_is_illegal_function(connect, request_):
    master = connect(unit(), identified(BASIC))
    assert master.ask_malformed(request_) == refused(43, 1)


@malformed(b"\x2b" + pdu(rest) for rest in ("", "0E", "0E 01", "0E 01 00 00"))
def test_identification_pdu_of_a_wrong_length_is_illegal_data_value(connect, request_):
    master = connect(unit(), identified(BASIC))
    assert master.ask_malformed(request_) == refused(43, 3)


@pytest.mark.parametrize("size", [1, 20, 80, 119, 120, 121, 122, 200, 240, 244])
def test_objects_that_do_not_fit_follow_in_further_transactions(connect, size):
    info = BASIC | {0x80 + n: chr(ord("a") + n) * size for n in range(20)}
    assert read_all(connect(unit(), identified(info)), 3) == encoded(info)


def test_all_objects_of_a_full_device_are_streamed(connect):
    info = REGULAR | {n: f"object {n:02X}" for n in range(0x80, 0x100)}
    master = connect(unit(), identified(info))
    assert read_all(master, 3) == encoded(info)
    assert read_all(master, 3, 0x90) == {number: text for number, text in encoded(info).items() if number >= 0x90}
    assert read_all(master, 2) == encoded(REGULAR)
    assert read_all(master, 1) == encoded(BASIC)


def test_objects_fill_the_pdu_exactly_before_more_follows(connect):
    # 7 bytes of head, 3 basic objects of 2 + 2 bytes, one of 2 + 232: 253
    info = {0: "aa", 1: "bb", 2: "cc", 0x80: "x" * 232}
    answer = connect(unit(), identified(info)).ask(pdu("2B 0E 03 00"))
    assert len(answer) == 253
    assert answer[4:7] == pdu("00 00 04")
    info[0x80] += "x"
    answer = connect(unit(), identified(info)).ask(pdu("2B 0E 03 00"))
    assert answer[4:7] == pdu("FF 80 03")


def test_identification_that_the_application_changes_is_read_at_once(connect):
    control = identified(BASIC)
    master = connect(unit(), control)
    control.Identity.VendorName = "ACME"
    control.Identity[0x80] = "ours"
    assert read_all(master, 3) == encoded(BASIC | {0: "ACME", 0x80: "ours"})


# 17

def test_report_server_id_has_a_run_indicator_and_a_byte_count(connect):
    answer = connect(unit(), identified(BASIC)).ask(b"\x11")
    assert answer[0] == 0x11
    assert answer[1] == len(answer) - 2 >= 2  # AP 6.13: server id, run indicator 00 or FF, additional data
    assert 0xFF in answer[2:]


@pytest.mark.parametrize("vendor", [240, 243, 244])
def test_report_server_id_has_its_run_indicator_however_long_the_names_are(connect, vendor):
    for product in range(6):
        for revision in range(6):
            names = "V" * vendor, "P" * product, "R" * revision
            answer = connect(unit(), identified(dict(enumerate(names)))).ask(b"\x11")
            assert answer[2:] == "-".join(names).encode()[:250] + b"\xff"
            assert answer[1] == len(answer) - 2


@malformed(b"\x11" + pdu(rest) for rest in ("00", "0000", "FFFF FFFF"))
def test_report_server_id_with_data_is_illegal_data_value(connect, request_):
    master = connect(unit(), identified(BASIC))
    assert master.ask_malformed(request_) == refused(17, 3)
