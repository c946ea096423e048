"""CRC-16/Modbus and LRC against known values and the bit-by-bit definition of SL 6.2."""

import pytest
from adu import crc16 as defined_crc16
from adu import crc_bytes
from adu import lrc as defined_lrc
from hypothesis import given
from hypothesis import strategies as st

from mbcore.checksum import checkCRC, checkLRC, computeCRC, computeLRC, crc16

PYMODBUS_DATA = bytes.fromhex("1234 2345 3456 4567")  # the data of pymodbus' own test of its checksums


@pytest.mark.parametrize(("data", "register"), [
    (b"", 0xFFFF), (b"123456789", 0x4B37), (bytes.fromhex("0207"), 0x1241), (bytes.fromhex("0103 0000 0002"), 0x0BC4), (b"\0", 0x40BF),
    (b"\xff", 0x00FF),
])
def test_crc_register(data, register):
    assert defined_crc16(data) == register
    assert crc16(data) == register


def test_compute_crc_is_the_bytes_of_the_wire_as_a_number():
    assert computeCRC(bytes.fromhex("0207")) == 0x4112
    for data in (PYMODBUS_DATA, b"test the computation"):
        assert computeCRC(data).to_bytes(2) == crc_bytes(data)


@pytest.mark.parametrize(("data", "lrc"), [(b"", 0), (b"\0", 0), (b"\1", 0xFF), (bytes.fromhex("0103 0000 0002"), 0xFA), (b"\xff\xff", 2),
                                           (b"\x80\x80", 0)])
def test_lrc(data, lrc):
    assert computeLRC(data) == defined_lrc(data) == lrc


@given(st.binary(max_size=600))
def test_checksums_are_as_defined(data):
    assert crc16(data) == defined_crc16(data)
    assert computeCRC(data) == int.from_bytes(crc_bytes(data))
    assert computeLRC(data) == defined_lrc(data)


@given(st.binary(max_size=300), st.integers(0, 0xFFFF))
def test_a_check_passes_only_for_the_checksum(data, other):
    assert checkCRC(data, computeCRC(data)) is True
    assert checkCRC(data, other) is (other == computeCRC(data))
    assert checkLRC(data, computeLRC(data)) is True
    assert checkLRC(data, other & 0xFF) is (other & 0xFF == computeLRC(data))


@given(st.binary(max_size=300))
def test_a_message_with_its_checksum_has_residue_zero(data):
    assert crc16(data + crc_bytes(data)) == 0
    assert computeLRC(data + bytes([computeLRC(data)])) == 0


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_like_objects_are_taken(kind):
    assert crc16(kind(b"123456789")) == 0x4B37
    assert computeLRC(kind(b"\1")) == 0xFF


@pytest.mark.parametrize("function", [crc16, computeCRC, computeLRC])
@pytest.mark.parametrize("data", [None, "text", 5])
def test_anything_else_is_a_type_error(function, data):
    with pytest.raises(TypeError):
        function(data)
