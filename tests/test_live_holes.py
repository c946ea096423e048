"""Holes that other servers had, one test each: the right answer by the specification, and the next request is served.

Left out because they lie outside what this project has: CVE-2022-1068 and ICSA-22-088-04 (a desktop program's licence dialogue) and
CVE-2021-47770 (a web page that runs uploaded code).
"""

import struct
import time

import pytest
from live import raw
from live.device import COILS, HOLDING_REGISTERS, SECOND_UNIT_START

pytestmark = pytest.mark.live

ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3


@pytest.fixture(scope="module")
def target(serve_all):
    """One process for all attacks on what carries the connections: it must outlive them and stop in good order."""
    target = serve_all("tcp")
    yield target
    assert target.stop() == 0


@pytest.fixture
def device(target):
    """It serves on, and holds what it held, after whatever the test did to it."""
    yield target
    assert raw.is_served(target.address)
    assert target.values(1, 0, len(COILS)) == COILS
    assert target.values(3, 0, len(HOLDING_REGISTERS)) == HOLDING_REGISTERS


@pytest.fixture
def master(device):
    with raw.Master(device.address) as master:
        yield master


def assert_refused(master, request, code, unit=1):
    assert master.ask(request, unit) == bytes([request[0] | 0x80, code])
    assert master.is_served()


def coils_request(address, quantity, byte_count, data):
    return struct.pack(">BHHB", 15, address, quantity, byte_count) + data


def registers_request(address, quantity, byte_count, data):
    return struct.pack(">BHHB", 16, address, quantity, byte_count) + data


@pytest.mark.parametrize(
    "request_pdu",
    [
        coils_request(0, 1968, 246, b"\xff"),  # the data that the byte count promises is not there
        coils_request(0, 1968, 1, b"\xff"),  # nor is what the quantity promises
        coils_request(0, 8, 255, b"\xff"),
        coils_request(0, 9, 1, b"\xff"),
        coils_request(0, 8, 1, b"\xff\xff"),  # more data than either says
        coils_request(0, 1969, 247, b"\xff" * 247),
        coils_request(0, 0x7D0, 250, b"\xff" * 247),
        coils_request(0, 0, 0, b""),
        coils_request(0, 0xFFFF, 0xFF, b"\xff"),
        coils_request(0, 8, 1, b""),
        b"\x0f\x00\x00\x00\x08",
    ],
    ids=bytes.hex,
)
def test_cve_2019_14462_coils_written_from_beyond_the_request(master, request_pdu):
    """libmodbus read past its buffer in function 15 when quantity, byte count and data disagreed."""
    assert_refused(master, request_pdu, ILLEGAL_VALUE)


@pytest.mark.parametrize(
    "request_pdu",
    [
        registers_request(0, 123, 246, b"\xff\xff"),
        registers_request(0, 123, 2, b"\xff\xff"),
        registers_request(0, 1, 255, b"\xff\xff"),
        registers_request(0, 2, 2, b"\xff\xff"),
        registers_request(0, 1, 2, b"\xff\xff\xff\xff"),
        registers_request(0, 1, 3, b"\xff\xff\xff"),
        registers_request(0, 124, 248, b"\xff" * 246),
        registers_request(0, 0, 0, b""),
        registers_request(0, 0xFFFF, 0xFE, b"\xff\xff"),
        registers_request(0, 1, 2, b"\xff"),
        b"\x10\x00\x00\x00\x01",
    ],
    ids=bytes.hex,
)
def test_cve_2019_14463_registers_written_from_beyond_the_request(master, request_pdu):
    """libmodbus read past its buffer in function 16 when quantity, byte count and data disagreed."""
    assert_refused(master, request_pdu, ILLEGAL_VALUE)


