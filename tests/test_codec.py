"""PDUs of every function, both ways and both directions: literal bytes from AP 6, round trips of any fields, errors that name the field."""

from contextlib import suppress

import pytest
from adu import pdu
from hypothesis import example, given
from hypothesis import strategies as st

from mbcore.codec import decode_request, decode_response, encode_request, encode_response, request_length, response_length
from mbcore.errors import ConfigurationError, FramingError, RequestError

REQUESTS = [
    (1, {"address": 0x13, "quantity": 0x13}, "01 0013 0013"),
    (2, {"address": 0xC4, "quantity": 0x16}, "02 00C4 0016"),
    (3, {"address": 0x6B, "quantity": 3}, "03 006B 0003"),
    (4, {"address": 8, "quantity": 1}, "04 0008 0001"),
    (5, {"address": 0xAC, "value": True}, "05 00AC FF00"),
    (5, {"address": 0xAC, "value": False}, "05 00AC 0000"),
    (6, {"address": 1, "value": 3}, "06 0001 0003"),
    (7, {}, "07"),
    (8, {"sub_function": 0, "data": b"\xa5\x37"}, "08 0000 A537"),
    (8, {"sub_function": 1, "data": b"\xff\x00"}, "08 0001 FF00"),
    (11, {}, "0B"),
    (12, {}, "0C"),
    (15, {"address": 0x13, "bits": [bool(0x1CD >> n & 1) for n in range(10)]}, "0F 0013 000A 02 CD 01"),
    (16, {"address": 1, "registers": [0x000A, 0x0102]}, "10 0001 0002 04 000A 0102"),
    (17, {}, "11"),
    (20, {"groups": [(4, 1, 2), (3, 9, 2)]}, "14 0E 06 0004 0001 0002 06 0003 0009 0002"),
    (21, {"groups": [(4, 7, [0x06AF, 0x04BE, 0x100D])]}, "15 0D 06 0004 0007 0003 06AF 04BE 100D"),
    (22, {"address": 4, "and_mask": 0xF2, "or_mask": 0x25}, "16 0004 00F2 0025"),
    (23, {"address": 3, "quantity": 6, "write_address": 14, "registers": [255, 255, 255]}, "17 0003 0006 000E 0003 06 00FF 00FF 00FF"),
    (24, {"address": 0x04DE}, "18 04DE"),
    (43, {"mei_type": 14, "read_code": 1, "object_id": 0}, "2B 0E 01 00"),
]
RESPONSES = [
    (1, {"bits": [bool(0x056BCD >> n & 1) for n in range(24)]}, "01 03 CD 6B 05"),
    (2, {"bits": [bool(0x35DBAC >> n & 1) for n in range(24)]}, "02 03 AC DB 35"),
    (3, {"registers": [0x022B, 0, 0x64]}, "03 06 022B 0000 0064"),
    (4, {"registers": [10]}, "04 02 000A"),
    (5, {"address": 0xAC, "value": True}, "05 00AC FF00"),
    (6, {"address": 1, "value": 3}, "06 0001 0003"),
    (7, {"status": 0x6D}, "07 6D"),
    (8, {"sub_function": 0, "data": b"\xa5\x37"}, "08 0000 A537"),
    (11, {"status": 0xFFFF, "event_count": 0x0108}, "0B FFFF 0108"),
    (12, {"status": 0, "event_count": 0x0108, "message_count": 0x0121, "events": b"\x20\x00"}, "0C 08 0000 0108 0121 20 00"),
    (15, {"address": 0x13, "quantity": 10}, "0F 0013 000A"),
    (16, {"address": 1, "quantity": 2}, "10 0001 0002"),
    (17, {"server_id": b"abc\xff"}, "11 04 616263 FF"),
    (20, {"groups": [[0x0DFE, 0x0020], [0x33CD, 0x0040]]}, "14 0C 05 06 0DFE 0020 05 06 33CD 0040"),
    (21, {"groups": [(4, 7, [0x06AF, 0x04BE, 0x100D])]}, "15 0D 06 0004 0007 0003 06AF 04BE 100D"),
    (22, {"address": 4, "and_mask": 0xF2, "or_mask": 0x25}, "16 0004 00F2 0025"),
    (23, {"registers": [0xFE, 0x0ACD, 1, 3, 0xD, 0xFF]}, "17 0C 00FE 0ACD 0001 0003 000D 00FF"),
    (24, {"registers": [0x01B8, 0x1284]}, "18 0006 0002 01B8 1284"),
    (43, {"mei_type": 14, "read_code": 1, "conformity": 0x81, "more_follows": False, "next_object": 0, "objects": {0: b"AC", 1: b""}},
     "2B 0E 01 81 00 00 02 00 02 4143 01 00"),
]
word, byte = st.integers(0, 0xFFFF), st.integers(0, 0xFF)
file_number, record_number = st.integers(1, 0xFFFF), st.integers(0, 9999 - 5)


