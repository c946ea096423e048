"""Slave and server contexts: the application's side, files, queues, observers, and contexts of a user's own."""

import pytest
from adu import block, image, master, one_unit, pdu, refused, resident, run_python, serial_line, units, words, wrap_socket
from carried import addressed

from mbcore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext, ModbusSocketFramer
from mbcore.errors import ConfigurationError, ModbusError, NoSuchSlaveException, ParameterException, RequestError
from mbcore.session import Session

# Slave contexts

@pytest.mark.parametrize(("fx", "table"), [(1, "co"), (5, "co"), (15, "co"), (2, "di"), (3, "hr"), (6, "hr"), (16, "hr"), (22, "hr"),
                                           (23, "hr"), (4, "ir")])
def test_function_codes_name_their_table(fx, table):
    slave = image(**{name: block([0, 0]) for name in ("co", "di", "hr", "ir")} | {table: block([1, 1])})
    assert slave.getValues(fx, 0, 2) == [1, 1]
    slave.setValues(fx, 1, [0])
    assert slave.getValues(fx, 0, 2) == [1, 0]
    assert [slave.getValues(other, 0, 2) for other in (1, 2, 3, 4)].count([0, 0]) == 3


@pytest.mark.parametrize("fx", [0, 7, 99, -1, "x", None])
def test_a_function_code_without_a_table_is_the_users_error(fx):
    for attempt in (lambda slave: slave.getValues(fx, 0), lambda slave: slave.setValues(fx, 0, [1]), lambda slave: slave.validate(fx, 0)):
        with pytest.raises((ParameterException, TypeError)):
            attempt(image())


def test_block_addresses_are_one_more_than_the_wires_unless_zero_mode():
    one = ModbusSlaveContext(hr=block([11, 12, 13], address=1))
    zero = ModbusSlaveContext(hr=block([11, 12, 13], address=1), zero_mode=True)
    assert one.getValues(3, 0, 3) == [11, 12, 13]
    assert zero.getValues(3, 1, 3) == [11, 12, 13]
    assert (one.validate(3, 0, 3), one.validate(3, 0, 4), one.validate(3, 1, 3)) == (True, False, False)
    assert (zero.validate(3, 0), zero.validate(3, 1, 3)) == (False, True)
    assert master("socket", one).ask(pdu("03 0000 0003")) == pdu("03 06 000B 000C 000D")
    assert master("socket", zero).ask(pdu("03 0000 0003")) == refused(3, 2)
    assert master("socket", zero).ask(pdu("03 0001 0003")) == pdu("03 06 000B 000C 000D")


def test_the_tutorials_block_from_0_answers_from_its_second_value_without_zero_mode():
    it = master("socket", ModbusSlaveContext(hr=ModbusSequentialDataBlock(0, list(range(100)))))
    assert it.ask(pdu("03 0000 0001")) == pdu("03 02 0001")
    assert it.ask(pdu("03 0062 0001")) == pdu("03 02 0063")
    assert it.ask(pdu("03 0063 0001")) == refused(3, 2)


@pytest.mark.parametrize("zero_mode", [False, True])
@pytest.mark.parametrize("code", [1, 2, 3, 4])
def test_missing_blocks_are_zeros_for_all_65536_addresses(zero_mode, code):
    it = master("socket", ModbusSlaveContext(zero_mode=zero_mode))
    assert it.ask(bytes([code]) + words(0, 16))[2:].strip(b"\0") == b""
    assert it.ask(bytes([code]) + words(65535, 1))[2:].strip(b"\0") == b""
    assert it.ask(bytes([code]) + words(65535, 2)) == refused(code, 2)


def test_blocks_are_live_in_the_context():
    slave = image(hr=block([1]))
    it = master("socket", slave)
    slave.store["h"] = block([2, 3])
    assert it.ask(pdu("03 0000 0002")) == pdu("03 04 0002 0003")


def test_reset_of_a_context_resets_blocks_files_and_queues():
    slave = image(hr=block([1, 2]), co=block([True]), files={1: [5, 6]}, fifos={2: [7]})
    slave.setValues(3, 0, [9, 9])
    slave.setValues(1, 0, [False])
    slave.files[1][0] = 9
    slave.fifos[2].append(9)
    slave.reset()
    assert slave.getValues(3, 0, 2) == [1, 2]
    assert slave.getValues(1, 0, 1) == [True]
    assert list(slave.files[1]) == [5, 6]
    assert list(slave.fifos[2]) == [7]