@pytest.mark.parametrize(
    ("read_address", "write_address"),
    [
        (SECOND_UNIT_START, 0),
        (SECOND_UNIT_START, SECOND_UNIT_START - 1),
        (SECOND_UNIT_START, SECOND_UNIT_START + 9),
        (SECOND_UNIT_START, 0xFFFF),
        (0, SECOND_UNIT_START),
        (SECOND_UNIT_START + 9, SECOND_UNIT_START),
        (0xFFFF, SECOND_UNIT_START),
    ],
)
def test_cve_2022_0367_write_below_the_start_of_the_table(device, master, read_address, write_address):
    """libmodbus checked the read range of function 23 only, and wrote before the start of a table that begins above 0."""
    request = struct.pack(">BHHHHB", 23, read_address, 2, write_address, 2, 4) + b"\xaa\xaa\xbb\xbb"
    assert_refused(master, request, ILLEGAL_ADDRESS, unit=2)
    assert device.values(3, SECOND_UNIT_START, 10, unit=2) == [7] * 10


@pytest.mark.parametrize("function_code", [1, 2])
@pytest.mark.parametrize(
    ("address", "quantity", "code"),
    [
        (0, 0, ILLEGAL_VALUE),
        (0, 2001, ILLEGAL_VALUE),
        (0, 0xFFFF, ILLEGAL_VALUE),
        (0xFFFF, 2001, ILLEGAL_VALUE),
        (1, 2000, ILLEGAL_ADDRESS),
        (1999, 2, ILLEGAL_ADDRESS),
        (0xFFFF, 1, ILLEGAL_ADDRESS),
        (0xFFFF, 2000, ILLEGAL_ADDRESS),
        (0xF830, 2000, ILLEGAL_ADDRESS),
    ],
)
def test_cve_2023_26793_bits_read_past_the_table(master, function_code, address, quantity, code):
    """libmodbus' read_io_status() ran over its buffers when asked for more bits than there are."""
    assert_refused(master, struct.pack(">BHH", function_code, address, quantity), code)


def test_cve_2024_36843_image_freed_after_writes_at_its_edges(serve):
    """libmodbus' modbus_mapping_free() met a heap that requests had damaged; here the server must stop with exit code 0 after them."""
    refused = [struct.pack(">BHHHHB", 23, 199, 1, address, 121, 242) + b"\xee" * 242 for address in (80, 199, 0xFFFF)]
    refused += [registers_request(address, 123, 246, b"\xee" * 246) for address in (78, 199, 200, 0xFFFF)]
    refused += [coils_request(address, 1968, 246, b"\xff" * 246) for address in (33, 1999, 2000, 0xFFFF)]
    allowed = [
        registers_request(77, 123, 246, struct.pack(">123H", *HOLDING_REGISTERS[77:])),
        struct.pack(">BHHHHB", 23, 199, 1, 79, 121, 242) + struct.pack(">121H", *HOLDING_REGISTERS[79:]),
        coils_request(1999, 1, 1, bytes([COILS[1999]])),
        struct.pack(">BHHB", 15, 32, 1968, 246) + int("".join(map(str, COILS[:31:-1])), 2).to_bytes(246, "little"),
    ]
    device = serve("tcp")
    with raw.Master(device.address) as master:
        for _ in range(20):
            for request in refused:
                assert master.ask(request) == bytes([request[0] | 0x80, ILLEGAL_ADDRESS])
            for request in allowed:
                assert master.ask(request)[0] == request[0]
        assert master.is_served()
    assert device.values(1, 0, len(COILS)) == COILS
    assert device.values(3, 0, len(HOLDING_REGISTERS)) == HOLDING_REGISTERS
    assert device.stop() == 0


@pytest.mark.parametrize("extra", [1, 2, 100, 246])
@pytest.mark.parametrize("request_pdu", ["05 0001 FF00", "06 0001 BEEF", "16 0004 00F2 0025"])
def test_cve_2024_10918_echo_of_an_overlong_request(master, request_pdu, extra):
    """libmodbus copied the whole request of functions 05, 06 and 22 into a shorter answer, whatever its length."""
    assert_refused(master, bytes.fromhex(request_pdu) + b"\xcc" * extra, ILLEGAL_VALUE)


@pytest.mark.parametrize("request_pdu", [b"\x07\x00", b"\x07\x00\x00", b"\x11\x00", b"\x11\x00\x00"], ids=bytes.hex)
def test_libmodbus_837_functions_without_data_get_some(master, request_pdu):
    """libmodbus took two more bytes for functions 07 and 17 than they have, and lost the frames behind them."""
    assert_refused(master, request_pdu, ILLEGAL_VALUE)


