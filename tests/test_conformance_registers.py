"""AP 6.3, 6.4, 6.6, 6.12, 6.16, 6.17: registers, over every framer (the fixture `connect`)."""

import pytest
from adu import block, image, pdu, refused, words
from carried import malformed, miscounted

READS = pytest.mark.parametrize("code", [3, 4])
RAMP = [n * 257 & 0xFFFF for n in range(65536)]


@pytest.fixture(scope="module")
def slave():
    """Read only."""
    return image(hr=block(RAMP), ir=block(RAMP), co=block([0]), di=block([0]))


@pytest.fixture
def small():
    """Ten registers at the wire's addresses 100..109, all 7."""
    return image(hr=block([7] * 10, 100), ir=block([7] * 10, 100), co=block([0]), di=block([0]))


# The specification's examples

def test_read_holding_registers_example(connect):
    # AP 6.3: function, starting address 107, quantity 3 -> function, byte count, registers 108, 109, 110
    slave = image(hr=block([0] * 0x6B + [0x022B, 0x0000, 0x0064]))
    assert connect(slave).ask(pdu("03 006B 0003")) == pdu("03 06 022B 0000 0064")


def test_read_input_registers_example(connect):
    # AP 6.4: function, starting address 8, quantity 1 -> function, byte count, input register 9
    slave = image(ir=block([0] * 8 + [0x000A]))
    assert connect(slave).ask(pdu("04 0008 0001")) == pdu("04 02 000A")


def test_write_single_register_example(connect):
    slave = image(hr=block([0] * 4))
    # AP 6.6: function, register address 1, value 3
    assert connect(slave).ask(pdu("06 0001 0003")) == pdu("06 0001 0003")
    assert slave.getValues(3, 0, 4) == [0, 3, 0, 0]


def test_write_multiple_registers_example(connect):
    slave = image(hr=block([0] * 4))
    # AP 6.12: function, starting address 1, quantity 2, byte count, 000A, 0102 -> function, address, quantity
    assert connect(slave).ask(pdu("10 0001 0002 04 000A 0102")) == pdu("10 0001 0002")
    assert slave.getValues(3, 0, 4) == [0, 0x000A, 0x0102, 0]


def test_mask_write_register_example(connect):
    slave = image(hr=block([0, 0, 0, 0, 0x12, 0]))
    # AP 6.16: function, reference address 4, AND mask, OR mask; 12 AND F2 OR (25 AND NOT F2) = 17
    assert connect(slave).ask(pdu("16 0004 00F2 0025")) == pdu("16 0004 00F2 0025")
    assert slave.getValues(3, 0, 6) == [0, 0, 0, 0, 0x17, 0]


def test_read_write_multiple_registers_example(connect):
    slave = image(hr=block([0, 0, 0, 0x00FE, 0x0ACD, 0x0001, 0x0003, 0x000D, 0x00FF] + [0] * 20))
    # AP 6.17: function, read address 3, read quantity 6, write address 14, write quantity 3, byte count, 00FF x 3
    request = pdu("17 0003 0006 000E 0003 06 00FF 00FF 00FF")
    assert connect(slave).ask(request) == pdu("17 0C 00FE 0ACD 0001 0003 000D 00FF")
    assert slave.getValues(3, 13, 5) == [0, 0xFF, 0xFF, 0xFF, 0]


# 03, 04: reading

@READS
@pytest.mark.parametrize("quantity", [1, 2, 124, 125])
def test_registers_are_read_big_endian(connect, slave, code, quantity):
    master = connect(slave)
    for address in (0, 1, 255, 65536 - quantity):
        expected = bytes([code, 2 * quantity]) + words(*RAMP[address : address + quantity])
        assert master.ask(bytes([code]) + words(address, quantity)) == expected


@READS
def test_read_quantity_out_of_1_to_125_is_illegal_data_value(connect, slave, code):
    master = connect(slave)
    for quantity in (0, 126, 127, 128, 256, 0x7FFF, 0x8000, 0xFFFF):
        assert master.ask(bytes([code]) + words(0, quantity)) == refused(code, 3)


@READS
def test_read_past_65535_is_illegal_data_address(connect, slave, code):
    master = connect(slave)
    for address, quantity in ((65535, 2), (65535, 125), (65536 - 124, 125)):
        assert master.ask(bytes([code]) + words(address, quantity)) == refused(code, 2)


@READS
def test_read_outside_of_the_block_is_illegal_data_address(connect, small, code):
    master = connect(small)
    for address, quantity in ((99, 1), (99, 2), (99, 11), (100, 11), (109, 2), (110, 1), (0, 125), (65535, 1), (65535, 102)):
        assert master.ask(bytes([code]) + words(address, quantity)) == refused(code, 2)
    for address, quantity in ((100, 10), (100, 1), (109, 1)):
        assert master.ask(bytes([code]) + words(address, quantity)) == bytes([code, 2 * quantity]) + words(*[7] * quantity)