def test_files_and_queues_are_live_lists():
    slave = image(files={4: [1, 2, 3]}, fifos={0x4DE: [1]})
    it = master("socket", slave)
    slave.files[4][2] = 0xBEEF
    assert it.ask(pdu("14 07 06 0004 0002 0001")) == pdu("14 04 03 06 BEEF")
    it.ask(pdu("15 09 06 0004 0000 0001 1234"))
    assert list(slave.files[4]) == [0x1234, 2, 0xBEEF]
    slave.files[9] = [7]
    assert it.ask(pdu("14 07 06 0009 0000 0001")) == pdu("14 04 03 06 0007")
    del slave.files[9]
    assert it.ask(pdu("14 07 06 0009 0000 0001")) == refused(20, 2)
    slave.fifos[0x4DE].append(3)
    slave.fifos[0x4DE].pop(0)
    assert it.ask(pdu("18 04DE")) == pdu("18 0004 0001 0003")
    slave.fifos[0x4DE].clear()
    assert it.ask(pdu("18 04DE")) == pdu("18 0002 0000")
    slave.fifos[5] = [1, 2]
    assert it.ask(pdu("18 0005")) == pdu("18 0006 0002 0001 0002")
    assert 5 in slave.fifos
    assert sorted(slave.fifos) == [5, 0x4DE]


@pytest.mark.parametrize("keywords", [{"files": {0: [1]}}, {"files": {65536: [1]}}, {"files": {1: [70000]}}, {"files": {1: ["x"]}},
                                      {"fifos": {-1: [1]}},
                                      {"fifos": {65536: [1]}}, {"fifos": {1: [-1]}}])
def test_a_file_or_queue_out_of_range_is_a_configuration_error(keywords):
    with pytest.raises(ConfigurationError):
        ModbusSlaveContext(**keywords)


def test_a_bad_record_is_a_configuration_error_and_changes_nothing():
    slave = image(files={1: [5]}, fifos={2: [6]})
    with pytest.raises(ConfigurationError):
        slave.files[1][0] = 65536
    with pytest.raises(ConfigurationError):
        slave.fifos[2].append(-1)
    with pytest.raises(ConfigurationError):
        slave.files[3] = ["x"]
    assert list(slave.files[1]) == [5]
    assert list(slave.fifos[2]) == [6]
    assert 3 not in slave.files


def test_contexts_share_nothing():
    one, two = image(), image()
    one.setValues(3, 5, [1])
    one.files[1] = [1]
    assert two.getValues(3, 5, 1) == [0]
    assert 1 not in two.files


# Server contexts

def test_single_context_answers_every_unit():
    slave = image(hr=block([5]))
    context = one_unit(slave)
    assert context.single
    assert context.slaves() == [0]
    assert all(unit in context and context[unit] is slave for unit in (0, 1, 5, 247))
    it = master("socket", context)
    assert all(it.ask(pdu("03 0000 0001"), unit) == pdu("03 02 0005") for unit in (0, 1, 17, 247, 255))


def test_units_are_told_apart():
    one, two = image(hr=block([1])), image(hr=block([2]))
    context = units(u1=one, u2=two)
    assert not context.single
    assert sorted(context.slaves()) == [1, 2]
    assert dict(iter(context)) == {1: one, 2: two}
    assert context[1] is one
    assert 2 in context
    assert 3 not in context
    with pytest.raises(NoSuchSlaveException):
        context[3]
    context[3] = image(hr=block([3]))
    it = master("socket", context)
    assert [it.ask(pdu("03 0000 0001"), unit) for unit in (1, 2, 3)] == [pdu("03 02") + words(n) for n in (1, 2, 3)]
    del context[2]
    assert it.ask(pdu("03 0000 0001"), 2) == refused(3, 0x0B)
    assert it.ask(pdu("03 0000 0001"), 3) == pdu("03 02 0003")
    assert sorted(context.slaves()) == [1, 3]


@pytest.mark.parametrize("unit", [-1, 248, 254, 256, 1 << 40])
def test_unit_ids_are_checked(unit):
    context = units(u1=image())
    with pytest.raises(NoSuchSlaveException):
        context[unit] = image()
    with pytest.raises(NoSuchSlaveException):
        ModbusServerContext(slaves={unit: image()}, single=False)
    assert unit not in context
    with pytest.raises(NoSuchSlaveException):
        context[unit]


