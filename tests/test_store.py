"""Data blocks: what the application reads and writes, what user blocks are called with, and that both sides see whole values."""

import sys
import threading

import pytest
from adu import image, master, pdu, refused, run_python, units, words

from mbcore import ModbusSequentialDataBlock, ModbusSparseDataBlock
from mbcore.errors import ConfigurationError, ParameterException

BAD_VALUES = [-1, 65536, 70000, 1 << 40, -(1 << 70), 1 << 70, None, "x", 1.5, [1], b"1"]


class Number(int):
    """A number that is no plain int."""


# Sequential blocks

def test_values_lie_from_the_address_on():
    block = ModbusSequentialDataBlock(10, [1, 2, 3])
    assert block.address == 10
    assert block.values == [1, 2, 3]
    assert block.getValues(10, 3) == [1, 2, 3]
    assert block.getValues(11) == [2]
    assert list(block) == [(10, 1), (11, 2), (12, 3)]


@pytest.mark.parametrize("values", [[1, 2, 3], (1, 2, 3), range(1, 4), iter([1, 2, 3]), bytearray(b"\1\2\3"),
                                    {1: "a", 2: "b", 3: "c"}.keys()])
def test_any_iterable_makes_a_block(values):
    assert ModbusSequentialDataBlock(0, values).values == [1, 2, 3]


@pytest.mark.parametrize("value", [7, True])
def test_a_scalar_makes_a_block_of_one(value):
    assert ModbusSequentialDataBlock(5, value).getValues(5, 1) == [value]


@pytest.mark.parametrize(("address", "count", "valid"), [
    (10, 1, True), (10, 3, True), (12, 1, True), (9, 1, False), (9, 2, False), (10, 4, False), (12, 2, False), (13, 1, False),
    (0, 0xFFFF, False),
    (65535, 1, False), (1 << 33, 1, False), (10, 1 << 33, False), (-1, 1, False), (-(1 << 40), 1 << 41, False),
    (1 << 80, 1, False), (10, 1 << 80, False), (11, 0, True), (11, -1, False), (Number(11), 2, True), (11, Number(3), False),
    (11, Number(-1), False),
])
def test_validate_of_a_sequential_block(address, count, valid):
    assert ModbusSequentialDataBlock(10, [1, 2, 3]).validate(address, count) is valid


def test_validate_asks_for_one_address_by_default():
    assert ModbusSequentialDataBlock(10, [1]).validate(10)
    assert not ModbusSequentialDataBlock(10, [1]).validate(11)


@pytest.mark.parametrize("count", [1, 127, 128, 129, 200, 65536])
def test_as_many_values_are_read_as_are_asked_for(count):
    values = [n * 40503 & 0xFFFF for n in range(65536)]
    for made in (ModbusSequentialDataBlock(1, values), ModbusSparseDataBlock(dict(enumerate(values, 1)))):
        assert made.getValues(1, count) == values[:count]


@pytest.mark.parametrize("values", [[8, 9], (8, 9), iter((8, 9)), range(8, 10)])
def test_set_values_takes_any_iterable(values):
    block = ModbusSequentialDataBlock(10, [1, 2, 3])
    block.setValues(11, values)
    assert block.values == [1, 8, 9]


def test_set_values_takes_a_scalar():
    block = ModbusSequentialDataBlock(10, [1, 2, 3])
    block.setValues(11, 65535)
    assert block.values == [1, 65535, 3]


@pytest.mark.parametrize(("address", "values"), [(9, [7]), (9, [7, 7]), (12, [7, 7]), (13, [7]), (10, [7] * 4), (-1, [7]), (1 << 40, [7])])
def test_set_values_outside_of_the_block_is_the_users_error_and_changes_nothing(address, values):
    block = ModbusSequentialDataBlock(10, [1, 2, 3])
    with pytest.raises(ParameterException):
        block.setValues(address, values)
    assert block.values == [1, 2, 3]


