"""AP 6.1, 6.2, 6.5, 6.11: coils and discrete inputs, over every framer (the fixture `connect`)."""

import pytest
from adu import block, image, pdu, refused, words
from carried import malformed, miscounted

READS = pytest.mark.parametrize("code", [1, 2])
EVERY_OTHER = [n % 3 == 0 for n in range(65536)]


def bits_of(values) -> bytes:
    """AP 6.1: the first bit is the LSB of the first byte, unused bits are 0."""
    return bytes(sum(bool(bit) << n for n, bit in enumerate(values[at : at + 8])) for at in range(0, len(values), 8))


@pytest.fixture(scope="module")
def slave():
    """Read only."""
    return image(co=block(EVERY_OTHER), di=block(EVERY_OTHER), hr=block([0] * 8), ir=block([0] * 8))


@pytest.fixture
def small():
    """Ten coils and inputs at the wire's addresses 100..109."""
    return image(co=block([False] * 10, 100), di=block([True] * 10, 100), hr=block([0]), ir=block([0]))


# The specification's examples

def test_read_coils_example(connect):
    outputs = [False] * 19 + [bool(byte >> bit & 1) for byte in (0xCD, 0x6B, 0x05) for bit in range(8)]  # AP 6.1
    master = connect(image(co=block(outputs)))
    # function, starting address 19, quantity 19 -> function, byte count, outputs 27-20, 35-28, 38-36
    assert master.ask(pdu("01 0013 0013")) == pdu("01 03 CD 6B 05")


def test_read_discrete_inputs_example(connect):
    inputs = [False] * 196 + [bool(byte >> bit & 1) for byte in (0xAC, 0xDB, 0x35) for bit in range(8)]  # AP 6.2
    master = connect(image(di=block(inputs)))
    # function, starting address 196, quantity 22 -> function, byte count, inputs 204-197, 212-205, 218-213
    assert master.ask(pdu("02 00C4 0016")) == pdu("02 03 AC DB 35")


def test_write_single_coil_example(connect):
    slave = image(co=block([False] * 200))
    # AP 6.5: function, output address 172, value ON
    assert connect(slave).ask(pdu("05 00AC FF00")) == pdu("05 00AC FF00")
    assert slave.getValues(1, 171, 3) == [False, True, False]


def test_write_multiple_coils_example(connect):
    slave = image(co=block([True] * 40))
    # AP 6.11: function, starting address 19, quantity 10, byte count, outputs 27-20, 29-28 -> function, address, quantity
    assert connect(slave).ask(pdu("0F 0013 000A 02 CD 01")) == pdu("0F 0013 000A")
    assert slave.getValues(1, 18, 12) == [True, True, False, True, True, False, False, True, True, True, False, True]


def test_exception_example(connect):
    # AP 7: coil 1185 of a server with 1184 coils -> 81, illegal data address
    assert connect(image(co=block([False] * 0x4A1))).ask(pdu("01 04A1 0001")) == pdu("81 02")


# 01, 02: reading

