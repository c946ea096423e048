"""AP 6.7, 6.8: exception status, and every sub-function of diagnostics, over every framer (the fixture `connect`)."""

import pytest
from adu import block, image, master, one_unit, pdu, refused, words
from carried import malformed

from mbcore import ModbusControlBlock

COUNTERS = range(0x0B, 0x13)
READ = pdu("03 0000 0001")
ILLEGAL_ADDRESS = pdu("03 9999 0001")


@pytest.fixture
def control():
    return ModbusControlBlock()


def unit():
    return image(hr=block([5, 6]), co=block([0, 0]))


def diagnostic(sub_function, *data) -> bytes:
    return b"\x08" + words(sub_function, *data)


# 07

@pytest.mark.parametrize("status", [0, 0x6D, 0xFF])
def test_exception_status_is_what_the_application_set(connect, control, status):
    control.exception_status = status
    assert connect(unit(), control).ask(b"\x07") == bytes([7, status])  # AP 6.7: function, output data


@malformed(bytes([code]) + pdu(rest) for code in (7, 11, 12) for rest in ("01", "0000"))
def test_function_without_data_refuses_data(connect, control, request_):
    line = connect(unit(), control)
    assert line.ask_malformed(request_) == refused(request_[0], 3)


# 08, each sub-function

@pytest.mark.parametrize("data", ["A537", "0000", "FFFF"])
def test_return_query_data_is_an_echo(connect, data):
    assert connect(unit()).ask(pdu("08 0000" + data)) == pdu("08 0000" + data)  # AP 6.8


@malformed(pdu("08 0000") + bytes(range(size)) for size in (4, 6, 100, 248, 250))
def test_return_query_data_echoes_any_number_of_words(connect, request_):
    line = connect(unit())
    assert line.ask_malformed(request_) == request_


@malformed([pdu("08 0000 A5"), pdu("08 0000 A537 A5")])
def test_return_query_data_of_half_a_word_is_illegal_data_value(connect, request_):
    line = connect(unit())
    assert line.ask_malformed(request_) == refused(8, 3)


@pytest.mark.parametrize("value", [0x0000, 0xFF00])
def test_restart_communications_is_echoed(connect, value):
    assert connect(unit()).ask(diagnostic(1, value)) == diagnostic(1, value)


def test_diagnostic_register_is_what_the_application_set(connect, control):
    line = connect(unit(), control)
    control.diagnostic_register = 0xBEEF
    assert line.ask(diagnostic(2, 0)) == diagnostic(2, 0xBEEF)


def test_clear_counters_is_echoed_and_clears_the_diagnostic_register(connect, control):
    line = connect(unit(), control)
    control.diagnostic_register = 0xBEEF
    assert line.ask(diagnostic(10, 0)) == diagnostic(10, 0)
    assert line.ask(diagnostic(2, 0)) == diagnostic(2, 0)


def test_clear_overrun_counter_is_echoed_and_clears_only_that(connect, control):
    line = connect(unit(), control)
    control.Counter.BusCharacterOverrun = 3
    control.Counter.SlaveNAK = 4
    assert line.ask(diagnostic(18, 0)) == diagnostic(18, 3)
    assert line.ask(diagnostic(20, 0)) == diagnostic(20, 0)
    assert line.ask(diagnostic(18, 0)) == diagnostic(18, 0)
    assert line.ask(diagnostic(16, 0)) == diagnostic(16, 4)


@pytest.mark.parametrize("data", [0, 3])
def test_reserved_sub_function_is_illegal_function(connect, data):
    line = connect(unit())
    for sub_function in (5, 6, 7, 8, 9, 19, 21, 22, 0xFF, 0x100, 0x8000, 0xFFFF):
        assert line.ask(diagnostic(sub_function, data)) == refused(8, 1)


def test_wrong_data_of_a_sub_function_is_illegal_data_value(connect, control):
    control.diagnostic_register = 7
    line = connect(unit(), control)
    for sub_function, data in [
        (1, 1), (1, 0x00FF), (1, 0xFF01), (1, 0xFFFF), (2, 1), (3, 0x3B01), (3, 0x00FF), (4, 1), (4, 0xFF00), (10, 1), (20, 1),
        (20, 0xFF00),
        *[(sub_function, data) for sub_function in COUNTERS for data in (1, 0xFFFF)],
    ]:
        assert line.ask(diagnostic(sub_function, data)) == refused(8, 3)
    assert not control.ListenOnly
    assert control.diagnostic_register == 7
    assert control.Delimiter == ModbusControlBlock().Delimiter


@malformed(map(pdu, ["08", "08 00", "08 0001", "08 0001 00", "08 0001 0000 0000", "08 000B 0000 00", "08 0004 0000 0000"]))
def test_diagnostics_pdu_of_a_wrong_length_is_illegal_data_value(connect, control, request_):
    line = connect(unit(), control)
    assert line.ask_malformed(request_) == refused(8, 3)
    assert not control.ListenOnly


# 08/03

@pytest.mark.parametrize("line", ["ascii", "ascii-serial"])
@pytest.mark.parametrize("character", [b";", b"\x00", b"\x7f", b"z"])
def test_ascii_delimiter_replaces_the_line_feed(line, control, character):
    it = master(line, unit(), control)
    out = it.send(it.line.wrap(diagnostic(3, character[0] << 8)))
    assert it.line.unwrap(out[:-1] + b"\n")[0].pdu == diagnostic(3, character[0] << 8)
    assert control.Delimiter in (character, b"\r" + character)
    request = it.line.wrap(READ)[:-1] + character
    (answer,) = it.line.unwrap(it.send(request), b"\r" + character)
    assert answer.pdu == pdu("03 02 0005")
    assert it.send(it.line.wrap(READ)) == b"", "the line feed ends no message any more"
    if line == "ascii":
        assert it.line.unwrap(it.send(request + request), b"\r" + character) == [answer] * 2


def test_delimiter_is_of_the_server_not_of_the_connection(control):
    store = one_unit(unit())
    one, two = master("ascii", store, control), master("ascii", store, control)
    one.ask(diagnostic(3, ord(";") << 8))
    assert two.send(two.line.wrap(READ)[:-1] + b";").endswith(b"\r;")


def test_control_block_is_reset_by_the_application(control):
    it = master("socket", unit(), control)
    control.diagnostic_register = 5
    it.ask(ILLEGAL_ADDRESS)
    control.reset()
    assert control.events == b""
    assert control.Counter.BusExceptionError == 0
    assert control.diagnostic_register == 0


def test_listen_only_mode_is_the_applications_to_set(control):
    it = master("socket", unit(), control)
    control.ListenOnly = True
    assert it.ask(READ) is None
    control.ListenOnly = False
    assert it.ask(READ) == pdu("03 02 0005")


def test_a_colon_as_delimiter_is_illegal_data_value(connect):
    # it starts a frame: nothing could end one any more, nor undo it
    assert connect(unit()).ask(pdu("08 0003 3A00")) == refused(8, 3)
