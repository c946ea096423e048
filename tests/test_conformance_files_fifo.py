"""AP 6.14, 6.15, 6.18: file records and FIFO queues, over every framer (the fixture `connect`)."""

import pytest
from adu import block, image, pdu, refused, words
from carried import malformed, miscounted

RECORDS = [n * 259 & 0xFFFF for n in range(300)]


def unit(files=None, fifos=None):
    return image(hr=block([0]), files=files or {}, fifos=fifos or {})


def read_groups(*groups, count=None) -> bytes:
    """20: groups of (file, record, length)."""
    body = b"".join(b"\x06" + words(*group) for group in groups)
    return bytes([20, len(body) if count is None else count]) + body


def write_groups(*groups) -> bytes:
    """21: groups of (file, record, values)."""
    body = b"".join(b"\x06" + words(file, record, len(values), *values) for file, record, values in groups)
    return bytes([21, len(body)]) + body


def records(slave, file, first, length):
    return [slave.files[file][record] for record in range(first, first + length)]


# The specification's examples

def test_read_file_record_example(connect):
    slave = unit({4: [0, 0x0DFE, 0x0020], 3: [0] * 9 + [0x33CD, 0x0040]})
    # AP 6.14: function, byte count, (type 06, file 4, record 1, length 2), (type 06, file 3, record 9, length 2)
    #       -> function, length, (length 5, type 06, 0DFE 0020), (length 5, type 06, 33CD 0040)
    assert connect(slave).ask(pdu("14 0E 06 0004 0001 0002 06 0003 0009 0002")) == pdu("14 0C 05 06 0DFE 0020 05 06 33CD 0040")


def test_write_file_record_example(connect):
    slave = unit({4: [0] * 12})
    # AP 6.15: function, length, type 06, file 4, record 7, length 3, 06AF 04BE 100D; the answer is an echo
    request = pdu("15 0D 06 0004 0007 0003 06AF 04BE 100D")
    assert connect(slave).ask(request) == request
    assert records(slave, 4, 0, 12) == [0] * 7 + [0x06AF, 0x04BE, 0x100D, 0, 0]


def test_read_fifo_queue_example(connect):
    slave = unit(fifos={0x04DE: [0x01B8, 0x1284]})
    # AP 6.18: function, pointer address -> function, byte count (2 bytes), FIFO count, values
    assert connect(slave).ask(pdu("18 04DE")) == pdu("18 0006 0002 01B8 1284")


# 20: reading file records

@pytest.mark.parametrize(("record", "length"), [(0, 1), (0, 121), (1, 1), (299, 1), (200, 100), (179, 121)])
def test_records_are_read(connect, record, length):
    slave = unit({1: RECORDS})
    expected = bytes([20, 2 + 2 * length, 1 + 2 * length, 6]) + words(*RECORDS[record : record + length])
    assert connect(slave).ask(read_groups((1, record, length))) == expected


def test_35_groups_are_read_in_order(connect):
    slave = unit({1: RECORDS, 0xFFFF: RECORDS[::-1]})
    groups = [((1, 0xFFFF)[n % 2], n, 1) for n in range(35)]
    answers = b"".join(b"\x03\x06" + words((RECORDS, RECORDS[::-1])[n % 2][n]) for n in range(35))
    assert connect(slave).ask(read_groups(*groups)) == bytes([20, 140]) + answers


def test_read_byte_count_that_is_not_a_multiple_of_7_up_to_F5_is_illegal_data_value(connect):
    master = connect(unit({1: RECORDS}))
    for size in (0, 1, 6, 8, 13, 15, 20, 244, 246, 247, 251):
        assert master.ask(bytes([20, size]) + (pdu("06 0001 0000 0001") * 36)[:size]) == refused(20, 3)


@miscounted
@pytest.mark.parametrize(("count", "groups"), [(7, 2), (14, 1), (7, 0), (245, 1), (252, 1), (255, 35)])
def test_read_byte_count_that_is_not_the_rest_of_the_pdu_is_illegal_data_value(connect, count, groups):
    master = connect(unit({1: RECORDS}))
    assert master.ask_miscounted(read_groups(*[(1, 0, 1)] * groups, count=count)) == refused(20, 3)