def registers(most):
    return st.lists(word, min_size=1, max_size=most)


def fields_of(decoded, fields):
    """The named fields of a decoded PDU, its tuples and lists made alike."""
    def plain(value):
        return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value

    return {name: plain(decoded[name]) for name in fields}, {name: plain(value) for name, value in fields.items()}


@pytest.mark.parametrize(("code", "fields", "wire"), REQUESTS)
def test_request_both_ways(code, fields, wire):
    assert encode_request(code, **fields) == pdu(wire)
    found, expected = fields_of(decode_request(pdu(wire)), fields)
    assert found == expected


@pytest.mark.parametrize(("code", "fields", "wire"), RESPONSES)
def test_response_both_ways(code, fields, wire):
    assert encode_response(code, **fields) == pdu(wire)
    found, expected = fields_of(decode_response(pdu(wire)), fields)
    assert found == expected


@pytest.mark.parametrize(("code", "exception"), [(0x81, 2), (0x90, 3), (0xAB, 1), (0xE3, 1), (0x83, 0x0B)])
def test_exception_response_tells_its_code(code, exception):
    assert decode_response(bytes([code, exception]))["exception_code"] == exception


@pytest.mark.parametrize(("code", "fields", "wire"), REQUESTS)
def test_length_of_a_request_is_known_from_its_head(code, fields, wire):
    whole = pdu(wire)
    known = [request_length(whole[:size]) for size in range(1, len(whole) + 1)]
    if code == 8 and fields["sub_function"] == 0:
        assert known[-1] == -1, "its data are as long as its frame"
        return
    assert known[-1] == len(whole)
    assert set(known) <= {None, len(whole)}
    assert request_length(whole + b"tail") == len(whole)


@pytest.mark.parametrize(("code", "fields", "wire"), [*RESPONSES, (1, {}, "81 02"), (16, {}, "90 03")])
def test_length_of_a_response_is_known_from_its_head(code, fields, wire):
    whole = pdu(wire)
    known = [response_length(whole[:size]) for size in range(1, len(whole) + 1)]
    if code == 8 and fields["sub_function"] == 0:
        assert known[-1] == -1, "its data are as long as its frame"
        return
    assert known[-1] == len(whole)
    assert set(known) <= {None, len(whole)}
    assert response_length(whole + b"\0\0\0") == len(whole)


@pytest.mark.parametrize(("code", "fields", "wire"), [each for each in REQUESTS if each[0] != 8])
def test_a_request_that_is_cut_or_too_long_is_illegal_data_value(code, fields, wire):
    whole = pdu(wire)
    for bad in [*(whole[:size] for size in range(1, len(whole))), whole + b"\0", whole + bytes(10)]:
        with pytest.raises(RequestError) as refusal:
            decode_request(bad)
        assert refusal.value.exception_code == 3


@pytest.mark.parametrize(("request_", "exception"), [
    ("55", 1), ("00", 1), ("7F 00", 1), ("2B 0D 00 00", 1), ("01 0000 0000", 3), ("01 0000 07D1", 3), ("03 0000 007E", 3),
    ("05 0000 1234", 3),
    ("0F 0000 0009 01 FF", 3), ("10 0000 0002 02 0000", 3), ("14 08 06 0001 0000 0001 00", 3), ("15 09 06 0001 0000 0002 0000", 3),
    ("2B 0E 05 00", 3),
    ("2B 0E 00 00", 3), ("08 0000 A5", 3), ("08 0005 0000", 1), ("08", 3), ("08 00", 3),
])
def test_decoding_a_bad_request_tells_the_exception_code(request_, exception):
    with pytest.raises(RequestError) as refusal:
        decode_request(pdu(request_))
    assert refusal.value.exception_code == exception