@pytest.mark.parametrize(("address", "count"), [
    (9, 1), (10, 4), (13, 1), (-1, 1), (1 << 40, 1), (10, 1 << 40), (1 << 80, 1), (10, -1), (Number(9), 1), (10, Number(4)),
])
def test_get_values_outside_of_the_block_is_the_users_error(address, count):
    with pytest.raises(ParameterException):
        ModbusSequentialDataBlock(10, [1, 2, 3]).getValues(address, count)


@pytest.mark.parametrize("bad", BAD_VALUES)
def test_a_value_that_is_no_16_bit_number_is_a_configuration_error_that_names_it(bad):
    named = repr(bad) if not isinstance(bad, (list, bytes)) else ""
    block = ModbusSequentialDataBlock(0, [1, 2, 3])
    for attempt in (lambda: ModbusSequentialDataBlock(0, [1, bad]), lambda: block.setValues(0, [9, bad]),
                    lambda: setattr(block, "values", [9, bad]),
                    lambda: block.values.__setitem__(1, bad), lambda: ModbusSparseDataBlock({0: 1, 1: [2, bad]}),
                    lambda: ModbusSparseDataBlock([bad])):
        with pytest.raises(ConfigurationError) as refusal:
            attempt()
        assert isinstance(refusal.value, ValueError)
        assert named in str(refusal.value)
        assert block.values == [1, 2, 3], "all or nothing"


@pytest.mark.parametrize("address", [-1, 65537, 1 << 40, "x", None, 1.5])
def test_an_address_out_of_range_is_a_configuration_error(address):
    with pytest.raises(ConfigurationError):
        ModbusSequentialDataBlock(address, [1])


def test_values_are_live():
    block = ModbusSequentialDataBlock(0, [1, 2, 3])
    it = master("socket", image(hr=block))
    block.values[1] = 9
    assert it.ask(pdu("03 0000 0003")) == pdu("03 06 0001 0009 0003")
    block.values[0:2] = [7, 8]
    assert it.ask(pdu("03 0000 0003")) == pdu("03 06 0007 0008 0003")
    block.values = [4, 5]
    assert it.ask(pdu("03 0000 0002")) == pdu("03 04 0004 0005")
    assert it.ask(pdu("03 0000 0003")) == refused(3, 2)
    assert it.ask(pdu("06 0001 00FF")) == pdu("06 0001 00FF")
    assert block.values == [4, 255]
    assert block.values[-1] == 255


def test_address_is_live():
    block = ModbusSequentialDataBlock(0, [1, 2, 3])
    it = master("socket", image(hr=block))
    block.address = 100
    assert it.ask(pdu("03 0000 0003")) == refused(3, 2)
    assert it.ask(pdu("03 0064 0003")) == pdu("03 06 0001 0002 0003")


def test_reset_goes_back_to_the_initial_values():
    block = ModbusSequentialDataBlock(0, [1, 2, 3])
    block.setValues(0, [9, 9, 9])
    block.reset()
    assert block.values == [1, 2, 3]


def test_reset_goes_to_an_assigned_default_value():
    block = ModbusSequentialDataBlock(0, [1, 2, 3])
    block.default_value = 5
    block.reset()
    assert block.values == [5, 5, 5]


def test_default_makes_a_block_of_one_value_from_0():
    block = ModbusSequentialDataBlock(10, [1, 2, 3])
    block.default(4, 7)
    assert (block.address, block.values, block.default_value) == (0, [7] * 4, 7)


def test_create_makes_65536_zeros():
    block = ModbusSequentialDataBlock.create()
    assert block.validate(0, 65536)
    assert not block.validate(0, 65537)
    assert block.getValues(0, 65536) == [0] * 65536


def test_str_of_blocks_says_what_they_hold():
    assert str(ModbusSequentialDataBlock(0, [1])) == "ModbusSequentialDataBlock(1 values from address 0)"
    assert str(ModbusSparseDataBlock({5: 1})) == "ModbusSparseDataBlock(1 values from address 5)"


# Sparse blocks