def test_a_context_that_is_no_context_is_a_configuration_error():
    for attempt in (lambda: ModbusServerContext(slaves=5, single=True), lambda: ModbusServerContext(slaves={1: "x"}, single=False),
                    lambda: units(u1=image()).__setitem__(2, None)):
        with pytest.raises(ConfigurationError):
            attempt()


def test_default_server_context_is_one_that_answers():
    assert master("socket", ModbusServerContext()).ask(pdu("03 0000 0001")) == pdu("03 02 0000")


# Contexts of a user's own

def test_overridden_methods_of_a_context_are_called_with_the_wires_address_and_the_function_code():
    calls = []

    class Mine(ModbusSlaveContext):
        def validate(self, fx, address, count=1):
            return super().validate(fx, address, count)

        def getValues(self, fx, address, count=1):
            calls.append(("get", fx, address, count))
            return super().getValues(fx, address, count)

        def setValues(self, fx, address, values):
            calls.append(("set", fx, address, values))
            super().setValues(fx, address, values)

    it = master("socket", Mine(hr=block([1, 2, 3, 4], address=1), co=block([0, 1, 0], address=1)))
    for request, answer, expected in [
        ("03 0001 0002", "03 04 0002 0003", [("get", 3, 1, 2)]), ("06 0001 BEEF", "06 0001 BEEF", [("set", 6, 1, [0xBEEF])]),
        ("01 0000 0003", "01 01 02", [("get", 1, 0, 3)]), ("05 0000 FF00", "05 0000 FF00", [("set", 5, 0, [True])]),
        ("0F 0000 0002 01 02", "0F 0000 0002", [("set", 15, 0, [False, True])]), ("10 0000 0001 02 0007", "10 0000 0001",
                                                                                  [("set", 16, 0, [7])]),
        ("16 0000 0000 0025", "16 0000 0000 0025", [("get", 22, 0, 1), ("set", 22, 0, [0x25])]),
        ("17 0002 0001 0002 0001 02 0009", "17 02 0009", [("set", 23, 2, [9]), ("get", 23, 2, 1)]),
        ("03 0004 0001", "83 02", []), ("03 0000 0000", "83 03", []),
    ]:
        calls.clear()
        assert it.ask(pdu(request)) == pdu(answer)
        assert calls == expected


def test_a_context_that_is_not_ours_is_asked():
    class Foreign:
        def validate(self, fx, address, count=1):
            return address < 10

        def getValues(self, fx, address, count=1):
            return [address] * count

        def setValues(self, fx, address, values):
            raise RequestError(6)

    it = master("socket", Foreign())
    assert it.ask(pdu("03 0007 0002")) == pdu("03 04 0007 0007")
    assert it.ask(pdu("06 0007 0002")) == refused(6, 6)
    assert it.ask(pdu("06 000A 0002")) == refused(6, 2)


# Observers

WRITES = [
    ("05 0001 FF00", "coils", 1, [True]),
    ("05 0001 0000", "coils", 1, [False]),
    ("0F 0000 0003 01 05", "coils", 0, [True, False, True]),
    ("06 0001 BEEF", "holding_registers", 1, [0xBEEF]),
    ("10 0001 0002 04 0007 0008", "holding_registers", 1, [7, 8]),
    ("16 0001 0000 0025", "holding_registers", 1, [0x25]),
    ("17 0000 0001 0002 0001 02 1234", "holding_registers", 2, [0x1234]),
    ("15 0B 06 0004 0002 0002 1111 2222", "file_records", (4, 2), [0x1111, 0x2222]),
]


def writable():
    return image(co=block([0] * 4), hr=block([0] * 4), files={4: [0] * 4})


@addressed
@pytest.mark.parametrize(("request_", "table", "address", "values"), WRITES)
def test_an_observer_is_told_of_a_masters_write(connect, request_, table, address, values):
    calls = []
    context = units(u1=writable(), u9=writable())
    context.add_observer(lambda *call: calls.append(call))
    it = connect(context)
    assert it.ask(pdu(request_), 9)[0] == pdu(request_)[0]
    assert calls == [(9, table, address, values)]
    assert type(calls[0][3]) is list