@READS
def test_quantity_is_checked_before_the_address(connect, small, code):
    master = connect(small)
    for quantity in (0, 126, 65535):
        assert master.ask(bytes([code]) + words(9999, quantity)) == refused(code, 3)


@malformed(bytes([code]) + pdu(rest) for code in (3, 4, 6) for rest in ("", "00", "0000", "0000 00", "0000 0001 00", "0000 0001 0000"))
def test_pdu_of_a_wrong_length_is_illegal_data_value(connect, slave, request_):
    master = connect(slave)
    assert master.ask_malformed(request_) == refused(request_[0], 3)
    assert slave.getValues(3, 0, 2) == RAMP[:2]


# 06: one register

@pytest.mark.parametrize("address", [0, 1, 65535])
def test_any_value_is_written_to_only_that_register(connect, address):
    slave = image()
    master = connect(slave)
    for value in (1, 0x00FF, 0xFF00, 0x7FFF, 0x8000, 0xFFFF, 0):
        assert master.ask(b"\x06" + words(address, value)) == b"\x06" + words(address, value)
        assert slave.getValues(3, address, 1) == [value]
    assert not any(slave.getValues(3, 0, 65536))


def test_write_register_outside_of_the_block_is_illegal_data_address(connect, small):
    master = connect(small)
    for address in (0, 99, 110, 65535):
        assert master.ask(b"\x06" + words(address, 1)) == refused(6, 2)
    assert small.getValues(3, 100, 10) == [7] * 10


# 16: many registers

def write_registers(address, quantity, data: bytes, count=None) -> bytes:
    return b"\x10" + words(address, quantity) + bytes([len(data) if count is None else count]) + data


@pytest.mark.parametrize("quantity", [1, 2, 122, 123])
@pytest.mark.parametrize("address", [0, 77])
def test_write_registers_writes_exactly_those(connect, quantity, address):
    slave = image(hr=block([1] * 200))
    values = RAMP[1000 : 1000 + quantity]
    assert connect(slave).ask(write_registers(address, quantity, words(*values))) == b"\x10" + words(address, quantity)
    assert slave.getValues(3, 0, 200) == [1] * address + values + [1] * (200 - address - quantity)


def test_write_quantity_out_of_1_to_123_is_illegal_data_value(connect):
    slave = image()
    master = connect(slave)
    for quantity, size in ((0, 0), (0, 2), (124, 246), (124, 247), (125, 246), (0x8001, 2), (0xFFFF, 246)):
        assert master.ask(write_registers(0, quantity, b"\xff" * size)) == refused(16, 3)
    assert not any(slave.getValues(3, 0, 65536))


def test_byte_count_that_is_not_twice_the_quantity_is_illegal_data_value(connect):
    slave = image(hr=block([1] * 200))
    master = connect(slave)
    for quantity, size in ((1, 0), (1, 1), (1, 3), (1, 4), (2, 2), (2, 3), (123, 245), (123, 244), (1, 246)):
        assert master.ask(write_registers(0, quantity, b"\xff" * size)) == refused(16, 3)
    assert slave.getValues(3, 0, 200) == [1] * 200


@miscounted
@pytest.mark.parametrize(("count", "size"), [(2, 0), (2, 1), (2, 3), (2, 4), (4, 2), (255, 2), (0, 2)])
def test_byte_count_that_is_not_the_rest_of_the_pdu_is_illegal_data_value(connect, count, size):
    slave = image(hr=block([1] * 200))
    master = connect(slave)
    assert master.ask_miscounted(write_registers(0, 1, b"\xff" * size, count)) == refused(16, 3)
    assert slave.getValues(3, 0, 200) == [1] * 200


def test_write_registers_outside_of_the_block_is_illegal_data_address_and_changes_nothing(connect, small):
    master = connect(small)
    for address, quantity in ((99, 1), (99, 2), (101, 10), (109, 2), (110, 1), (65535, 2), (65535, 1), (65535, 102)):
        assert master.ask(write_registers(address, quantity, b"\xff" * 2 * quantity)) == refused(16, 2)
    assert small.getValues(3, 100, 10) == [7] * 10


def test_byte_count_is_checked_before_the_address(connect, small):
    assert connect(small).ask(write_registers(9999, 2, b"\xff\xff")) == refused(16, 3)


# 22: mask

@pytest.mark.parametrize(("current", "and_mask", "or_mask", "result"), [
    (0x1234, 0xFFFF, 0xFFFF, 0x1234),  # AND all ones: unchanged, whatever OR says
    (0x1234, 0x0000, 0xABCD, 0xABCD),  # AND zero: equal to OR (AP 6.16)
    (0x1234, 0x0000, 0x0000, 0x0000),
    (0x1234, 0xFF00, 0x0000, 0x1200),  # OR zero: logical AND of the current contents and the mask (AP 6.16)
    (0x1234, 0xFF00, 0xFFFF, 0x12FF),
    (0xFFFF, 0x5555, 0xF0F0, 0xF5F5),
])
def test_mask_write_formula(connect, current, and_mask, or_mask, result):
    assert result == current & and_mask | or_mask & ~and_mask & 0xFFFF
    slave = image(hr=block([9, current, 9]))
    request = b"\x16" + words(1, and_mask, or_mask)
    assert connect(slave).ask(request) == request
    assert slave.getValues(3, 0, 3) == [9, result, 9]