def test_sparse_values_lie_at_their_addresses():
    block = ModbusSparseDataBlock({5: 50, 10: [100, 110], 65535: 1})
    assert dict(block.values) == {5: 50, 10: 100, 11: 110, 65535: 1}
    assert block.getValues(10, 2) == [100, 110]
    assert block.address == 5
    assert sorted(block) == [(5, 50), (10, 100), (11, 110), (65535, 1)]


def test_sparse_block_of_a_list_starts_at_0():
    assert dict(ModbusSparseDataBlock([7, 8]).values) == {0: 7, 1: 8}


@pytest.mark.parametrize(("address", "count", "valid"), [
    (5, 1, True), (10, 2, True), (5, 2, False), (9, 2, False), (10, 3, False), (6, 1, False), (5, 0, False), (65535, 1, True),
    (65535, 2, False),
    (-1, 1, False), (1 << 40, 1, False), (5, 1 << 40, False),
])
def test_validate_of_a_sparse_block(address, count, valid):
    assert ModbusSparseDataBlock({5: 50, 10: [100, 110], 65535: 1}).validate(address, count) is valid


def test_a_master_reads_and_writes_only_existing_addresses():
    block = ModbusSparseDataBlock({5: 50, 10: [100, 110]})
    it = master("socket", image(hr=block))
    assert it.ask(pdu("03 000A 0002")) == pdu("03 04 0064 006E")
    assert it.ask(pdu("10 000A 0002 04 0001 0002")) == pdu("10 000A 0002")
    for request in (pdu("03 0009 0002"), pdu("03 0006 0001"), pdu("06 0006 0001"), pdu("10 000B 0002 04 0009 0009"),
                    pdu("10 0004 0002 04 0009 0009")):
        assert it.ask(request) == refused(request[0], 2)
    assert dict(block.values) == {5: 50, 10: 1, 11: 2}


def test_the_application_may_add_addresses_to_a_mutable_sparse_block():
    block = ModbusSparseDataBlock({5: 50})
    it = master("socket", image(hr=block))
    block.setValues(6, [60, 70])
    block.values[100] = 3
    block.setValues(0, {200: 1, 300: [2, 3]})
    assert it.ask(pdu("03 0005 0003")) == pdu("03 06 0032 003C 0046")
    assert it.ask(pdu("03 0064 0001")) == pdu("03 02 0003")
    assert it.ask(pdu("03 012C 0002")) == pdu("03 04 0002 0003")
    del block.values[6]
    assert it.ask(pdu("03 0005 0003")) == refused(3, 2)


def test_an_immutable_sparse_block_takes_no_new_addresses():
    block = ModbusSparseDataBlock({5: 50}, mutable=False)
    with pytest.raises(ParameterException):
        block.setValues(5, [1, 2])
    assert dict(block.values) == {5: 50}
    block.setValues(5, [1])
    assert dict(block.values) == {5: 1}


def test_sparse_reset_goes_back_to_the_initial_values():
    block = ModbusSparseDataBlock({5: 50, 7: 70})
    block.setValues(5, [1, 2, 3])
    block.reset()
    assert dict(block.values) == {5: 50, 7: 70}
    block.setValues(5, 9, use_as_default=True)
    block.setValues(5, 1)
    block.reset()
    assert dict(block.values) == {5: 9, 7: 70}


def test_sparse_values_can_be_replaced():
    block = ModbusSparseDataBlock({5: 50})
    it = master("socket", image(hr=block))
    block.values = {1: 10, 2: 20}
    assert it.ask(pdu("03 0001 0002")) == pdu("03 04 000A 0014")
    assert it.ask(pdu("03 0005 0001")) == refused(3, 2)


def test_empty_sparse_block_has_no_address():
    block = ModbusSparseDataBlock({})
    assert block.address is None
    assert master("socket", image(hr=block)).ask(pdu("03 0000 0001")) == refused(3, 2)


