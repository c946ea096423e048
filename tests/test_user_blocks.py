"""Blocks of a user's own: when their methods are called, with what, and what becomes of what they return and raise."""

import gc

import pytest
from adu import image, master, pdu, refused, units, words

from mbcore import ModbusSequentialDataBlock, ModbusSlaveContext, ModbusSparseDataBlock
from mbcore.datastore import BaseModbusDataBlock
from mbcore.errors import ConfigurationError, ModbusError, ParameterException, RequestError


class Recorded:
    """Writes down what it is called with, and calls the block below."""

    def __init__(self, *args):
        super().__init__(*args)
        self.calls = []

    def validate(self, address, count=1):
        self.calls.append(("validate", address, count))
        return super().validate(address, count)

    def getValues(self, address, count=1):
        self.calls.append(("get", address, count))
        return super().getValues(address, count)

    def setValues(self, address, values):
        assert type(values) is list
        self.calls.append(("set", address, values))
        super().setValues(address, values)


class RecordedSequential(Recorded, ModbusSequentialDataBlock):
    pass


class RecordedSparse(Recorded, ModbusSparseDataBlock):
    pass


class Table(BaseModbusDataBlock):
    """A block of a user's own."""

    def __init__(self):
        self.cells = {n: n for n in range(1, 9)}

    def validate(self, address, count=1):
        return all(n in self.cells for n in range(address, address + count))

    def getValues(self, address, count=1):
        return [self.cells[n] for n in range(address, address + count)]

    def setValues(self, address, values):
        for n, value in enumerate(values):
            self.cells[address + n] = value


class RecordedTable(Recorded, Table):
    pass


BLOCKS = pytest.mark.parametrize("make", [
    lambda: RecordedSequential(1, [1, 2, 3, 4, 5, 6, 7, 8]), lambda: RecordedSparse({n: n for n in range(1, 9)}), RecordedTable,
], ids=["sequential", "sparse", "bare"])

# request at the wire address of the block's address 3 ({a}) and 4 ({b}), answer, what is validated, what is called after that
REGISTER_CALLS = [
    ("03 {a} 0002", "03 04 0003 0004", [(3, 2)], [("get", 3, 2)]),
    ("06 {a} BEEF", "06 {a} BEEF", [(3, 1)], [("set", 3, [0xBEEF])]),
    ("10 {a} 0002 04 0009 000A", "10 {a} 0002", [(3, 2)], [("set", 3, [9, 10])]),
    ("16 {a} 0000 0025", "16 {a} 0000 0025", [(3, 1)], [("get", 3, 1), ("set", 3, [0x25])]),
    ("17 {a} 0002 {b} 0001 02 BEEF", "17 04 0003 BEEF", [(3, 2), (4, 1)], [("set", 4, [0xBEEF]), ("get", 3, 2)]),
]
COIL_CALLS = [
    ("01 {a} 0002", "01 01 03", [(3, 2)], [("get", 3, 2)]),
    ("05 {a} FF00", "05 {a} FF00", [(3, 1)], [("set", 3, [True])]),
    ("05 {a} 0000", "05 {a} 0000", [(3, 1)], [("set", 3, [False])]),
    ("0F {a} 0003 01 FD", "0F {a} 0003", [(3, 3)], [("set", 3, [True, False, True])]),
]


@BLOCKS
@pytest.mark.parametrize(("table", "request_", "answer", "validated", "called"),
                         [("hr", *calls) for calls in REGISTER_CALLS] + [("co", *calls) for calls in COIL_CALLS])
@pytest.mark.parametrize(("zero_mode", "wire"), [(False, {"a": "0002", "b": "0003"}), (True, {"a": "0003", "b": "0004"})])
def test_overridden_methods_are_called_as_a_master_reads_and_writes(make, table, request_, answer, validated, called, zero_mode, wire):
    block = make()
    it = master("socket", ModbusSlaveContext(**{table: block}, zero_mode=zero_mode))
    block.calls.clear()
    assert it.ask(pdu(request_.format(**wire))) == pdu(answer.format(**wire))
    validations = [call for call in block.calls if call[0] == "validate"]
    assert sorted(validations) == [("validate", *each) for each in validated]
    assert block.calls == validations + called, "everything is validated before anything is done"


@BLOCKS
@pytest.mark.parametrize("request_", ["03 0008 0001", "03 0006 0003", "06 0008 0001", "10 0007 0002 04 0000 0000",
                                      "17 0000 0001 0008 0001 02 0000",
                                      "17 0008 0001 0000 0001 02 0000", "16 0008 0000 0000"])
