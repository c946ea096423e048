"""Blocks and contexts, driven by the application and by masters in any order, against plain Python lists and dicts."""

from adu import image, master, units
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mbcore import ModbusSequentialDataBlock, ModbusSlaveContext, ModbusSparseDataBlock
from mbcore.codec import decode_response, encode_request
from mbcore.errors import ConfigurationError, ParameterException

word = st.integers(0, 0xFFFF)
values = st.lists(word, min_size=1, max_size=8)
bad_values = st.lists(st.one_of(word, st.integers(65536, 1 << 40), st.integers(-(1 << 40), -1), st.just(None), st.just("x")), min_size=1,
                      max_size=8).filter(
    lambda several: any(value not in range(65536) for value in several))
addresses = st.integers(0, 24)
counts = st.integers(1, 10)
bound = st.none() | st.integers(-10, 10)


def refuses(error, call, *args):
    """Whether `call` raises `error`."""
    try:
        call(*args)
    except error:
        return True
    return False


class SequentialModel(RuleBasedStateMachine):
    """One sequential block: a list from an address."""

    @initialize(address=st.integers(0, 10), first=values, zero_mode=st.booleans())
    def start(self, address, first, zero_mode):
        self.block = ModbusSequentialDataBlock(address, first)
        self.address, self.cells, self.initial = address, list(first), list(first)
        self.offset = 0 if zero_mode else 1
        self.slave = ModbusSlaveContext(hr=self.block, zero_mode=zero_mode)
        self.master = master("socket", units(u1=self.slave))

    def has(self, address, count):
        return self.address <= address and address + count <= self.address + len(self.cells)

    @rule(address=addresses, count=counts)
    def read(self, address, count):
        if self.has(address, count):
            start = address - self.address
            assert self.block.getValues(address, count) == self.cells[start : start + count]
        else:
            assert refuses(ParameterException, self.block.getValues, address, count)
        assert self.block.validate(address, count) is self.has(address, count)

    @rule(address=addresses, new=values)
    def write(self, address, new):
        if self.has(address, len(new)):
            self.block.setValues(address, new)
            self.cells[address - self.address : address - self.address + len(new)] = new
        else:
            assert refuses(ParameterException, self.block.setValues, address, new)

    @rule(address=addresses, new=bad_values)
    def write_bad_values(self, address, new):
        assert refuses(ConfigurationError, self.block.setValues, address, new)

    @rule(index=st.integers(-12, 12), value=word)
    def write_one_live_value(self, index, value):
        if -len(self.cells) <= index < len(self.cells):
            self.block.values[index] = value
            self.cells[index] = value
        else:
            assert refuses(IndexError, self.block.values.__setitem__, index, value)

    @rule(start=st.integers(-10, 10), stop=st.integers(-10, 10), new=st.lists(word, max_size=4))
    def write_a_live_slice(self, start, stop, new):
        expected = list(self.cells)
        expected[start:stop] = new
        if not expected:
            return
        self.block.values[start:stop] = new
        self.cells = expected

    @rule(new=values)
    def replace(self, new):
        self.block.values = new
        self.cells = list(new)

    @rule(value=word)
    def append(self, value):
        if len(self.cells) < 20:
            self.block.values.append(value)
            self.cells.append(value)

    @rule(index=st.integers(-12, 25), value=word)
    def insert(self, index, value):
        if len(self.cells) < 20:
            self.block.values.insert(index, value)
            self.cells.insert(index, value)

    @rule(start=bound, stop=bound, step=st.sampled_from([None, 1, 2, 3, -1, -2]))
    def delete_a_live_slice(self, start, stop, step):
        del self.block.values[start:stop:step]
        del self.cells[start:stop:step]

    @rule(index=st.integers(-12, 12))
    def delete_one_live_value(self, index):
        if -len(self.cells) <= index < len(self.cells):
            del self.block.values[index]
            del self.cells[index]
        else:
            assert refuses(IndexError, self.block.values.__delitem__, index)

    @rule(address=st.integers(0, 10))
    def move(self, address):
        self.block.address = address
        self.address = address

    @precondition(lambda self: len(self.cells) == len(self.initial))
    @rule()
    def reset(self):
        self.block.reset()
        self.cells = list(self.initial)

    @rule(address=addresses, new=values)
    def master_writes(self, address, new):
        response = decode_response(self.master.ask(encode_request(16, address=address, registers=new)))
        assert ("exception_code" not in response) is self.has(address + self.offset, len(new))
        if "exception_code" in response:
            assert response["exception_code"] == 2
        else:
            start = address + self.offset - self.address
            self.cells[start : start + len(new)] = new

    @rule(address=addresses, count=counts)
    def master_reads(self, address, count):
        response = decode_response(self.master.ask(encode_request(3, address=address, quantity=count)))
        if self.has(address + self.offset, count):
            start = address + self.offset - self.address
            assert response["registers"] == self.cells[start : start + count]
            assert self.slave.getValues(3, address, count) == response["registers"]
        else:
            assert response["exception_code"] == 2

    @invariant()
    def same(self):
        if hasattr(self, "cells"):
            assert list(self.block.values) == self.cells
            assert self.block.values == self.cells
            assert len(self.block.values) == len(self.cells)
            assert self.block.address == self.address
            assert list(self.block) == list(enumerate(self.cells, self.address))


