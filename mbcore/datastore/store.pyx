"""The image of a table, the blocks that own one. Knows no function codes and no units.

A block holds one 16-bit word per address, whatever table it serves: a coil is on where its word is not zero. The same block may stand for
several tables, as pymodbus' users write it.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from mbcore.lock cimport lock_image, unlock_image
from mbcore.wire cimport load_u16s, store_u16s

from mbcore.datastore.views import MappingView, SequenceView
from mbcore.errors import ConfigurationError, NotImplementedException, ParameterException

# Block addresses run one further than the wire's 0..65535: a context without zero_mode adds one.
cdef enum:
    ADDRESSES = 65537

# ---- in C -----------------------------------------------------------------------------------------------------------------------------

cdef uint32_t index_from(const image_t* image, uint32_t address) noexcept nogil:
    # The first word whose key is not below `address`.
    cdef uint32_t low = 0, high = image.count, middle
    while low < high:
        middle = (low + high) // 2
        if image.keys[middle] < address:
            low = middle + 1
        else:
            high = middle
    return low


cdef int64_t locate(const image_t* image, uint32_t address, uint32_t quantity) noexcept nogil:
    cdef uint32_t index
    if quantity == 0 or quantity > image.count:
        return -1
    if image.keys == NULL:
        index = address - image.base
        return index if address >= image.base and index <= image.count - quantity else -1
    index = index_from(image, address)
    if index > image.count - quantity:
        return -1
    # Ascending without repeats: where both ends fit, all between do.
    if image.keys[index] != address or image.keys[index + quantity - 1] != address + quantity - 1:
        return -1
    return index


cdef void load_registers(const image_t* image, int64_t index, uint32_t quantity, uint8_t* wire) noexcept nogil:
    store_u16s(wire, image.words + index, quantity)


cdef void store_registers(image_t* image, int64_t index, uint32_t quantity, const uint8_t* wire) noexcept nogil:
    load_u16s(image.words + index, wire, quantity)


cdef void load_bits(const image_t* image, int64_t index, uint32_t quantity, uint8_t* wire) noexcept nogil:
    cdef const uint16_t* words = image.words + index
    cdef uint32_t i, bit
    cdef uint8_t byte
    for i in range(0, quantity, 8):
        byte = 0
        for bit in range(min(<uint32_t> 8, quantity - i)):
            byte |= <uint8_t> ((words[i + bit] != 0) << bit)
        wire[i // 8] = byte


cdef void store_bits(image_t* image, int64_t index, uint32_t quantity, const uint8_t* wire) noexcept nogil:
    cdef uint16_t* words = image.words + index
    cdef uint32_t i
    for i in range(quantity):
        words[i] = wire[i >> 3] >> (i & 7) & 1


# ---- Python values in and out ---------------------------------------------------------------------------------------------------------

cdef int word_from(object value, object address) except -1:
    if isinstance(value, int) and 0 <= value <= 0xFFFF:
        return value
    try:
        word = value.__index__()
    except AttributeError:
        raise ConfigurationError(f"the value {value!r} for address {address} is not a whole number 0..65535") from None
    if not 0 <= word <= 0xFFFF:
        raise ConfigurationError(f"the value {value!r} for address {address} is not in 0..65535")
    return word


cdef object as_sequence(object values):
    # pymodbus takes a scalar where it takes a list.
    return list(values) if hasattr(values, "__iter__") else [values]


cdef uint16_t* words_from(list values, object address) except NULL:
    """Words for `values`, to be freed by the caller; `address` is the first one's, for the message."""
    cdef Py_ssize_t i
    cdef uint16_t* words = <uint16_t*> malloc(max(len(values), 1) * sizeof(uint16_t))
    if words == NULL:
        raise MemoryError()
    try:
        for i in range(len(values)):
            words[i] = word_from(values[i], address + i)
    except BaseException:
        free(words)
        raise
    return words


cdef uint32_t checked_address(object address) except? 0xFFFFFFFF:
    if not hasattr(address, "__index__") or not 0 <= address.__index__() < ADDRESSES:
        raise ConfigurationError(f"the address {address!r} is not a whole number 0..65536")
    return address.__index__()