@pytest.mark.parametrize("groups", [[(1, 0, 125)], [(1, 0, 300)], [(1, 0, 61), (1, 0, 63)], [(1, 0, 7)] * 16, [(1, 0, 121), (1, 0, 121)]])
def test_a_file_response_beyond_253_bytes_is_illegal_data_value(connect, groups):
    assert 2 + sum(2 + 2 * length for _, _, length in groups) > 253
    assert connect(unit({1: RECORDS})).ask(read_groups(*groups)) == refused(20, 3)


def test_read_reference_type_other_than_6_is_illegal_data_address(connect):
    master = connect(unit({1: RECORDS}))
    for reference_type in (0, 5, 7, 255):
        assert master.ask(bytes([20, 7, reference_type]) + words(1, 0, 1)) == refused(20, 2)


def test_read_of_file_0_or_an_absent_file_is_illegal_data_address(connect):
    master = connect(unit({1: RECORDS}))
    for file in (0, 2, 0xFFFF):
        assert master.ask(read_groups((file, 0, 1))) == refused(20, 2)


def test_read_past_the_end_of_the_file_is_illegal_data_address(connect):
    master = connect(unit({1: RECORDS}))
    for record, length in ((299, 2), (300, 1), (9999, 1), (10000, 1), (0xFFFF, 1), (0xFFFF, 2), (180, 121)):
        assert master.ask(read_groups((1, record, length))) == refused(20, 2)


def test_record_numbers_end_at_270F(connect):
    master = connect(unit({1: list(range(10000))}))
    assert master.ask(read_groups((1, 9999, 1))) == pdu("14 04 03 06 270F")
    assert master.ask(read_groups((1, 9999, 2))) == refused(20, 2)
    assert master.ask(read_groups((1, 10000, 1))) == refused(20, 2)


def test_one_bad_group_refuses_the_whole_read(connect):
    master = connect(unit({1: RECORDS}))
    assert master.ask(read_groups((1, 0, 1), (2, 0, 1))) == refused(20, 2)
    assert master.ask(read_groups((1, 0, 1), (1, 300, 1), (1, 0, 1))) == refused(20, 2)


def test_read_byte_count_is_checked_before_files(connect):
    assert connect(unit({1: RECORDS})).ask(bytes([20, 8, 6]) + words(9, 0, 1) + b"\0") == refused(20, 3)


# 21: writing file records

def test_several_groups_are_written(connect):
    slave = unit({1: [0] * 10, 2: [0] * 10})
    request = write_groups((1, 0, [1, 2]), (2, 9, [3]), (1, 1, [4]))
    assert connect(slave).ask(request) == request
    assert records(slave, 1, 0, 10) == [1, 4] + [0] * 8  # the later group wins
    assert records(slave, 2, 0, 10) == [0] * 9 + [3]


@pytest.mark.parametrize("length", [1, 121, 122])
def test_write_limits(connect, length):
    slave = unit({1: [0] * 130})
    request = write_groups((1, 3, RECORDS[:length]))
    assert connect(slave).ask(request) == request
    assert records(slave, 1, 0, 130) == [0] * 3 + RECORDS[:length] + [0] * (127 - length)


def test_write_lengths_that_do_not_add_up_are_illegal_data_values_and_change_nothing(connect):
    slave = unit({1: [0] * 10})
    master = connect(slave)
    for body in [
        "", "06", "06 0001 0000 0000", "06 0001 0000 0001 FF",  # under 9 bytes
        "06 0001 0000 0002 1111", "06 0001 0000 0001 1111 2222", "06 0001 0000 FFFF 1111",  # lengths that don't add up
        "06 0001 0000 0001 1111 06", "06 0001 0000 0001 1111 06 0001 0001 0001", "06 0001 0000 0001 1111 06 0001 0001 0002 2222",
    ]:
        assert master.ask(bytes([21, len(pdu(body))]) + pdu(body)) == refused(21, 3)
    assert records(slave, 1, 0, 10) == [0] * 10