@pytest.mark.parametrize(
    "pdu",
    [
        raw.READ_ONE + b"\0\0",
        # A second, complete ADU that writes, inside the length of the first.
        raw.READ_ONE + raw.adu(bytes.fromhex("06 0001 DEAD"), transaction=2),
        raw.READ_ONE + bytes(248),
        raw.READ_ONE[:4],
        raw.READ_ONE[:1],
    ],
    ids=bytes.hex,
)
def test_libmodbus_848_mbap_length_disagrees_with_the_function(master, pdu):
    """libmodbus took the length from the function code and read the rest of the ADU as the next request. The header's length counts."""
    assert_refused(master, pdu, ILLEGAL_VALUE)


def test_libmodbus_874_bad_requests_do_not_put_the_server_to_sleep(device, master):
    """libmodbus slept half a second for each bad request, and everybody else with it: 100 s for these, longer than a test may take."""
    for _ in range(100):
        assert_refused(master, b"\x07\x00", ILLEGAL_VALUE)
        assert_refused(master, b"\x64", ILLEGAL_FUNCTION)


@pytest.mark.parametrize("length", [0, 1, 255, 256, 260, 0x7FFF, 0x8000, 0xFFFF])
def test_freemodbus_44_49_77_and_cve_2022_28613_length_field_of_the_header(device, length):
    """FreeModbus overran its buffer, and an RTU500 started anew, by an MBAP length that no ADU has: 2..254 are the lengths there are."""
    with raw.Master(device.address) as master, raw.Master(device.address) as bystander:
        master.send(raw.adu(bytes(300), length=length))
        assert master.is_closed()
        assert bystander.is_served()


def test_requests_before_a_bad_length_are_answered(device):
    """What can be trusted is served, then the connection is closed."""
    with raw.Master(device.address) as master:
        master.send(raw.adu(raw.READ_ONE, transaction=1) + raw.adu(raw.READ_ONE, transaction=2) + raw.adu(raw.READ_ONE, length=0))
        assert [master.receive()[0] for _ in range(2)] == [1, 2]
        assert master.is_closed()


def test_cve_2024_48882_crafted_packets_do_not_deny_service(device):
    """A gateway stopped serving after a series of odd TCP packets: foreign protocol ids, empty and cut-off ADUs, in bulk."""
    odd = [raw.adu(raw.READ_ONE, protocol=protocol) for protocol in (1, 0x0100, 0xFFFF)] + [raw.adu(b"\x00"), raw.adu(bytes(253))]
    with raw.Master(device.address) as bystander:
        for count in range(50):
            with raw.Master(device.address) as attacker:
                attacker.send(b"".join(odd) * 20 + raw.adu(raw.READ_ONE)[: count % 12])
                # Two ADUs of each round have the protocol id of Modbus; both are refused, the others are not answered.
                for _ in range(20):
                    assert attacker.receive()[2] == bytes([0x80, ILLEGAL_FUNCTION])
                    assert attacker.receive()[2] == bytes([0x80, ILLEGAL_FUNCTION])
            assert bystander.is_served()


def test_cve_2026_35227_connection_slots_are_given_back(device):
    """A controller kept the slots of connections that had gone, until none was left."""
    before = device.descriptors()
    for count in range(500):
        attacker = raw.Master(device.address)
        attacker.send(raw.adu(raw.READ_ONE)[: count % 13])
        if count % 2:
            attacker.reset()
        else:
            attacker.socket.close()
    with raw.Master(device.address) as master:
        assert master.is_served()
        deadline = time.monotonic() + raw.PATIENCE
        while device.descriptors() > before + 1:
            assert master.is_served()
            assert time.monotonic() < deadline


@pytest.mark.parametrize("function_code", [0, 9, 10, 13, 14, 18, 19, 25, 0x41, 0x64, 0x7F, 0x80, 0x83, 0xFF])
def test_pymodbus_2990_unknown_functions_are_named_in_the_answer(master, function_code):
    """pymodbus answered every unknown function with one constant code and no transaction id."""
    assert_refused(master, bytes([function_code, 0, 0, 0, 1]), ILLEGAL_FUNCTION)