cdef void swap_in(image_t* image, uint16_t* words, uint32_t* keys, uint32_t base, uint32_t count) noexcept:
    # The old memory is released only when no one can be reading it: everyone reads under the lock.
    cdef image_t old
    lock_image()
    old = image[0]
    image.words = words
    image.keys = keys
    image.base = base
    image.count = count
    unlock_image()
    free(old.words)
    free(old.keys)


cdef list read_words(image_t* image, object address, object count, bint by_index):
    """A list of `count` words from `address` (or from the index `address`), atomically; None where they are not all there."""
    cdef int64_t index = -1
    cdef Py_ssize_t i, quantity
    cdef uint32_t first
    cdef uint16_t* copy
    if not 0 <= address < ADDRESSES or not 0 <= count <= ADDRESSES:
        return None
    # Numbers of a user's own kind run Python code: all of it here, none with the image locked.
    first = address.__index__()
    quantity = count.__index__()
    if quantity == 0:
        return []
    copy = <uint16_t*> PyMem_Malloc(quantity * sizeof(uint16_t))
    if copy == NULL:
        raise MemoryError()
    try:
        lock_image()
        index = place_of(image, first, quantity, by_index)
        if index >= 0:
            memcpy(copy, image.words + index, quantity * sizeof(uint16_t))
        unlock_image()
        return [copy[i] for i in range(quantity)] if index >= 0 else None
    finally:
        PyMem_Free(copy)


cdef bint write_words(image_t* image, object address, list values, bint by_index) except -1:
    """Write `values` from `address` (or from the index `address`), all or nothing; False where the addresses are not all there."""
    cdef int64_t index
    cdef Py_ssize_t quantity = len(values)
    cdef uint32_t first
    cdef uint16_t* words
    if not values:
        return True
    if not 0 <= address < ADDRESSES or quantity > ADDRESSES:
        return False
    first = address.__index__()
    words = words_from(values, first)
    lock_image()
    index = place_of(image, first, quantity, by_index)
    if index >= 0:
        memcpy(image.words + index, words, quantity * sizeof(uint16_t))
    unlock_image()
    free(words)
    return index >= 0


cdef int64_t place_of(const image_t* image, uint32_t first, Py_ssize_t quantity, bint by_index) noexcept nogil:
    if not by_index:
        return locate(image, first, <uint32_t> quantity)
    return first if first + quantity <= image.count else -1


# ---- blocks ---------------------------------------------------------------------------------------------------------------------------