@pytest.mark.parametrize("response", [
    "", "81", "81 02 00", "01", "01 03 CD 6B", "01 03 CD 6B 05 00", "03 05 0000 0000 00", "03 06 0000", "05 0000 1234", "05 0000 FF00 00",
    "06 0000", "07",
    "07 00 00", "0B 0000", "0C 07 0000 0000 0000", "10 0000", "11 04 6162", "14 0C 05 06 0DFE 0020", "14 03 02 06 00",
    "15 0D 06 0004 0007 0003 06AF",
    "18 0006 0002 01B8", "18 0006 0003 01B8 1284", "18 0005 0002 01B8 12", "2B 0E 01 81 00 00 02 00 02 4143", "2B 0E 01 81 00 00 00 41",
    "2B 0E", "55 00", "00",
])
def test_decoding_what_is_no_response_is_a_framing_error(response):
    with pytest.raises(FramingError):
        decode_response(pdu(response))


@pytest.mark.parametrize(("code", "fields", "name"), [
    (3, {"address": 65536, "quantity": 1}, "address"), (3, {"address": -1, "quantity": 1}, "address"),
    (3, {"address": "x", "quantity": 1}, "address"),
    (3, {"address": 1}, "quantity"), (3, {"quantity": 1}, "address"), (3, {"address": 1, "quantity": 1, "colour": 5}, "colour"),
    (3, {"address": 1, "quantity": 65536}, "quantity"),
    (6, {"address": 1, "value": 65536}, "value"), (6, {"address": 1, "value": None}, "value"), (15, {"address": 1, "bits": 5}, "bits"),
    (16, {"address": 1, "registers": [0, 70000]}, "registers"),
    (16, {"address": 1, "registers": 5}, "registers"),  (22, {"address": 1, "and_mask": 1 << 16, "or_mask": 0}, "and_mask"),
    (22, {"address": 1, "and_mask": 0, "or_mask": -1}, "or_mask"),
    (24, {}, "address"), (8, {"sub_function": 1 << 16, "data": b""}, "sub_function"), (20, {"groups": [(1, 0)]}, "groups"),
    (20, {"groups": 5}, "groups"),
    (21, {"groups": [(1, 0, 5)]}, "groups"),
    (43, {"mei_type": 14, "read_code": 300, "object_id": 0}, "read_code"),
])
def test_a_bad_field_is_a_configuration_error_that_names_it(code, fields, name):
    with pytest.raises(ConfigurationError, match=name):
        encode_request(code, **fields)


@pytest.mark.parametrize(("code", "fields"), [
    (16, {"address": 1, "registers": [0] * 200}), (15, {"address": 1, "bits": [True] * 2100}), (20, {"groups": [(1, 0, 1)] * 40}),
    (21, {"groups": [(1, 0, [0] * 200)]}), (23, {"address": 1, "quantity": 1, "write_address": 1, "registers": [0] * 130}),
    (8, {"sub_function": 0, "data": bytes(251)}),
])
def test_a_request_that_fits_no_pdu_is_a_configuration_error(code, fields):
    with pytest.raises(ConfigurationError):
        encode_request(code, **fields)


@pytest.mark.parametrize("code", [0, 0x55, 0x83, 256, -1, "x", None])
def test_a_request_of_an_unknown_function_is_the_users_error(code):
    with pytest.raises((ConfigurationError, TypeError)):
        encode_request(code)


def message(codes, **fields):
    """(function code, fields) of one of the functions `codes`."""
    return st.tuples(st.sampled_from(codes), st.fixed_dictionaries(fields))


def groups(each, most):
    return st.lists(each, min_size=1, max_size=most)