class SparseModel(RuleBasedStateMachine):
    """One sparse block: a dict."""

    @initialize(first=st.dictionaries(st.integers(0, 20), word, max_size=8), mutable=st.booleans())
    def start(self, first, mutable):
        self.block = ModbusSparseDataBlock(dict(first), mutable=mutable)
        self.cells, self.initial, self.mutable = dict(first), dict(first), mutable
        self.slave = image(hr=self.block)
        self.master = master("socket", units(u1=self.slave))

    def has(self, address, count):
        return all(each in self.cells for each in range(address, address + count))

    @rule(address=addresses, count=counts)
    def read(self, address, count):
        assert self.block.validate(address, count) is self.has(address, count)
        if self.has(address, count):
            assert self.block.getValues(address, count) == [self.cells[each] for each in range(address, address + count)]
        else:
            assert refuses(ParameterException, self.block.getValues, address, count)

    @rule(address=addresses, new=values, as_dict=st.booleans())
    def write(self, address, new, as_dict):
        cells = {address + n: value for n, value in enumerate(new)}
        arguments = (0, cells) if as_dict else (address, new)
        if self.mutable or self.has(address, len(new)):
            self.block.setValues(*arguments)
            self.cells |= cells
        else:
            assert refuses(ParameterException, self.block.setValues, *arguments)

    @rule(address=addresses, new=bad_values)
    def write_bad_values(self, address, new):
        assert refuses(ConfigurationError, self.block.setValues, address, new)

    @rule(cells=st.dictionaries(st.integers(0, 30), word, max_size=6))
    def write_here_and_there(self, cells):
        if self.mutable or cells.keys() <= self.cells.keys():
            self.block.setValues(0, cells)
            self.cells |= cells
        else:
            assert refuses(ParameterException, self.block.setValues, 0, cells)

    @rule(address=addresses, value=word)
    def write_one_live_value(self, address, value):
        if self.mutable or address in self.cells:
            self.block.values[address] = value
            self.cells[address] = value

    @rule(address=addresses)
    def remove(self, address):
        if address in self.cells:
            del self.block.values[address]
            del self.cells[address]
        else:
            assert refuses(KeyError, self.block.values.__delitem__, address)

    @rule(new=st.dictionaries(st.integers(0, 20), word, max_size=8))
    def replace(self, new):
        self.block.values = new
        self.cells = dict(new)

    @rule()
    def reset(self):
        self.block.reset()
        self.cells = dict(self.initial)

    @rule(address=addresses, new=values)
    def master_writes(self, address, new):
        response = decode_response(self.master.ask(encode_request(16, address=address, registers=new)))
        if self.has(address, len(new)):
            assert "exception_code" not in response
            self.cells |= {address + n: value for n, value in enumerate(new)}
        else:
            assert response["exception_code"] == 2, "a master never adds addresses"

    @rule(address=addresses, count=counts)
    def master_reads(self, address, count):
        response = decode_response(self.master.ask(encode_request(3, address=address, quantity=count)))
        if self.has(address, count):
            assert response["registers"] == [self.cells[each] for each in range(address, address + count)]
        else:
            assert response["exception_code"] == 2

    @invariant()
    def same(self):
        if hasattr(self, "cells"):
            assert dict(self.block.values) == self.cells
            assert len(self.block.values) == len(self.cells)
            assert sorted(self.block) == sorted(self.cells.items())
            assert self.block.address == min(self.cells, default=None)