def test_coils_and_registers_of_one_block_are_the_same_values():
    block = ModbusSequentialDataBlock(0, [0] * 4)
    it = master("socket", image(hr=block, co=block))
    assert it.ask(pdu("05 0001 FF00")) == pdu("05 0001 FF00")
    assert it.ask(pdu("03 0000 0004")) == pdu("03 08 0000 0001 0000 0000")
    block.setValues(2, 300)
    assert it.ask(pdu("01 0000 0004")) == pdu("01 01 06")


# One image, many threads

@pytest.fixture
def quick_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("make", [lambda: ModbusSequentialDataBlock(0, [0] * 125), lambda: ModbusSparseDataBlock([0] * 125)])
@pytest.mark.usefixtures("quick_switches")
def test_a_master_never_reads_a_torn_set(make):
    block = make()
    slave = image(hr=block)
    stop = threading.Event()

    def write():
        n = 0
        while not stop.is_set():
            n = n + 1 & 0xFFFF
            slave.setValues(3, 0, [n] * 125)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        it = master("socket", slave)
        seen = set()
        for _ in range(3000):
            answer = it.ask(pdu("03 0000 007D"))
            assert answer[2:] == answer[2:4] * 125
            seen.add(answer[2:4])
        assert len(seen) > 1, "the writers had their turns"
    finally:
        stop.set()
        for writer in writers:
            writer.join()


@pytest.mark.usefixtures("quick_switches")
def test_the_application_never_reads_a_torn_write_of_a_master():
    slave = image(hr=ModbusSequentialDataBlock(0, [0] * 123))
    stop = threading.Event()

    def ask():
        it, n = master("socket", slave), 0
        while not stop.is_set():
            n = n + 1 & 0xFFFF
            assert it.ask(pdu("10 0000 007B F6") + words(n) * 123) == pdu("10 0000 007B")

    masters = [threading.Thread(target=ask) for _ in range(2)]
    for thread in masters:
        thread.start()
    try:
        seen = set()
        for _ in range(3000):
            values = set(slave.getValues(3, 0, 123))
            assert len(values) == 1
            seen |= values
        assert len(seen) > 1, "the masters had their turns"
    finally:
        stop.set()
        for thread in masters:
            thread.join()