whole_words = st.lists(word, min_size=1, max_size=125).map(lambda values: b"".join(value.to_bytes(2) for value in values))
whole_bytes = st.integers(1, 250).flatmap(lambda size: st.lists(st.booleans(), min_size=8 * size, max_size=8 * size))
REQUEST_FIELDS = st.one_of(
    message([1, 2], address=word, quantity=st.integers(1, 2000)),
    message([3, 4], address=word, quantity=st.integers(1, 125)),
    message([5], address=word, value=st.booleans()),
    message([6], address=word, value=word),
    message([7, 11, 12, 17]),
    message([8], sub_function=st.just(0), data=whole_words),
    message([15], address=word, bits=st.lists(st.booleans(), min_size=1, max_size=1968)),
    message([16], address=word, registers=registers(123)),
    message([20], groups=groups(st.tuples(file_number, record_number, st.integers(1, 2)), 35)),
    message([21], groups=groups(st.tuples(file_number, record_number, registers(5)), 12)),
    message([22], address=word, and_mask=word, or_mask=word),
    message([23], address=word, quantity=st.integers(1, 125), write_address=word, registers=registers(121)),
    message([24], address=word),
    message([43], mei_type=st.just(14), read_code=st.integers(1, 4), object_id=byte),
)
RESPONSE_FIELDS = st.one_of(
    message([1, 2], bits=whole_bytes),
    message([3, 4, 23], registers=registers(125)),
    message([24], registers=st.lists(word, max_size=31)),
    message([7], status=byte),
    message([11], status=st.sampled_from([0, 0xFFFF]), event_count=word),
    message([12], status=st.just(0), event_count=word, message_count=word, events=st.binary(max_size=64)),
    message([15, 16], address=word, quantity=st.integers(1, 123)),
    message([17], server_id=st.binary(min_size=2, max_size=251)),
    message([20], groups=groups(registers(5), 20)),
    message([43], mei_type=st.just(14), read_code=st.integers(1, 4), conformity=st.sampled_from([1, 2, 3, 0x81, 0x82, 0x83]),
            more_follows=st.booleans(), next_object=byte, objects=st.dictionaries(byte, st.binary(max_size=20), min_size=1, max_size=11)),
)


@given(REQUEST_FIELDS)
@example((8, {"sub_function": 0, "data": b"\xa5\x37\x00\x01"}))
def test_any_request_survives_encoding_and_decoding(request_):
    code, fields = request_
    wire = encode_request(code, **fields)
    assert wire[0] == code
    assert len(wire) <= 253
    decoded = decode_request(wire)
    found, expected = fields_of(decoded, fields)
    assert found == expected
    # What 08/00 carries has any length: its function does not tell it.
    assert request_length(wire) == (-1 if code == 8 else len(wire))


@given(RESPONSE_FIELDS)
def test_any_response_survives_encoding_and_decoding(response):
    code, fields = response
    wire = encode_response(code, **fields)
    assert wire[0] == code
    assert len(wire) <= 253
    found, expected = fields_of(decode_response(wire), fields)
    assert found == expected
    assert response_length(wire) == len(wire)


@given(st.binary(max_size=300))
@example(b"\x80\x01")
def test_any_bytes_decode_to_fields_or_to_a_modbus_error(data):
    for decode, error in ((decode_request, RequestError), (decode_response, FramingError)):
        with suppress(error):
            fields = decode(data)
            # What refuses function 0, which is none, is a response (AP 4.1).
            assert fields["function_code"] in range(0 if "exception_code" in fields else 1, 128)


@given(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 15, 16, 17, 20, 21, 22, 23, 24, 43]), st.binary(max_size=252))
def test_a_request_that_decodes_encodes_to_itself_but_for_unused_bits(code, data):
    try:
        fields = decode_request(bytes([code]) + data)
    except RequestError:
        return
    fields.pop("function_code", None)
    assert decode_request(encode_request(code, **fields)) == fields | {"function_code": code}


@given(st.binary(max_size=300))
def test_lengths_of_any_bytes_are_unknown_or_positive(data):
    for length in (request_length(data), response_length(data)):
        assert length is None or length == -1 or length >= 1