def test_a_refused_request_reads_and_writes_nothing(make, request_):
    block = make()
    it = master("socket", ModbusSlaveContext(hr=block))
    assert it.ask(pdu(request_)) == refused(pdu(request_)[0], 2)
    assert all(call[0] == "validate" for call in block.calls)


@BLOCKS
def test_illegal_values_never_reach_user_code(make):
    block = make()
    it = master("socket", ModbusSlaveContext(hr=block, co=block))
    for request in ("03 0000 0000", "03 0000 007E", "05 0000 1234", "10 0000 0002 02 0000", "17 0000 0000 0000 0001 02 0000"):
        assert it.ask(pdu(request)) == refused(pdu(request)[0], 3)
    assert block.calls == []


def test_a_method_that_is_assigned_to_the_instance_is_called():
    class Open(ModbusSequentialDataBlock):
        pass  # a class of Python's own has instance attributes

    block = Open(0, [1, 2])
    block.getValues = lambda address, count=1: [9] * count
    assert master("socket", image(hr=block)).ask(pdu("03 0000 0002")) == pdu("03 04 0009 0009")


def test_one_overridden_method_leaves_the_others_to_the_block():
    class Doubling(ModbusSequentialDataBlock):
        def setValues(self, address, values):
            super().setValues(address, [2 * value for value in values])

    it = master("socket", image(hr=Doubling(0, [0] * 3)))
    assert it.ask(pdu("10 0001 0002 04 0003 0004")) == pdu("10 0001 0002")
    assert it.ask(pdu("03 0000 0003")) == pdu("03 06 0000 0006 0008")
    assert it.ask(pdu("06 0003 0001")) == refused(6, 2)


@pytest.mark.parametrize("method", ["validate", "getValues", "setValues"])
@pytest.mark.parametrize(("raised", "code"), [(RequestError(6), 6), (RequestError(2), 2), (RequestError(1), 1), (ValueError("broken"), 4),
                                              (KeyError(3), 4),
                                              (ModbusError("?"), 4), (ConfigurationError("?"), 4), (ParameterException("?"), 4)])
def test_what_user_code_raises_is_answered_and_reported(method, raised, code):
    def fail(self, *args):
        raise raised

    reports = []
    block = type("Failing", (ModbusSequentialDataBlock,), {method: fail})(0, [1, 2])
    it = master("socket", image(hr=block), report=lambda message, error: reports.append((message, error)))
    request = pdu("06 0000 0009") if method == "setValues" else pdu("03 0000 0001")
    assert it.ask(request) == refused(request[0], code)
    if not isinstance(raised, RequestError):
        ((message, error),) = reports
        assert error is raised
        assert isinstance(message, str)
        assert error.__traceback__ is not None
    if method == "setValues":
        assert it.ask(pdu("03 0000 0001")) == pdu("03 02 0001")


NO_LIST = [None, [], [1], 5, object()]
NO_REGISTERS = [[70000, 1], [-1, 1], ["x", 1], [None, None], "xx", [1.5, 2], [1 << 70, 1]]


@pytest.mark.parametrize(("table", "returned"), [*[("co", each) for each in NO_LIST], *[("hr", each) for each in NO_LIST + NO_REGISTERS]])
def test_a_wrong_return_of_get_values_is_a_device_failure_and_reported(table, returned):
    reports = []
    block = type("Wrong", (ModbusSequentialDataBlock,), {"getValues": lambda *_: returned})(0, [1, 2, 3])
    it = master("socket", image(**{table: block}), report=lambda *args: reports.append(args))
    code = {"hr": 3, "co": 1}[table]
    assert it.ask(bytes([code]) + words(0, 2)) == refused(code, 4)
    assert len(reports) == 1


def test_a_block_of_your_own_has_values_address_and_default_to_keep():
    block, other = BaseModbusDataBlock(), BaseModbusDataBlock()
    assert (block.values, block.address, block.default_value, list(block)) == ([], 0, 0, [])
    block.default(3, True)
    assert (block.values, block.address, block.default_value) == ([True] * 3, 0, True)
    block.values[1] = False
    block.address = 10
    assert list(block) == [(10, True), (11, False), (12, True)]
    block.default_value = 7
    block.reset()
    assert block.values == [7, 7, 7]
    block.values = {4: 1, 9: 2}
    assert list(block) == [(4, 1), (9, 2)]
    assert str(block) == "BaseModbusDataBlock(2 values from address 10)"
    assert other.values == []


def test_a_block_of_your_own_may_have_other_ideas_of_its_values():
    class Own(BaseModbusDataBlock):
        values = (1, 2)

        @property
        def address(self):
            return 5

    assert list(Own()) == [(5, 1), (6, 2)]