class ServerModel(RuleBasedStateMachine):
    """Units that come and go, blocks that they share, files and queues."""

    @initialize()
    def start(self):
        self.shared = ModbusSequentialDataBlock(0, [0] * 10)
        self.shared_cells = [0] * 10
        self.units = {1: [0] * 10}
        self.files = {1: {}}
        self.fifos = {1: {}}
        self.context = units(u1=self.new_unit())
        self.master = master("socket", self.context)

    def new_unit(self):
        return image(hr=ModbusSequentialDataBlock(0, [0] * 10), co=self.shared)

    @rule(unit=st.integers(1, 6))
    def add_unit(self, unit):
        self.context[unit] = self.new_unit()
        self.units[unit], self.files[unit], self.fifos[unit] = [0] * 10, {}, {}

    @rule(unit=st.integers(1, 6))
    def remove_unit(self, unit):
        if unit in self.units and len(self.units) > 1:
            del self.context[unit]
            del self.units[unit]

    def answer(self, unit, code, **fields):
        """The decoded response; a unit that is not there must answer 0B."""
        response = decode_response(self.master.ask(encode_request(code, **fields), unit))
        if unit not in self.units:
            assert response["exception_code"] == 0x0B
            return None
        return response

    @rule(unit=st.integers(1, 6), address=st.integers(0, 9), value=word)
    def write_register(self, unit, address, value):
        if self.answer(unit, 6, address=address, value=value):
            self.units[unit][address] = value

    @rule(unit=st.integers(1, 6), address=st.integers(0, 9), value=st.booleans())
    def write_shared_coil(self, unit, address, value):
        if self.answer(unit, 5, address=address, value=value):
            self.shared_cells[address] = int(value)

    @rule(unit=st.integers(1, 6), file=st.integers(1, 3), records=st.lists(word, min_size=1, max_size=5))
    def set_file(self, unit, file, records):
        if unit in self.units:
            self.context[unit].files[file] = records
            self.files[unit][file] = list(records)

    @rule(unit=st.integers(1, 6), file=st.integers(1, 3), record=st.integers(0, 5), new=st.lists(word, min_size=1, max_size=3))
    def write_records(self, unit, file, record, new):
        response = self.answer(unit, 21, groups=[(file, record, new)])
        if response is None:
            return
        held = self.files[unit].get(file)
        if held is None or record + len(new) > len(held):
            assert response["exception_code"] == 2
        else:
            held[record : record + len(new)] = new

    @rule(unit=st.integers(1, 6), value=word)
    def push(self, unit, value):
        if unit in self.units:
            if 7 not in self.fifos[unit]:
                self.context[unit].fifos[7] = []
            self.context[unit].fifos[7].append(value)
            self.fifos[unit].setdefault(7, []).append(value)

    @rule(unit=st.integers(1, 6))
    def read_queue(self, unit):
        response = self.answer(unit, 24, address=7)
        if response is None:
            return
        queue = self.fifos[unit].get(7)
        if queue is None:
            assert response["exception_code"] == 2
        elif len(queue) > 31:
            assert response["exception_code"] == 3
        else:
            assert response["registers"] == queue

    @invariant()
    def same(self):
        if not hasattr(self, "units"):
            return
        assert sorted(self.context.slaves()) == sorted(self.units)
        assert list(self.shared.values) == self.shared_cells
        for unit, cells in self.units.items():
            assert unit in self.context
            assert self.context[unit].getValues(3, 0, 10) == cells
            assert self.context[unit].getValues(1, 0, 10) == [bool(cell) for cell in self.shared_cells]
            assert {file: list(records) for file, records in self.context[unit].files.items()} == self.files[unit]


for machine in (SequentialModel, SparseModel, ServerModel):
    machine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

TestSequentialBlock = SequentialModel.TestCase
TestSparseBlock = SparseModel.TestCase
TestServer = ServerModel.TestCase