def test_an_observer_is_told_of_each_group_of_a_file_write():
    calls = []
    context = units(u1=writable())
    context.add_observer(lambda *call: calls.append(call))
    master("socket", context).ask(pdu("15 12 06 0004 0000 0001 0001 06 0004 0003 0001 0002"))
    assert calls == [(1, "file_records", (4, 0), [1]), (1, "file_records", (4, 3), [2])]


def test_an_observer_sees_the_written_values_in_the_image():
    slave, seen = writable(), []
    context = units(u1=slave)
    context.add_observer(lambda unit, table, address, values: seen.append(context[unit].getValues(3, address, len(values)) == values))
    master("socket", context).ask(pdu("10 0001 0002 04 0007 0008"))
    assert seen == [True]


@pytest.mark.parametrize("request_", ["03 0000 0001", "01 0000 0001", "06 0004 0001", "05 0000 1234", "10 0003 0002 04 0000 0000",
                                      "08 0000 0000",
                                      "17 0004 0001 0000 0001 02 0000", "15 09 06 0004 0004 0001 0000", "14 07 06 0004 0000 0001"])
def test_reads_and_refused_writes_tell_no_observer(request_):
    calls = []
    context = units(u1=writable())
    context.add_observer(lambda *call: calls.append(call))
    master("socket", context).ask(pdu(request_))
    context[1].setValues(3, 0, [5])
    assert calls == []


def test_a_write_that_user_code_refuses_tells_no_observer():
    def refuse(self, address, values):
        raise RequestError(4)

    calls = []
    context = units(u1=image(hr=type("Refusing", (ModbusSequentialDataBlock,), {"setValues": refuse})(0, [0])))
    context.add_observer(lambda *call: calls.append(call))
    assert master("socket", context).ask(pdu("06 0000 0001")) == refused(6, 4)
    assert calls == []


def test_an_observer_that_raises_vetoes_nothing_and_is_reported():
    def fail(*call):
        raise RequestError(4)

    calls, reports = [], []
    context = units(u1=writable())
    context.add_observer(fail)
    context.add_observer(lambda *call: calls.append(call))
    it = master("socket", context, report=lambda *report: reports.append(report))
    assert it.ask(pdu("06 0001 0007")) == pdu("06 0001 0007")
    assert context[1].getValues(3, 1, 1) == [7]
    assert len(calls) == 1
    assert isinstance(reports[0][1], RequestError)


def test_a_removed_observer_is_not_called():
    calls = []
    context = units(u1=writable())

    def observer(*call):
        calls.append(call)

    context.add_observer(observer)
    context.remove_observer(observer)
    master("socket", context).ask(pdu("06 0001 0007"))
    assert calls == []
    with pytest.raises(ConfigurationError):
        context.remove_observer(observer)


def test_an_observer_may_write_into_the_image():
    context = units(u1=writable())
    context.add_observer(lambda unit, table, address, values: context[unit].setValues(3, 0, [sum(values)]))
    it = master("socket", context)
    assert it.ask(pdu("10 0001 0002 04 0007 0008")) == pdu("10 0001 0002")
    assert it.ask(pdu("03 0000 0001")) == pdu("03 02 000F")


@serial_line
def test_an_observer_is_told_of_a_broadcast_that_was_executed(line):
    calls = []
    context = units(u1=writable(), u9=writable())
    context.add_observer(lambda *call: calls.append(call))
    it = master(line, context)
    it.ask(pdu("06 9999 0007"), unit=0)
    it.ask(pdu("03 0001 0001"), unit=0)
    assert calls == [], "no unit has written anything"
    it.ask(pdu("06 0001 0007"), unit=0)
    assert calls == [(1, "holding_registers", 1, [7]), (9, "holding_registers", 1, [7])]


@pytest.mark.parametrize("observer", [None, 5, "x"])
def test_an_observer_that_cannot_be_called_is_the_users_error(observer):
    with pytest.raises((ModbusError, TypeError)):
        units(u1=writable()).add_observer(observer)


# Memory

def test_a_context_with_default_blocks_costs_at_most_600_kilobytes():
    program = "\n".join([
        "import resource", "from mbcore import ModbusSlaveContext", "first = ModbusSlaveContext()",
        "for fx in (1, 2, 3, 4): first.setValues(fx, 0, [1] * 65535)",
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss", "contexts = [ModbusSlaveContext() for _ in range(50)]",
        "for context in contexts:", "    for fx in (1, 2, 3, 4):",
        "        for start in range(0, 65000, 500): context.setValues(fx, start, [1] * 500)",
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 50)",
    ])
    kilobytes = float(run_python(program))
    assert kilobytes <= 600


