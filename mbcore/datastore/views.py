"""What ``block.values`` and ``context.store``, ``.files``, ``.fifos`` look like from Python: live, not copies. Holds no values itself."""

from collections.abc import MutableMapping, MutableSequence


class SequenceView(MutableSequence):
    """The values of a sequential block as a list."""

    __slots__ = ("_block",)

    def __init__(self, block):
        self._block = block

    def __len__(self):
        return self._block._length()

    def _index(self, index):
        length = len(self)
        position = index + length if index < 0 else index
        if not 0 <= position < length:
            raise IndexError(f"index {index} is not in this list of {length}")
        return position

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self._block._read(0, len(self))[index]
        return self._block._read(self._index(index), 1)[0]

    def __setitem__(self, index, value):
        if isinstance(index, slice):
            values = list(self)
            values[index] = value
            if len(values) == len(self):
                self._block._write(0, values)
            else:
                self._block.values = values
        else:
            self._block._write(self._index(index), [value])

    def __delitem__(self, index):
        values = list(self)
        del values[index]
        self._block.values = values

    def insert(self, index, value):
        """Put ``value`` before ``index``; the block grows by one."""
        values = list(self)
        values.insert(index, value)
        self._block.values = values

    def __iter__(self):
        return iter(self._block._read(0, len(self)))

    def __eq__(self, other):
        if isinstance(other, (SequenceView, list, tuple)):
            return list(self) == list(other)
        return NotImplemented

    __hash__ = None

    def __add__(self, other):
        return list(self) + list(other)

    def __repr__(self):
        return repr(list(self))


class MappingView(MutableMapping):
    """The values of a sparse block as a dict {address: value}."""

    __slots__ = ("_block",)

    def __init__(self, block):
        self._block = block

    def __len__(self):
        return self._block._length()

    def __iter__(self):
        return iter(self._block._snapshot())

    def __getitem__(self, address):
        return self._block._snapshot()[address]

    def __setitem__(self, address, value):
        self._block._write({address: value})

    def __delitem__(self, address):
        self._block._remove(address)

    def copy(self):
        """Return the values as a dict of their own."""
        return self._block._snapshot()

    def __repr__(self):
        return repr(self._block._snapshot())


class BlockMapping(MutableMapping):
    """The data blocks of a slave context by key."""

    __slots__ = ("_context",)

    def __init__(self, context):
        self._context = context

    def __len__(self):
        return len(self._context._blocks())

    def __iter__(self):
        return iter(self._context._blocks())

    def __getitem__(self, key):
        return self._context._blocks()[key]

    def __setitem__(self, key, block):
        self._context._attach(key, block)

    def __delitem__(self, key):
        raise TypeError(f"a context always has a block for {key!r}; assign another one")

    def __repr__(self):
        return repr(self._context._blocks())


class NumberedMapping(MutableMapping):
    """The files or FIFO queues of a slave context: {number: live list}."""

    __slots__ = ("_blocks", "_make", "_publish")

    def __init__(self, blocks, make, publish):
        self._blocks = blocks
        self._make = make
        self._publish = publish

    def __len__(self):
        return len(self._blocks)

    def __iter__(self):
        return iter(self._blocks)

    def __getitem__(self, number):
        return self._blocks[number].values

    def __setitem__(self, number, values):
        self._publish({**self._blocks, **self._make({number: values})})

    def __delitem__(self, number):
        remaining = dict(self._blocks)
        del remaining[number]
        self._publish(remaining)

    def __repr__(self):
        return repr({number: list(values) for number, values in self.items()})