def test_a_bare_block_that_overrides_nothing_is_a_device_failure():
    class Nothing(BaseModbusDataBlock):
        pass

    it = master("socket", image(hr=Nothing()))
    assert it.ask(pdu("03 0000 0001")) == refused(3, 4)
    assert it.ask(pdu("06 0000 0001")) == refused(6, 4)


def test_an_exception_without_a_report_is_still_answered():
    block = type("Failing", (ModbusSequentialDataBlock,), {"getValues": lambda *_: 1 // 0})(0, [1])
    assert master("socket", image(hr=block)).ask(pdu("03 0000 0001")) == refused(3, 4)


def test_user_code_may_use_the_image():
    class Mirror(ModbusSequentialDataBlock):
        def setValues(self, address, values):
            super().setValues(address, values)
            slave.setValues(4, address, [value + 1 for value in values])
            assert slave.getValues(4, address, len(values))

    slave = image(hr=Mirror(0, [0] * 4), ir=ModbusSequentialDataBlock(0, [0] * 4))
    it = master("socket", slave)
    assert it.ask(pdu("06 0002 0007")) == pdu("06 0002 0007")
    assert it.ask(pdu("04 0002 0001")) == pdu("04 02 0008")


def test_requests_around_one_that_needs_python_are_answered_in_order():
    slave = image(hr=type("Mine", (ModbusSequentialDataBlock,), {"getValues": lambda self, address, count=1: [7] * count})(0, [1, 2]),
                  ir=ModbusSequentialDataBlock(0, [1, 2]))
    it = master("socket", slave)
    requests = [pdu("04 0000 0001"), pdu("03 0000 0001"), pdu("06 0000 0005"), pdu("04 0001 0001"), pdu("03 0000 0002")]
    out = it.send(b"".join(it.line.wrap(request, 1, n) for n, request in enumerate(requests)))
    assert [(adu.transaction, adu.pdu) for adu in it.line.unwrap(out)] == list(enumerate(
        [pdu("04 02 0001"), pdu("03 02 0007"), pdu("06 0000 0005"), pdu("04 02 0002"), pdu("03 04 0007 0007")]))


@pytest.mark.parametrize("method", ["validate", "getValues", "setValues"])
@pytest.mark.parametrize("request_", ["03 0000 0064", "06 0000 0001", "10 0000 0002 04 0001 0002", "16 0000 0000 0000",
                                      "17 0000 0064 0000 0001 02 0001"])
def test_user_code_may_take_away_what_it_is_asked_about(method, request_):
    def take_away(self, *args):
        self.values = [9]
        context[1].store["h"] = ModbusSequentialDataBlock(0, [9])
        context[2] = image()
        if 1 in context:
            del context[1]
        gc.collect()
        return getattr(ModbusSequentialDataBlock, method)(self, *args)

    context = units(u1=image(hr=type("Leaving", (ModbusSequentialDataBlock,), {method: take_away})(0, [0] * 100)), u2=image())
    it = master("socket", context, report=lambda *report: None)
    answer = it.ask(pdu(request_))
    assert answer[0] & 0x7F == pdu(request_)[0]
    assert it.ask(pdu("03 0000 0001"), unit=2) == pdu("03 02 0000")


def test_user_code_that_raises_in_bool_or_int_is_a_device_failure():
    class Bad:
        def __bool__(self):
            raise ValueError("no truth value")

        def __index__(self):
            raise ValueError("no number")

    for table, code in (("hr", 3), ("co", 1)):
        for method, returned in (("getValues", [Bad()]), ("validate", Bad()), ("getValues", Bad())):
            block = type("Odd", (ModbusSequentialDataBlock,), {method: lambda *_, returned=returned: returned})(0, [1])
            assert master("socket", image(**{table: block})).ask(bytes([code]) + words(0, 1)) == refused(code, 4)


def test_exit_and_interrupt_of_user_code_are_not_swallowed_silently():
    reports = []

    def leave(self, *args):
        raise SystemExit("the application ends")

    block = type("Leaving", (ModbusSequentialDataBlock,), {"getValues": leave})(0, [1])
    it = master("socket", image(hr=block), report=lambda *report: reports.append(report))
    assert it.ask(pdu("03 0000 0001")) == refused(3, 4)
    [(sentence, error)] = reports
    assert isinstance(error, SystemExit)
    assert "a data block failed at function 3, address 0" in sentence


@pytest.mark.parametrize("code", [0, -1, 256, 1000])
def test_an_exception_code_that_is_none_is_the_users_error(code):
    with pytest.raises(ConfigurationError):
        RequestError(code)