@READS
@pytest.mark.parametrize("quantity", [1, 2, 7, 8, 9, 15, 16, 17, 1999, 2000])
def test_byte_count_and_bits_from_lsb_with_unused_bits_zero(connect, slave, code, quantity):
    master = connect(slave)
    for address in (0, 1, 5, 4097, 65536 - quantity):
        expected = bits_of(EVERY_OTHER[address : address + quantity])
        assert master.ask(bytes([code]) + words(address, quantity)) == bytes([code, (quantity + 7) // 8]) + expected


@READS
def test_read_quantity_out_of_1_to_2000_is_illegal_data_value(connect, slave, code):
    master = connect(slave)
    for quantity in (0, 2001, 2008, 0x7FFF, 0x8000, 0xFFFF):
        assert master.ask(bytes([code]) + words(0, quantity)) == refused(code, 3)


@READS
def test_read_past_65535_is_illegal_data_address(connect, slave, code):
    master = connect(slave)
    for address, quantity in ((65535, 2), (65535, 2000), (65536 - 1999, 2000)):
        assert master.ask(bytes([code]) + words(address, quantity)) == refused(code, 2)


@READS
def test_read_outside_of_the_block_is_illegal_data_address(connect, small, code):
    master = connect(small)
    for address, quantity in ((99, 1), (99, 2), (99, 11), (100, 11), (109, 2), (110, 1), (0, 2000), (65535, 1), (65535, 102)):
        assert master.ask(bytes([code]) + words(address, quantity)) == refused(code, 2)
    for address, quantity in ((100, 10), (100, 1), (109, 1)):
        assert master.ask(bytes([code]) + words(address, quantity)) == bytes([code, (quantity + 7) // 8]) + bits_of([code == 2] * quantity)


@READS
def test_quantity_is_checked_before_the_address(connect, small, code):
    master = connect(small)
    for quantity in (0, 2001, 65535):
        assert master.ask(bytes([code]) + words(9999, quantity)) == refused(code, 3)


@malformed(bytes([code]) + pdu(rest) for code in (1, 2) for rest in ("", "00", "0000", "0000 00", "0000 0001 00", "0000 0001 0000"))
def test_read_pdu_of_a_wrong_length_is_illegal_data_value(connect, slave, request_):
    master = connect(slave)
    assert master.ask_malformed(request_) == refused(request_[0], 3)


# 05: one coil

def test_coil_value_other_than_0000_and_FF00_is_illegal_data_value_and_changes_nothing(connect):
    slave = image(co=block([False, True]))
    master = connect(slave)
    for value in (0x0001, 0x00FF, 0x0100, 0x1234, 0xFE00, 0xFEFF, 0xFF01, 0xFFFF, 0x8000):
        for address in (0, 1):
            assert master.ask(b"\x05" + words(address, value)) == refused(5, 3)
    assert slave.getValues(1, 0, 2) == [False, True]


def test_coil_value_is_checked_before_the_address(connect, small):
    assert connect(small).ask(b"\x05" + words(9999, 0x1234)) == refused(5, 3)


def test_write_coil_outside_of_the_block_is_illegal_data_address(connect, small):
    master = connect(small)
    for address in (0, 99, 110, 65535):
        for value in (0x0000, 0xFF00):
            assert master.ask(b"\x05" + words(address, value)) == refused(5, 2)
    assert small.getValues(1, 100, 10) == [False] * 10


@pytest.mark.parametrize("address", [0, 1, 65535])
def test_write_coil_sets_and_clears_only_that_coil(connect, address):
    slave = image()
    master = connect(slave)
    assert master.ask(b"\x05" + words(address, 0xFF00)) == b"\x05" + words(address, 0xFF00)
    assert [n for n, value in enumerate(slave.getValues(1, 0, 65536)) if value] == [address]
    assert master.ask(b"\x05" + words(address, 0)) == b"\x05" + words(address, 0)
    assert not any(slave.getValues(1, 0, 65536))


@malformed(b"\x05" + pdu(rest) for rest in ("", "0000", "0000 FF", "0000 FF00 00"))
def test_write_coil_pdu_of_a_wrong_length_is_illegal_data_value(connect, small, request_):
    master = connect(small)
    assert master.ask_malformed(request_) == refused(5, 3)


# 15: many coils

def write_coils(address, quantity, data: bytes, count=None) -> bytes:
    return b"\x0f" + words(address, quantity) + bytes([len(data) if count is None else count]) + data


@pytest.mark.parametrize("quantity", [1, 7, 8, 9, 16, 17, 1967, 1968])
def test_write_coils_writes_exactly_those(connect, quantity):
    slave = image(co=block([True] * 2000))
    master = connect(slave)
    pattern = [n % 5 < 2 for n in range(quantity)]
    for address in (0, 3, 8, 2000 - quantity):
        slave.setValues(1, 0, [True] * 2000)
        assert master.ask(write_coils(address, quantity, bits_of(pattern))) == b"\x0f" + words(address, quantity)
        assert slave.getValues(1, 0, 2000) == [True] * address + pattern + [True] * (2000 - address - quantity)


def test_unused_bits_of_the_last_byte_are_ignored(connect):
    slave = image(co=block([False] * 16))
    assert connect(slave).ask(write_coils(0, 3, b"\xff")) == b"\x0f" + words(0, 3)
    assert slave.getValues(1, 0, 16) == [True] * 3 + [False] * 13


def test_write_quantity_out_of_1_to_1968_is_illegal_data_value(connect):
    slave = image()
    master = connect(slave)
    for quantity, size in ((0, 0), (0, 1), (1969, 247), (1969, 246), (2000, 246), (0x8000, 246), (0xFFFF, 246)):
        assert master.ask(write_coils(0, quantity, b"\xff" * size)) == refused(15, 3)
    assert not any(slave.getValues(1, 0, 65536))


def test_byte_count_that_is_not_the_quantity_rounded_up_is_illegal_data_value(connect):
    slave = image(co=block([False] * 2000))
    master = connect(slave)
    for quantity, size in ((8, 2), (9, 1), (16, 1), (16, 3), (1, 0), (1, 2), (1968, 245), (1, 246), (8, 100)):
        assert master.ask(write_coils(0, quantity, b"\xff" * size)) == refused(15, 3)
    assert not any(slave.getValues(1, 0, 2000))


@miscounted
@pytest.mark.parametrize(("count", "size"), [(1, 0), (1, 2), (2, 1), (100, 1), (255, 1), (0, 1)])
def test_byte_count_that_is_not_the_rest_of_the_pdu_is_illegal_data_value(connect, count, size):
    slave = image(co=block([False] * 2000))
    master = connect(slave)
    assert master.ask_miscounted(write_coils(0, 8, b"\xff" * size, count)) == refused(15, 3)
    assert not any(slave.getValues(1, 0, 2000))


@malformed(b"\x0f" + pdu(rest) for rest in ("", "0000", "0000 0001", "0000 00"))
def test_write_coils_pdu_without_a_byte_count_is_illegal_data_value(connect, small, request_):
    master = connect(small)
    assert master.ask_malformed(request_) == refused(15, 3)


def test_write_coils_outside_of_the_block_is_illegal_data_address_and_changes_nothing(connect, small):
    master = connect(small)
    for address, quantity in ((99, 1), (99, 2), (101, 10), (109, 2), (110, 1), (65535, 2), (65535, 1), (65535, 102)):
        assert master.ask(write_coils(address, quantity, b"\xff" * ((quantity + 7) // 8))) == refused(15, 2)
    assert small.getValues(1, 100, 10) == [False] * 10


def test_byte_count_is_checked_before_the_address(connect, small):
    assert connect(small).ask(write_coils(9999, 9, b"\xff")) == refused(15, 3)


def test_discrete_inputs_and_coils_are_two_tables(connect):
    slave = image(co=block([False] * 8), di=block([True] * 8))
    master = connect(slave)
    assert master.ask(pdu("05 0000 FF00")) == pdu("05 0000 FF00")
    assert master.ask(pdu("01 0000 0008")) == pdu("01 01 01")
    assert master.ask(pdu("02 0000 0008")) == pdu("02 01 FF")