@miscounted
@pytest.mark.parametrize("count", [0, 7, 8, 10, 18, 251, 255])
def test_write_byte_count_that_is_not_the_rest_of_the_pdu_is_illegal_data_value(connect, count):
    slave = unit({1: [0] * 10})
    master = connect(slave)
    assert master.ask_miscounted(bytes([21, count]) + pdu("06 0001 0000 0001 1111")) == refused(21, 3)
    assert records(slave, 1, 0, 10) == [0] * 10


def test_nothing_is_written_when_one_group_of_a_file_write_is_refused(connect):
    slave = unit({1: [0] * 10})
    master = connect(slave)
    for bad in [
        (0, 0, [1]), (2, 0, [1]), (0xFFFF, 0, [1]),  # no such file
        (1, 10, [1]), (1, 9, [1, 2]), (1, 9999, [1, 2]), (1, 10000, [1]), (1, 0xFFFF, [1]), (1, 0xFFFF, [1, 2]),  # past its end
    ]:
        assert master.ask(write_groups(bad)) == refused(21, 2)
        assert master.ask(write_groups((1, 0, [9]), bad)) == refused(21, 2)
        assert master.ask(write_groups(bad, (1, 0, [9]))) == refused(21, 2)
    assert records(slave, 1, 0, 10) == [0] * 10


@pytest.mark.parametrize("reference_type", [0, 5, 7, 255])
def test_write_reference_type_other_than_6_is_illegal_data_address(connect, reference_type):
    slave = unit({1: [0] * 10})
    good, bad = b"\x06" + words(1, 0, 1, 9), bytes([reference_type]) + words(1, 1, 1, 9)
    master = connect(slave)
    assert master.ask(bytes([21, 9]) + bad) == refused(21, 2)
    assert master.ask(bytes([21, 18]) + good + bad) == refused(21, 2)
    assert records(slave, 1, 0, 10) == [0] * 10


def test_write_lengths_are_checked_before_files(connect):
    assert connect(unit({1: [0] * 10})).ask(bytes([21, 9, 6]) + words(7, 0, 2, 9)) == refused(21, 3)


def test_a_record_that_the_application_sets_is_read_by_the_master(connect):
    slave = unit({4: [0] * 10})
    slave.files[4][7] = 9
    assert connect(slave).ask(read_groups((4, 7, 1))) == pdu("14 04 03 06 0009")


# 24: FIFO queues

@pytest.mark.parametrize("count", [0, 1, 30, 31])
def test_fifo_of_up_to_31_registers_is_read_and_not_cleared(connect, count):
    master = connect(unit(fifos={7: RECORDS[:count]}))
    for _ in range(2):
        assert master.ask(b"\x18" + words(7)) == b"\x18" + words(2 + 2 * count, count, *RECORDS[:count])


@pytest.mark.parametrize("count", [32, 33, 64, 300])
def test_fifo_of_more_than_31_registers_is_illegal_data_value(connect, count):
    assert connect(unit(fifos={7: RECORDS[:count]})).ask(b"\x18" + words(7)) == refused(24, 3)


def test_absent_fifo_is_illegal_data_address(connect):
    master = connect(unit(fifos={7: [1]}))
    for pointer in (0, 6, 8, 0xFFFF):
        assert master.ask(b"\x18" + words(pointer)) == refused(24, 2)


@pytest.mark.parametrize("pointer", [0, 1, 0xFFFF])
def test_fifo_pointer_addresses_span_the_range(connect, pointer):
    assert connect(unit(fifos={pointer: [5]})).ask(b"\x18" + words(pointer)) == pdu("18 0004 0001 0005")


def test_a_value_that_the_application_appends_is_read_behind_the_others(connect):
    slave = unit(fifos={7: [1]})
    slave.fifos[7].append(2)
    assert connect(slave).ask(pdu("18 0007")) == pdu("18 0006 0002 0001 0002")


@malformed(b"\x18" + pdu(rest) for rest in ("", "00", "0007 00", "0007 0000"))
def test_fifo_pdu_of_a_wrong_length_is_illegal_data_value(connect, request_):
    master = connect(unit(fifos={7: [1]}))
    assert master.ask_malformed(request_) == refused(24, 3)