def test_memory_is_given_back():
    before = resident()
    for _ in range(500):
        slave = ModbusSlaveContext(files={1: [0] * 1000}, fifos={1: [0] * 1000})
        slave.setValues(3, 0, [1] * 1000)
        slave.store["h"] = block([1] * 1000)
    # 500 of them take 3 MB, where none is given back.
    assert resident() - before < 1000


# Live views and subclasses

def test_files_may_be_updated_through_one_view():
    slave = image(files={9: [1]})
    files = slave.files
    files.update({1: [1, 2], 2: [3]})
    files[5] = [5]
    assert {number: list(records) for number, records in files.items()} == {9: [1], 1: [1, 2], 2: [3], 5: [5]}
    del files[9]
    assert sorted(slave.files) == [1, 2, 5]


def test_a_subclass_that_answers_itself_keeps_its_files_queues_and_server_id():
    class Own(ModbusSlaveContext):
        def getValues(self, fx, address, count=1):
            return [address] * count

    slave = Own(zero_mode=True, files={1: [7, 8]}, fifos={4: [1]})
    slave.reportSlaveIdData = b"abc"
    it = master("socket", slave)
    assert it.ask(pdu("03 0009 0001")) == pdu("03 02 0009")
    assert it.ask(pdu("14 07 06 0001 0000 0002")) == pdu("14 06 05 06 0007 0008")
    assert it.ask(pdu("18 0004")) == pdu("18 0004 0001 0001")
    assert it.ask(b"\x11") == pdu("11 03") + b"abc"


class Open(ModbusSlaveContext):
    """A class of Python's own, whose instances have attributes."""


class OwnBlock(ModbusSequentialDataBlock):
    def getValues(self, address, count=1):
        return super().getValues(address, count)


def test_a_subclass_that_says_which_table_a_function_acts_on_is_asked():
    class Swapped(ModbusSlaveContext):
        def decode(self, fx):
            return {"i": "h", "h": "i"}.get(key := super().decode(fx), key)

    slave = Swapped(hr=block([1, 2]), ir=block([3, 4]), zero_mode=True)
    it = master("socket", slave)
    assert it.ask(pdu("03 0000 0002")) == pdu("03 04 0003 0004")
    assert it.ask(pdu("04 0001 0001")) == pdu("04 02 0002")
    assert it.ask(pdu("06 0000 0009")) == pdu("06 0000 0009")
    assert (slave.getValues(3, 0), slave.store["i"].values[0], slave.store["h"].values[0]) == ([9], 9, 1)


def fail(*args):
    pytest.fail(f"called with {args}")


@pytest.mark.parametrize("decode", [None, lambda self, fx: "mine" if fx == 0x41 else ModbusSlaveContext.decode(self, fx)])
def test_a_subclass_that_leaves_the_tables_as_they_are_has_them_in_c(decode):
    class Mine(ModbusSlaveContext):
        pass

    if decode:
        Mine.decode = decode
    it = master("socket", Mine(hr=block([1, 2]), zero_mode=True))
    Mine.decode = Mine.validate = Mine.getValues = Mine.setValues = fail
    assert it.ask(pdu("06 0000 0009")) == pdu("06 0000 0009")
    assert it.ask(pdu("03 0000 0002")) == pdu("03 04 0009 0002")


def test_one_table_may_be_another_one_and_the_rest_stays_in_c():
    asked = []

    class Mine(ModbusSlaveContext):
        def decode(self, fx):
            asked.append(fx)
            return "h" if fx == 4 else super().decode(fx)

    it = master("socket", Mine(hr=block([1, 2]), ir=block([3, 4]), zero_mode=True))
    asked.clear()
    assert it.ask(pdu("03 0000 0002")) == pdu("03 04 0001 0002")
    assert asked == []
    assert it.ask(pdu("04 0000 0002")) == pdu("04 04 0001 0002")
    assert set(asked) == {4}


def test_a_decode_that_raises_is_a_device_failure_and_reported():
    class Broken(ModbusSlaveContext):
        def decode(self, fx):
            if fx == 3:
                raise ValueError("no")
            return super().decode(fx)

    reports = []
    context = ModbusServerContext(Broken(hr=block([1, 2]), ir=block([3, 4]), zero_mode=True))
    session = Session(ModbusSocketFramer, context, report=lambda sentence, error: reports.append(str(error)))
    assert session.receive(wrap_socket(pdu("03 0000 0002")), 1.0) == wrap_socket(refused(3, 4))
    assert session.receive(wrap_socket(pdu("04 0000 0002")), 1.0) == wrap_socket(pdu("04 04 0003 0004"))
    assert reports == ["no"]