@pytest.mark.usefixtures("quick_switches")
def test_mask_writes_of_two_masters_lose_nothing():
    slave = image(hr=ModbusSequentialDataBlock(0, [0]))

    def toggle(bit):
        it = master("socket", slave)
        for n in range(2001):
            assert it.ask(b"\x16" + words(0, 0xFFFF ^ 1 << bit, (n + 1) % 2 << bit))[0] == 22

    threads = [threading.Thread(target=toggle, args=(bit,)) for bit in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert slave.getValues(3, 0, 1) == [0b1111]


FORKS = """
import os, signal, threading
from mbcore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from mbcore.framer import ModbusSocketFramer
from mbcore.session import Session

slave = ModbusSlaveContext(hr=ModbusSequentialDataBlock(0, [0] * 123), zero_mode=True)
stop = threading.Event()

def write():
    session = Session(ModbusSocketFramer, ModbusServerContext(slaves=slave, single=True))
    request = bytes.fromhex("0001 0000 00FD 01 10 0000 007B F6") + bytes(246)
    while not stop.is_set():
        session.receive(64 * request)

threads = [threading.Thread(target=write) for _ in range(2)]
for thread in threads:
    thread.start()
outcomes = set()
for _ in range(40):
    child = os.fork()
    if not child:
        signal.alarm(30)
        os._exit(len(set(slave.getValues(3, 0, 123))))
    outcomes.add(os.waitpid(child, 0)[1])
stop.set()
for thread in threads:
    thread.join()
print(outcomes)
"""


def test_a_forked_child_has_a_free_lock_and_a_whole_image():
    assert run_python(FORKS) == "{256}\n"


# A master's acknowledged write stays, whatever the application is in the middle of

class Meddler:
    """A number for which a master writes address 0 whenever Python looks at it, so in the middle of what the application has called."""

    def __init__(self, number, slave, request="06 0000"):
        self.number, self.master, self.request, self.written = number, master("socket", slave), pdu(request), 0

    def __index__(self):
        self.written += 1
        assert not self.master.ask(self.request + words(self.written))[0] & 0x80
        return self.number


class MeddlingInt(int):
    """Likewise, as an int, which a dict's key is."""

    def by(self, meddler):
        self.meddler = meddler
        return self

    def look(self):
        return self.meddler.__index__()

    def __hash__(self):
        return hash(self.look())

    def __ge__(self, other):
        return self.look() >= other

    def __lt__(self, other):
        return self.look() < other


@pytest.mark.parametrize("request_", ["06 0000", "15 09 06 0001 0000 0001"], ids=["register", "record"])
@pytest.mark.parametrize(("change", "after"), [
    (lambda values, three: values.append(three), [1, 2, 3, 4, 5, 3]),
    (lambda values, three: values.insert(2, three), [1, 3, 2, 3, 4, 5]),
    (lambda values, three: values.insert(three, 9), [1, 2, 9, 3, 4, 5]),
    (lambda values, three: values.extend([8, three]), [1, 2, 3, 4, 5, 8, 3]),
    (lambda values, three: values.__setitem__(slice(1, 3), [three]), [3, 3, 4, 5]),
    (lambda values, three: values.__setitem__(slice(1, three), [7]), [7, 3, 4, 5]),
    (lambda values, three: values.__setitem__(slice(4, three), [8, three]), [1, 2, 3, 8, 3, 4, 5]),
    (lambda values, three: values.__delitem__(three), [1, 2, 4, 5]),
    (lambda values, three: values.__delitem__(slice(1, three)), [3, 4, 5]),
    (lambda values, three: values.__delitem__(slice(1, None, three)), [2, 3, 5]),
    (lambda values, three: values.__delitem__(slice(None, three, -2)), [1, 2, 3, 4]),
], ids=range(11))
def test_a_list_that_grows_or_shrinks_undoes_no_masters_write(change, after, request_):
    block = ModbusSequentialDataBlock(0, [0, 1, 2, 3, 4, 5])
    three = Meddler(3, image(hr=block, files={1: block}), request_)
    change(block.values, three)
    assert three.written, "a master has written meanwhile"
    assert block.values == [three.written, *after]


@pytest.mark.parametrize(("change", "after"), [
    (lambda block, five: block.setValues(9, [five]), {5: 50, 9: 5}),
    (lambda block, five: block.setValues(five, [51, 60]), {5: 51, 6: 60}),
    (lambda block, five: block.setValues(0, {five: [51, 60], 9: five}), {5: 51, 6: 60, 9: 5}),
    (lambda block, five: block.values.__setitem__(9, five), {5: 50, 9: 5}),
    (lambda block, five: block.values.update({9: 90, 3: five}), {3: 5, 5: 50, 9: 90}),
    (lambda block, five: block.values.__delitem__(five), {}),
    (lambda block, five: block.values.pop(five), {}),
], ids=range(7))
def test_a_dict_that_grows_or_shrinks_undoes_no_masters_write(change, after):
    block = ModbusSparseDataBlock({0: 0, 5: 50})
    meddler = Meddler(5, image(hr=block))
    change(block, MeddlingInt(5).by(meddler))
    assert meddler.written, "a master has written meanwhile"
    assert dict(block.values) == {0: meddler.written, **after}


def test_a_value_is_put_before_a_number_and_nothing_else():
    block = ModbusSequentialDataBlock(0, [1, 2, 3])
    with pytest.raises(TypeError):
        block.values.insert(None, 9)
    assert block.getValues(0, 3) == [1, 2, 3]


def test_a_list_that_another_has_shortened_meanwhile_ends_where_it_ends():
    block = ModbusSequentialDataBlock(0, [0, 1, 2, 3])

    class Shortens:
        def __index__(self):
            del block.values[2:]
            return 9

    block.values.insert(4, Shortens())
    assert block.values == [0, 1, 9]
    block.values[0:2] = [7, Shortens(), 8]
    assert block.values == [7, 9, 8]


def test_blocks_shared_by_units_are_one():
    block = ModbusSequentialDataBlock(0, [0] * 4)
    it = master("socket", units(u1=image(hr=block), u2=image(hr=block)))
    it.ask(pdu("06 0002 0007"), unit=1)
    assert it.ask(pdu("03 0002 0001"), unit=2) == pdu("03 02 0007")


@pytest.mark.usefixtures("quick_switches")
def test_the_image_may_be_rebuilt_while_masters_use_it():
    context = units(u1=image(files={1: [1]}, fifos={1: [1]}), u2=image())
    stop = threading.Event()
    requests = [pdu("03 0000 007D"), pdu("10 0000 0002 04 0001 0002"), pdu("01 0000 07D0"), pdu("14 07 06 0001 0000 0001"), pdu("18 0001"),
                pdu("15 09 06 0001 0000 0001 0001"), pdu("17 0000 0002 0000 0001 02 0001"), pdu("16 0000 0000 0000")]
    answers = []

    def ask():
        it = master("socket", context)
        while not stop.is_set():
            for unit in (1, 2):
                for request in requests:
                    answer = it.ask(request, unit)
                    if answer[0] & 0x80:
                        assert answer[1] in (2, 3, 0x0B)
                    answers.append(answer[0])

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for n in range(300):
            slave = context[1]
            slave.store["h"] = ModbusSequentialDataBlock(0, [n] * (n % 200 + 1))
            slave.store["h"].values = [n] * (200 - n % 200)
            slave.store["c"] = ModbusSparseDataBlock({n: n, n + 1: [1] * 50})
            slave.store["h"].address = n % 3
            slave.files = {1: [n] * (n % 5 + 1), n + 2: [n]}
            slave.fifos[1] = [n] * (n % 40)
            del slave.files[n + 2]
            context[1] = image(files={1: [1]}, fifos={1: [1]})
            if 2 in context:
                del context[2]
            else:
                context[2] = image(hr=ModbusSparseDataBlock([n] * 125))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(answers) > len(requests)


class Treacherous:
    """Compares like a number, and raises when it is asked for one."""

    def __le__(self, other):
        return True

    __lt__ = __ge__ = __gt__ = __le__

    def __add__(self, other):
        return self

    def __index__(self):
        raise ValueError("not now")


@pytest.mark.parametrize("make", [lambda: ModbusSequentialDataBlock(0, [1, 2]), lambda: ModbusSparseDataBlock({0: 1, 1: 2})])
def test_a_number_that_raises_leaves_the_image_unlocked(make):
    it = make()
    for call in (lambda: it.getValues(Treacherous(), 1), lambda: it.getValues(0, Treacherous()), lambda: it.setValues(Treacherous(), [1])):
        with pytest.raises(ValueError, match="not now"):
            call()
    assert it.getValues(0, 2) == [1, 2]


@pytest.mark.parametrize("number", [-1, 1 << 31, 1 << 40])
def test_a_count_that_is_another_than_it_says_finds_nothing(number):
    class Count(Treacherous):
        def __index__(self):
            return number

        __sub__ = Treacherous.__add__

        __radd__ = Treacherous.__add__

    for it in (ModbusSequentialDataBlock(0, [1, 2]), ModbusSparseDataBlock({0: 1, 1: 2})):
        with pytest.raises((ParameterException, OverflowError)):
            it.getValues(0, Count())


def test_a_slice_writes_only_its_own_addresses(monkeypatch):
    it = ModbusSequentialDataBlock(0, [0] * 10)
    written = []
    view = it.values

    class Spy:
        def __getattr__(self, name):
            return getattr(it, name)

        def _write(self, index, values):
            written.append((index, values))
            it._write(index, values)

    view._block = Spy()
    view[2:4] = [7, 8]
    view[0:9:4] = [1, 2, 3]
    assert written == [(2, [7, 8]), (0, [1]), (4, [2]), (8, [3])]
    assert it.getValues(0, 10) == [1, 0, 7, 8, 2, 0, 0, 0, 3, 0]