cdef class BaseModbusDataBlock:
    """What every block can do; a subclass of a user's own may answer from anywhere.

    Overriding ``validate``, ``getValues`` or ``setValues`` in a subclass is how Python code answers a master: the server asks once, when
    the block is attached to a context, which of the three are overridden, and calls those. ``address`` is the block's own, i.e. one more
    than the wire's unless the context has ``zero_mode=True``. To refuse, raise :class:`mbcore.errors.RequestError`; any other exception
    answers 04.
    """

    def __dealloc__(self):
        free(self.image.words)
        free(self.image.keys)

    cdef bint overrides(self) except -1:
        """Whether one of the three methods is Python's."""
        cls = type(self)
        # A subclass' instance has a dict of its own, and a script may put a function there.
        own = getattr(self, "__dict__", ())
        for base in (ModbusSequentialDataBlock, ModbusSparseDataBlock, BaseModbusDataBlock):
            if isinstance(self, base):
                break
        if base is BaseModbusDataBlock:
            return True
        return (
            cls.validate is not base.validate or cls.getValues is not base.getValues or cls.setValues is not base.setValues
            or not {"validate", "getValues", "setValues"}.isdisjoint(own)
        )

    cdef dict properties(self):
        if self.plain is None:
            self.plain = {"values": [], "address": 0, "default_value": 0}
        return self.plain

    @property
    def values(self):
        """The values, a list or a dict {address: value}; kept for the block of your own, which may do with them what it likes."""
        return self.properties()["values"]

    @values.setter
    def values(self, values):
        self.properties()["values"] = values

    @property
    def address(self):
        """The address of the first value of a list."""
        return self.properties()["address"]

    @address.setter
    def address(self, address):
        self.properties()["address"] = address

    @property
    def default_value(self):
        """What :meth:`reset` sets every value to."""
        return self.properties()["default_value"]

    @default_value.setter
    def default_value(self, value):
        self.properties()["default_value"] = value

    def default(self, count, value=False):
        """Make the block ``count`` addresses from 0, each ``value``, which :meth:`reset` goes back to."""
        self.default_value = value
        self.values = [value] * count
        self.address = 0

    def reset(self):
        """Set every value to ``default_value``."""
        self.values = [self.default_value] * len(self.values)

    def validate(self, address, count=1):
        """Return whether the ``count`` addresses from ``address`` exist."""
        raise NotImplementedException("a data block of your own must implement validate(address, count=1)")

    def getValues(self, address, count=1):
        """Return a list of the ``count`` values from ``address``: ints 0..65535, or truth values for coils and discrete inputs."""
        raise NotImplementedException("a data block of your own must implement getValues(address, count=1)")

    def setValues(self, address, values):
        """Take the list ``values`` for the addresses from ``address``."""
        raise NotImplementedException("a data block of your own must implement setValues(address, values)")

    def __iter__(self):
        """Iterate over (address, value)."""
        if hasattr(self.values, "items"):
            return iter(self.values.items())
        return enumerate(self.values, self.address)

    def __str__(self):
        return f"{type(self).__name__}({len(self.values)} values from address {self.address})"


cdef class ModbusSequentialDataBlock(BaseModbusDataBlock):
    """Values that follow one another from one address.

    :param address: of the first value, 0..65536
    :param values: an iterable of ints 0..65535 or truth values, or one such value
    :raises ConfigurationError: a value or an address is out of its range
    """

    def __cinit__(self, *args, **kwargs):
        self.initial = 0
        self.initial_count = -1

    def __init__(self, address, values):
        cdef uint32_t first = checked_address(address)
        cdef list sequence = as_sequence(values)
        fill(self, first, sequence)
        self.initial_count = len(sequence)
        if len(set(sequence)) == 1:
            self.initial = word_from(sequence[0], first)
        else:
            self.initial = PyBytes_FromStringAndSize(<char*> self.image.words, self.image.count * sizeof(uint16_t))

    @classmethod
    def create(cls):
        """Return a block of 65536 zeros from address 0."""
        return zero_block(65536) if cls is ModbusSequentialDataBlock else cls(0, [0] * 65536)

    @property
    def values(self):
        """The values, as a live list: what is assigned into it the bus sees. Assign a list or a scalar to replace them all."""
        return SequenceView(self)

    @values.setter
    def values(self, values):
        fill(self, self.image.base, as_sequence(values))

    @property
    def address(self):
        """The address of the first value, 0..65536."""
        return self.image.base

    @address.setter
    def address(self, address):
        cdef uint32_t first = checked_address(address)
        check_end(first, self.image.count)
        lock_image()
        self.image.base = first
        unlock_image()

    @property
    def default_value(self):
        """What :meth:`reset` sets every value to, once it is assigned; until then the initial values come back."""
        return self.initial if isinstance(self.initial, int) else 0

    @default_value.setter
    def default_value(self, value):
        self.initial = word_from(value, "default_value")
        self.initial_count = -1

    def reset(self):
        """Go back to the initial values, or to ``default_value`` where one was assigned."""
        cdef bytes initial
        if isinstance(self.initial, int):
            self.values = [self.initial] * (self.image.count if self.initial_count < 0 else self.initial_count)
        else:
            initial = self.initial
            restore(self, initial)

    def validate(self, address, count=1):
        """Return whether the ``count`` addresses from ``address`` exist; none at all do where ``address`` is in the block."""
        return self.image.base <= address and address + count <= self.image.base + self.image.count

    def getValues(self, address, count=1):
        """Return a list of the ``count`` values from ``address``, read at once.

        :raises ParameterException: one of the addresses is not in the block
        """
        values = read_words(&self.image, address, count, False)
        if values is None:
            raise ParameterException(outside(self, address, count))
        return values

    def setValues(self, address, values):
        """Write ``values`` (an iterable or one value) from ``address`` on, at once and all or nothing.

        :raises ParameterException: one of the addresses is not in the block
        :raises ConfigurationError: a value is not in 0..65535
        """
        sequence = as_sequence(values)
        if not write_words(&self.image, address, sequence, False):
            raise ParameterException(outside(self, address, len(sequence)))

    # What the live list needs.

    def _length(self):
        return self.image.count

    def _read(self, index, count):
        return read_words(&self.image, index, count, True)

    def _write(self, index, list values):
        if not write_words(&self.image, index, values, True):
            raise IndexError(f"index {index} is not in this list of {self.image.count}")