def test_mask_write_outside_of_the_block_is_illegal_data_address(connect, small):
    master = connect(small)
    for address in (0, 99, 110, 65535):
        assert master.ask(b"\x16" + words(address, 0, 0)) == refused(22, 2)
    assert small.getValues(3, 100, 10) == [7] * 10


@malformed(b"\x16" + pdu(rest) for rest in ("", "0000 0000", "0000 0000 00", "0000 0000 0000 00"))
def test_mask_write_pdu_of_a_wrong_length_is_illegal_data_value(connect, slave, request_):
    master = connect(slave)
    assert master.ask_malformed(request_) == refused(22, 3)


# 23: write, then read

def read_write(read, quantity, write, values, written=None, count=None) -> bytes:
    data = values if isinstance(values, bytes) else words(*values)
    written = len(data) // 2 if written is None else written
    return b"\x17" + words(read, quantity, write, written) + bytes([len(data) if count is None else count]) + data


def test_the_write_comes_before_the_read(connect):
    slave = image(hr=block([1, 2, 3, 4]))
    assert connect(slave).ask(read_write(0, 4, 1, [0xAAAA, 0xBBBB])) == pdu("17 08 0001 AAAA BBBB 0004")


@pytest.mark.parametrize(("quantity", "written"), [(1, 1), (125, 121), (125, 1), (1, 121)])
def test_read_write_limits(connect, quantity, written):
    slave = image(hr=block(RAMP[:400]))
    request = read_write(0, quantity, 200, RAMP[1000 : 1000 + written])
    assert connect(slave).ask(request) == bytes([0x17, 2 * quantity]) + words(*RAMP[:quantity])
    assert slave.getValues(3, 0, 400) == RAMP[:200] + RAMP[1000 : 1000 + written] + RAMP[200 + written : 400]


def test_read_write_quantities_and_byte_count_are_illegal_data_values_and_nothing_is_written(connect):
    slave = image(hr=block([1] * 400))
    master = connect(slave)
    for quantity, written, size in [
        (0, 1, 2), (126, 1, 2), (0xFFFF, 1, 2), (0x8001, 1, 2),
        (1, 0, 0), (1, 0, 2), (1, 122, 242), (1, 122, 243), (1, 0xFFFF, 242),
        (1, 1, 0), (1, 1, 1), (1, 1, 3), (1, 1, 4), (1, 2, 2), (1, 121, 241), (1, 121, 240),
    ]:
        assert master.ask(read_write(0, quantity, 200, b"\xff" * size, written)) == refused(23, 3)
    assert slave.getValues(3, 0, 400) == [1] * 400


@miscounted
@pytest.mark.parametrize(("count", "size"), [(2, 0), (2, 1), (2, 4), (4, 2), (255, 2), (0, 2)])
def test_read_write_byte_count_that_is_not_the_rest_of_the_pdu_is_illegal_data_value(connect, count, size):
    slave = image(hr=block([1] * 400))
    master = connect(slave)
    assert master.ask_miscounted(read_write(0, 1, 0, b"\xff" * size, 1, count)) == refused(23, 3)
    assert slave.getValues(3, 0, 400) == [1] * 400


def test_nothing_is_written_when_either_range_of_read_write_is_refused(connect, small):
    master = connect(small)
    for read, quantity, write, written in [
        (110, 1, 100, 1), (109, 2, 100, 1), (65535, 2, 100, 1), (99, 2, 100, 10),  # the read is refused
        (100, 1, 110, 1), (100, 1, 109, 2), (100, 1, 65535, 2), (100, 1, 99, 1),  # the write is refused
        (0, 1, 0, 1),
    ]:
        assert master.ask(read_write(read, quantity, write, [0xFFFF] * written)) == refused(23, 2)
    assert small.getValues(3, 100, 10) == [7] * 10


def test_read_write_quantity_is_checked_before_the_address(connect, small):
    assert connect(small).ask(read_write(9999, 0, 9999, [1])) == refused(23, 3)
    assert connect(small).ask(read_write(9999, 1, 9999, [1], written=2)) == refused(23, 3)


@malformed(bytes([code]) + pdu(rest) for code in (16, 23) for rest in ("", "0000", "0000 0001"))
def test_write_pdu_without_a_byte_count_is_illegal_data_value(connect, small, request_):
    master = connect(small)
    assert master.ask_malformed(request_) == refused(request_[0], 3)


def test_input_and_holding_registers_are_two_tables(connect):
    slave = image(hr=block([1, 2]), ir=block([3, 4]))
    master = connect(slave)
    assert master.ask(pdu("06 0000 FFFF")) == pdu("06 0000 FFFF")
    assert master.ask(pdu("03 0000 0002")) == pdu("03 04 FFFF 0002")
    assert master.ask(pdu("04 0000 0002")) == pdu("04 04 0003 0004")
