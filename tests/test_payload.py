"""Payloads: values of every type in the four orders, coils, and what stands at the ends."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbcore.errors import ParameterException
from mbcore.payload import BinaryPayloadBuilder, BinaryPayloadDecoder, Endian

ORDERS = [(byteorder, wordorder) for byteorder in (Endian.Big, Endian.Little) for wordorder in (Endian.Big, Endian.Little)]
KINDS = {
    "8bit_uint": 0xA1,
    "8bit_int": -3,
    "16bit_uint": 0xA1B2,
    "16bit_int": -300,
    "32bit_uint": 0xA1B2C3D4,
    "32bit_int": -70_000,
    "64bit_uint": 0xA1B2C3D4E5F60718,
    "64bit_int": -5_000_000_000,
    "16bit_float": 1.5,
    "32bit_float": 22.25,
    "64bit_float": -1e300,
}


@pytest.mark.parametrize(("byteorder", "wordorder", "octets"), [
    (Endian.Big, Endian.Big, "A1B2C3D4"),
    (Endian.Big, Endian.Little, "C3D4A1B2"),
    (Endian.Little, Endian.Big, "B2A1D4C3"),
    (Endian.Little, Endian.Little, "D4C3B2A1"),
])
def test_the_four_orders_of_two_registers(byteorder, wordorder, octets):
    builder = BinaryPayloadBuilder(byteorder=byteorder, wordorder=wordorder)
    builder.add_32bit_uint(0xA1B2C3D4)
    assert builder.to_string() == bytes.fromhex(octets)
    assert builder.to_registers() == list(struct.unpack(">2H", bytes.fromhex(octets)))


def test_the_orders_when_none_is_given_are_little_bytes_in_big_words():
    builder = BinaryPayloadBuilder()
    builder.add_32bit_uint(0xA1B2C3D4)
    assert builder.to_string() == bytes.fromhex("B2A1D4C3")
    assert BinaryPayloadDecoder(builder.to_string()).decode_32bit_uint() == 0xA1B2C3D4


@pytest.mark.parametrize(("byteorder", "wordorder"), ORDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_added_is_decoded(kind, byteorder, wordorder):
    builder = BinaryPayloadBuilder(byteorder=byteorder, wordorder=wordorder)
    getattr(builder, f"add_{kind}")(KINDS[kind])
    decoder = BinaryPayloadDecoder(builder.to_string(), byteorder=byteorder, wordorder=wordorder)
    assert getattr(decoder, f"decode_{kind}")() == KINDS[kind]


@pytest.mark.parametrize(("byteorder", "wordorder"), ORDERS)
def test_registers_carry_a_mixed_payload(byteorder, wordorder):
    builder = BinaryPayloadBuilder(byteorder=byteorder, wordorder=wordorder)
    builder.add_string("abcd")
    builder.add_16bit_int(-2)
    builder.add_bits([True, False, True])
    builder.add_8bit_uint(7)
    builder.add_64bit_float(0.1)
    decoder = BinaryPayloadDecoder.fromRegisters(builder.to_registers(), byteorder=byteorder, wordorder=wordorder)
    assert decoder.decode_string(4) == b"abcd"
    assert decoder.decode_16bit_int() == -2
    assert decoder.decode_bits() == [True, False, True, False, False, False, False, False]
    assert decoder.decode_8bit_uint() == 7
    assert decoder.decode_64bit_float() == 0.1


def test_coils_keep_the_word_order():
    builder = BinaryPayloadBuilder(byteorder=Endian.Big, wordorder=Endian.Little)
    builder.add_32bit_uint(0xA1B2C3D4)
    decoder = BinaryPayloadDecoder.fromCoils(builder.to_coils(), byteorder=Endian.Big, wordorder=Endian.Little)
    assert decoder.decode_32bit_uint() == 0xA1B2C3D4


@given(st.lists(st.booleans(), max_size=70))
def test_coils_are_filled_up_to_whole_bytes_at_the_front(coils):
    decoder = BinaryPayloadDecoder.fromCoils(list(coils))
    number = int("".join("01"[bit] for bit in coils) or "0", 2)
    assert decoder.decode_string(99) == number.to_bytes((len(coils) + 7) // 8, "big")


def test_coils_of_a_register_begin_with_its_highest_bit():
    builder = BinaryPayloadBuilder(byteorder=Endian.Big)
    builder.add_16bit_uint(0x8001)
    assert builder.to_coils() == [True] + 14 * [False] + [True]


def test_an_odd_payload_gets_a_zero_byte():
    builder = BinaryPayloadBuilder(byteorder=Endian.Big)
    builder.add_string("abc")
    assert builder.build() == [b"ab", b"c\0"]
    assert builder.to_registers() == [0x6162, 0x6300]
    assert builder.to_string() == b"abc"


def test_repack_reads_registers_in_the_byte_order():
    raw = [b"\x12", b"\x34", b"\x56\x78"]
    assert BinaryPayloadBuilder(raw, repack=True).to_registers() == [0x3412, 0x7856]
    assert BinaryPayloadBuilder(raw).to_registers() == [0x1234, 0x5678]
    assert BinaryPayloadBuilder(b"\x12\x34").to_registers() == [0x1234]


def test_the_given_payload_stays_the_callers():
    raw = [b"ab"]
    builder = BinaryPayloadBuilder(raw)
    builder.add_string("cd")
    assert raw == [b"ab"]


@pytest.mark.parametrize(("octets", "shown"), [(b"", ""), (b"\xff\xfeA", r"\xff\xfeA"), (b"a\xc3", r"a\xc3"), (b"\0", "\0")])
def test_a_payload_of_any_bytes_can_be_shown(octets, shown):
    assert str(BinaryPayloadBuilder(octets)) == shown


def test_a_payload_of_text_is_shown_as_text():
    builder = BinaryPayloadBuilder()
    builder.add_string("Größe")
    assert str(builder) == "Größe"


def test_reset():
    builder = BinaryPayloadBuilder(b"abcd")
    builder.reset()
    assert builder.build() == []
    decoder = BinaryPayloadDecoder(b"\x01\x02\x03")
    decoder.skip_bytes(2)
    assert decoder.decode_8bit_uint() == 3
    decoder.reset()
    assert decoder.decode_8bit_uint() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_reading_past_the_end_is_an_error(kind):
    decoder = BinaryPayloadDecoder(b"" if kind.startswith("8") else b"\x01")
    with pytest.raises(struct.error):
        getattr(decoder, f"decode_{kind}")()


@pytest.mark.parametrize(("kind", "value"), [("8bit_uint", 256), ("16bit_int", 32768), ("32bit_uint", -1), ("64bit_int", 2**63)])
def test_a_value_that_does_not_fit_is_an_error(kind, value):
    builder = BinaryPayloadBuilder()
    with pytest.raises(struct.error):
        getattr(builder, f"add_{kind}")(value)
    assert builder.to_string() == b""


@pytest.mark.parametrize("make", [BinaryPayloadDecoder.fromRegisters, BinaryPayloadDecoder.fromCoils])
def test_only_lists_are_decoded(make):
    with pytest.raises(ParameterException, match="abcd"):
        make("abcd")