cdef ModbusSequentialDataBlock zero_block(uint32_t count):
    cdef ModbusSequentialDataBlock block = ModbusSequentialDataBlock.__new__(ModbusSequentialDataBlock)
    cdef uint16_t* words = <uint16_t*> calloc(count, sizeof(uint16_t))
    if words == NULL:
        raise MemoryError()
    swap_in(&block.image, words, NULL, 0, count)
    return block


cdef str outside(ModbusSequentialDataBlock block, address, count):
    return (f"the addresses {address}..{address + count - 1} are not all in this block of {block.image.count} values from address "
            f"{block.image.base}")


cdef int check_end(uint32_t first, Py_ssize_t count) except -1:
    if first + count > ADDRESSES:
        raise ConfigurationError(f"{count} values from address {first} run past address 65536")
    return 0


cdef int fill(ModbusSequentialDataBlock block, uint32_t first, list values) except -1:
    check_end(first, len(values))
    swap_in(&block.image, words_from(values, first), NULL, first, <uint32_t> len(values))
    return 0


cdef int restore(ModbusSequentialDataBlock block, bytes initial) except -1:
    cdef uint16_t* words = <uint16_t*> malloc(max(len(initial), 1))
    if words == NULL:
        raise MemoryError()
    memcpy(words, PyBytes_AsString(initial), len(initial))
    swap_in(&block.image, words, NULL, block.image.base, <uint32_t> (len(initial) // sizeof(uint16_t)))
    return 0


cdef class ModbusSparseDataBlock(BaseModbusDataBlock):
    """Values at addresses that need not follow one another.

    :param values: a dict {address: value or list of values from there}, or a list for the addresses from 0
    :param mutable: whether the application's :meth:`setValues` may add addresses; a master never can
    :raises ConfigurationError: a value or an address is out of its range
    """

    def __cinit__(self, *args, **kwargs):
        self.initial = {}

    def __init__(self, values=None, mutable=True):
        self.mutable = mutable
        self.initial = spread({} if values is None else values)
        fill_sparse(self, self.initial)

    @classmethod
    def create(cls, values=None):
        """Return a block of ``values``."""
        return cls(values)

    @property
    def values(self):
        """The values, a live dict {address: value}: what is assigned into it the bus sees. Assign a dict or a list to replace them all."""
        return MappingView(self)

    @values.setter
    def values(self, values):
        fill_sparse(self, spread(values))

    @property
    def address(self):
        """The lowest address, None in an empty block."""
        return self.image.keys[0] if self.image.count else None

    @property
    def default_value(self):
        """What :meth:`reset` goes back to: a dict {address: value}, live and assignable."""
        return self.initial

    @default_value.setter
    def default_value(self, values):
        self.initial = spread(values)

    def default(self, count, value=False):
        """Make the block ``count`` addresses from 0, each ``value``, which :meth:`reset` goes back to."""
        self.default_value = [value] * count
        self.reset()

    def reset(self):
        """Go back to ``default_value``."""
        fill_sparse(self, spread(self.initial))

    def validate(self, address, count=1):
        """Return whether the ``count`` addresses from ``address`` all exist; at least one must be asked for."""
        cdef int64_t index
        cdef uint32_t first, quantity
        if not 0 <= address < ADDRESSES or not 1 <= count <= ADDRESSES:
            return False
        first = address.__index__()
        quantity = count.__index__()
        lock_image()
        index = locate(&self.image, first, quantity)
        unlock_image()
        return index >= 0

    def getValues(self, address, count=1):
        """Return a list of the ``count`` values from ``address``, read at once.

        :raises ParameterException: one of the addresses is not in the block
        """
        values = read_words(&self.image, address, count, False)
        if values is None:
            raise ParameterException(f"the addresses {address}..{address + count - 1} are not all in this sparse block")
        return values

    def setValues(self, address, values, use_as_default=False):
        """Write ``values`` (an iterable, one value, or a dict {address: value}) from ``address`` on, at once and all or nothing.

        :param use_as_default: :meth:`reset` goes back to these from now on
        :raises ParameterException: an address is new and the block is not ``mutable``
        :raises ConfigurationError: a value is not in 0..65535
        """
        if hasattr(values, "items"):
            changes = spread(values)
        else:
            sequence = as_sequence(values)
            changes = {address + i: value for i, value in enumerate(sequence)}
        if hasattr(values, "items") or not write_words(&self.image, address, sequence, False):
            merge(self, changes, self.mutable)
        if use_as_default:
            self.initial.update(spread(changes))

    # What the live dict needs.

    def _length(self):
        return self.image.count

    def _snapshot(self):
        return snapshot(self)

    def _read(self, address):
        values = read_words(&self.image, address, 1, False)
        return None if values is None else values[0]

    def _write(self, address, value):
        if not write_words(&self.image, address, [value], False):
            merge(self, spread({address: value}), True)

    def _remove(self, address):
        values = snapshot(self)
        del values[address]
        fill_sparse(self, values)

    def __iter__(self):
        """Iterate over (address, value)."""
        return iter(snapshot(self).items())


cdef dict snapshot(ModbusSparseDataBlock block):
    cdef uint32_t i, count
    cdef uint32_t* keys
    cdef image_t* image = &block.image
    lock_image()
    count = image.count
    keys = <uint32_t*> malloc(max(count, 1) * (sizeof(uint32_t) + sizeof(uint16_t)))
    if keys != NULL and count:
        memcpy(keys, image.keys, count * sizeof(uint32_t))
        memcpy(keys + count, image.words, count * sizeof(uint16_t))
    unlock_image()
    if keys == NULL:
        raise MemoryError()
    result = {keys[i]: (<uint16_t*> (keys + count))[i] for i in range(count)}
    free(keys)
    return result


cdef int merge(ModbusSparseDataBlock block, dict changes, bint may_add) except -1:
    values = snapshot(block)
    added = changes.keys() - values.keys()
    if added and not may_add:
        raise ParameterException(f"the address {min(added)} is not in this sparse block, which is not mutable")
    values.update(changes)
    fill_sparse(block, spread(values))
    return 0


cdef dict spread(object values):
    # {1: [10, 11], 7: 12} -> {1: 10, 2: 11, 7: 12}, checked.
    result = {}
    if not hasattr(values, "items"):
        if not hasattr(values, "__iter__"):
            raise ParameterException(f"a sparse block needs a dict {{address: value}} or a list, not {values!r}")
        values = {0: list(values)}
    for address, value in values.items():
        first = checked_address(address)
        sequence = as_sequence(value)
        check_end(first, len(sequence))
        for i, single in enumerate(sequence):
            result[first + i] = word_from(single, first + i)
    return result


cdef int fill_sparse(ModbusSparseDataBlock block, dict values) except -1:
    cdef Py_ssize_t i, count = len(values)
    cdef list addresses = sorted(values)
    cdef uint32_t* keys
    cdef uint16_t* words = words_from([values[address] for address in addresses], 0)
    keys = <uint32_t*> malloc(max(count, 1) * sizeof(uint32_t))
    if keys == NULL:
        free(words)
        raise MemoryError()
    for i in range(count):
        keys[i] = addresses[i]
    swap_in(&block.image, words, keys, 0, <uint32_t> count)
    return 0