METHODS = pytest.mark.parametrize(("name", "method", "answer"), [
    ("getValues", lambda fx, address, count=1: [fx] * count, "03 04 0003 0003"),
    ("validate", lambda fx, address, count=1: False, "83 02"),
    ("decode", lambda fx: "i", "03 04 0003 0004"),
])


@METHODS
def test_a_method_that_is_assigned_to_a_context_is_called(name, method, answer):
    slave = Open(hr=block([1, 2]), ir=block([3, 4]), zero_mode=True, files={1: [7]})
    setattr(slave, name, method)
    it = master("socket", slave)
    assert it.ask(pdu("03 0000 0002")) == pdu(answer)
    assert it.ask(pdu("14 07 06 0001 0000 0001")) == pdu("14 04 03 06 0007")


@METHODS
def test_a_method_that_is_assigned_to_a_context_at_work_is_called_for_python_blocks(name, method, answer):
    slave = Open(hr=OwnBlock(0, [1, 2]), ir=block([3, 4]), zero_mode=True)
    it = master("socket", slave)
    assert it.ask(pdu("03 0000 0002")) == pdu("03 04 0001 0002")
    setattr(slave, name, method)
    assert it.ask(pdu("03 0000 0002")) == pdu(answer)


def test_a_context_is_asked_again_when_it_is_put_again():
    slave = Open(hr=block([1, 2]), zero_mode=True)
    context = ModbusServerContext(slave)
    it = master("socket", context)
    slave.getValues = lambda fx, address, count=1: [7] * count
    assert it.ask(pdu("03 0000 0002")) == pdu("03 04 0001 0002")
    context[0] = slave
    assert it.ask(pdu("03 0000 0002")) == pdu("03 04 0007 0007")
    slave.store["h"] = block([3, 4])
    assert it.ask(pdu("03 0000 0002")) == pdu("03 04 0007 0007")
    del slave.getValues
    assert it.ask(pdu("03 0000 0002")) == pdu("03 04 0003 0004")
    context[0] = slave
    slave.getValues = fail
    assert it.ask(pdu("03 0000 0002")) == pdu("03 04 0003 0004")


def test_what_an_instance_decodes_its_own_methods_go_by():
    slave = Open(hr=block([1, 2]), ir=block([3, 4]), zero_mode=True)
    slave.decode = lambda fx: "i"
    assert slave.getValues(3, 0, 2) == [3, 4]


def test_a_subclass_may_hand_on_what_it_has_not():
    class Proxy(ModbusSlaveContext):
        __slots__ = ("_inner",)

        def __init__(self, inner):
            super().__init__(hr=inner.store["h"], zero_mode=True)
            self._inner = inner

        def __getattr__(self, name):
            return getattr(self._inner, name)

    it = master("socket", Proxy(image(hr=block([1, 2]))))
    assert it.ask(pdu("03 0000 0002")) == pdu("03 04 0001 0002")


def test_a_key_of_the_users_own_holds_what_the_user_likes():
    slave, own = image(), [1, 2, 3]
    slave.register(0x41, "cm", own)
    assert slave.store["cm"] is own
    assert slave.decode(0x41) == "cm"
    slave.reset()
    assert slave.store["cm"] is own
    with pytest.raises(ConfigurationError, match="no data block for 'h'"):
        slave.register(0x42, "h", own)


@pytest.mark.parametrize("unit_id", [-1, 248, 254, 256, 0xFFFF])
def test_a_unit_id_that_does_not_exist_is_named_before_the_context(unit_id):
    context = ModbusServerContext(single=False)
    with pytest.raises(NoSuchSlaveException, match=str(unit_id)):
        context[unit_id] = None


def test_a_public_function_code_keeps_its_table():
    with pytest.raises(ConfigurationError, match="has a table"):
        image().register(3, "own", block([5]))


def test_one_context_without_single_is_refused_with_the_way_out():
    with pytest.raises(ConfigurationError, match=r"slaves=\{1: context\}"):
        ModbusServerContext(slaves=image(), single=False)
