"""The image of a table, the blocks that own one. Knows no function codes and no units.

A block holds one 16-bit word per address, whatever table it serves: a coil is on where its word is not zero. The same block may stand for
several tables, as pymodbus' users write it.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from cpython.list cimport PyList_New, PyList_SetItem
from cpython.long cimport PyLong_AsLongAndOverflow
from cpython.ref cimport Py_INCREF
from cpython.slice cimport PySlice_AdjustIndices, PySlice_Unpack
from mbcore.lock cimport lock_image, unlock_image
from mbcore.wire cimport load_u16s, store_u16s

from mbcore.datastore.views import MappingView, SequenceView
from mbcore.errors import ConfigurationError, NotImplementedException, ParameterException

# Block addresses run one further than the wire's 0..65535: a context without zero_mode adds one.
cdef enum:
    ADDRESSES = 65537
    # Values that are copied without memory of their own: more than a message has.
    FEW = 128

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


# ---- other words in the place of some -------------------------------------------------------------------------------------------------

# `gone` words of an image from the index `place` on make way for `come` others.
ctypedef struct cut_t:
    uint32_t place
    uint32_t gone
    uint32_t come


cdef Py_ssize_t add_cut(cut_t* cuts, Py_ssize_t cut_count, uint32_t place, uint32_t gone, uint32_t come) noexcept nogil:
    """Cut there as well, not before the last one; returns how many cuts that makes."""
    cdef cut_t* last
    if cut_count:
        last = cuts + cut_count - 1
        if last.place + last.gone == place:
            last.gone += gone
            last.come += come
            return cut_count
    cuts[cut_count] = cut_t(place=place, gone=gone, come=come)
    return cut_count + 1


cdef char* put(char* to, const char* source, size_t length) noexcept nogil:
    # Nothing may come from nowhere.
    if length:
        memcpy(to, source, length)
    return to + length


cdef void carry_out(
    const cut_t* cuts, Py_ssize_t cut_count, const void* old, uint32_t old_count, const void* others, void* new, size_t size
) noexcept nogil:
    """`new` is `old`, items of `size` bytes, with what comes of `others` where something is cut."""
    cdef const char* source = <const char*> old
    cdef const char* other = <const char*> others
    cdef char* to = <char*> new
    cdef uint32_t done = 0
    cdef Py_ssize_t i
    for i in range(cut_count):
        to = put(to, source + done * size, (cuts[i].place - done) * size)
        to = put(to, other, cuts[i].come * size)
        other += cuts[i].come * size
        done = cuts[i].place + cuts[i].gone
    put(to, source + done * size, (old_count - done) * size)


cdef void* touched(uint32_t size) except NULL:
    """Memory to be freed by the caller, all of it there already: no page of it must be found with the image locked."""
    cdef uint32_t i
    cdef char* memory = <char*> malloc(max(size, 1))
    if memory == NULL:
        raise MemoryError()
    # volatile: a compiler may see that it is written over, and leave it out.
    for i in range(0, size, 4096):
        (<volatile char*> memory)[i] = 0
    return memory


cdef int rebuild(image_t* image, const cut_t* cuts, Py_ssize_t cut_count, const uint16_t* words, const uint32_t* keys) except -1:
    """Carry out the cuts: `words` is what comes, and `keys` where the image has some, else NULL.

    No Python code has run since the cuts were made, so they fit. What the bus writes until the image is locked stays.
    """
    cdef Py_ssize_t i
    cdef image_t old
    cdef uint32_t count = image.count
    cdef uint16_t* new_words
    cdef uint32_t* new_keys = NULL
    for i in range(cut_count):
        count += cuts[i].come - cuts[i].gone
    new_words = <uint16_t*> touched(count * sizeof(uint16_t))
    if keys != NULL:
        new_keys = <uint32_t*> malloc(max(count, 1) * sizeof(uint32_t))
        if new_keys == NULL:
            free(new_words)
            raise MemoryError()
        carry_out(cuts, cut_count, image.keys, image.count, keys, new_keys, sizeof(uint32_t))
    lock_image()
    carry_out(cuts, cut_count, image.words, image.count, words, new_words, sizeof(uint16_t))
    old = exchange(image, new_words, new_keys, image.base, count)
    unlock_image()
    free(old.words)
    free(old.keys)
    return 0


cdef image_t exchange(image_t* image, uint16_t* words, uint32_t* keys, uint32_t base, uint32_t count) noexcept:
    """With the image locked: put this in its place; returns what was there, to be freed once it is unlocked."""
    cdef image_t old = image[0]
    image.words = words
    image.keys = keys
    image.base = base
    image.count = count
    return old


cdef void swap_in(image_t* image, uint16_t* words, uint32_t* keys, uint32_t base, uint32_t count) noexcept:
    # The old memory is released only when no one can be reading it: everyone reads under the lock.
    cdef image_t old
    lock_image()
    old = exchange(image, words, keys, base, count)
    unlock_image()
    free(old.words)
    free(old.keys)


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
    cdef int64_t word
    cdef uint16_t* words = <uint16_t*> malloc(max(len(values), 1) * sizeof(uint16_t))
    if words == NULL:
        raise MemoryError()
    try:
        for i in range(len(values)):
            word = number_from(values[i]) if type(values[i]) is int else -1
            words[i] = <uint16_t> word if 0 <= word <= 0xFFFF else word_from(values[i], address + i)
    except BaseException:
        free(words)
        raise
    return words


cdef uint32_t checked_address(object address) except? 0xFFFFFFFF:
    if not hasattr(address, "__index__") or not 0 <= address.__index__() < ADDRESSES:
        raise ConfigurationError(f"the address {address!r} is not a whole number 0..65536")
    return address.__index__()


cdef int64_t number_from(object number) except -2:
    """An address or a count, 0..ADDRESSES; -1 where it is none. A number of a user's own kind runs Python code."""
    cdef int overflow = 0
    cdef int64_t value
    if type(number) is not int:
        if not 0 <= number <= ADDRESSES:
            return -1
        # It may say one thing and be another.
        number = number.__index__()
    value = PyLong_AsLongAndOverflow(number, &overflow)
    return value if 0 <= value <= ADDRESSES else -1


cdef list list_of(const uint16_t* words, Py_ssize_t count):
    cdef list values = PyList_New(count)
    cdef Py_ssize_t i
    for i in range(count):
        value = <object> words[i]
        # The list takes the reference.
        Py_INCREF(value)
        PyList_SetItem(values, i, value)
    return values


cdef list read_words(image_t* image, object address, object count, bint by_index):
    """A list of `count` words from `address` (or from the index `address`), atomically; None where they are not all there."""
    # All Python code runs here, none with the image locked.
    cdef int64_t first = number_from(address)
    cdef int64_t quantity = number_from(count)
    cdef int64_t index = -1
    cdef uint16_t[FEW] few
    cdef uint16_t* copy = few
    if not 0 <= first < ADDRESSES or quantity < 0:
        return None
    if quantity == 0:
        return []
    if quantity > FEW:
        copy = <uint16_t*> touched(<uint32_t> quantity * sizeof(uint16_t))
    try:
        lock_image()
        index = place_of(image, <uint32_t> first, quantity, by_index)
        if index >= 0:
            memcpy(copy, image.words + index, quantity * sizeof(uint16_t))
        unlock_image()
        return list_of(copy, quantity) if index >= 0 else None
    finally:
        if copy != few:
            free(copy)


cdef bint write_words(image_t* image, object address, list values, bint by_index) except -1:
    """Write `values` from `address` (or from the index `address`), all or nothing; False where the addresses are not all there."""
    cdef int64_t index
    cdef Py_ssize_t quantity = len(values)
    cdef int64_t first
    cdef uint16_t* words
    if not values:
        return True
    first = number_from(address)
    if not 0 <= first < ADDRESSES or quantity > ADDRESSES:
        return False
    words = words_from(values, first)
    lock_image()
    index = place_of(image, <uint32_t> first, quantity, by_index)
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
    @cython.binding(True)  # Cython has no other class methods
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
        cdef int64_t first, quantity
        if type(address) is not int or type(count) is not int:
            return 0 <= count and self.image.base <= address and address + count <= self.image.base + self.image.count
        first, quantity = number_from(address), number_from(count)
        return quantity >= 0 and self.image.base <= first and first + quantity <= <int64_t> self.image.base + self.image.count

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

    def _replace(self, index, list values):
        splice(self, index, values)


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


cdef int splice(ModbusSequentialDataBlock block, slice index, list values) except -1:
    """Put `values` in the place of the slice `index`; none where that has a step."""
    cdef Py_ssize_t start, stop, step, quantity, i, cut_count = 0
    cdef Py_ssize_t come = len(values)
    cdef image_t* image = &block.image
    cdef cut_t* cuts = NULL
    cdef uint16_t* words
    # Numbers of a user's own kind run Python code, here and in words_from(). Behind that there is none, and the length stays.
    PySlice_Unpack(index, &start, &stop, &step)
    words = words_from(values, image.base + range(image.count)[start:].start)
    try:
        quantity = PySlice_AdjustIndices(image.count, &start, &stop, step)
        check_end(image.base, image.count - quantity + come)
        cuts = <cut_t*> malloc(max(quantity, 1) * sizeof(cut_t))
        if cuts == NULL:
            raise MemoryError()
        if step < 0:
            start, step = start + (quantity - 1) * step, -step
        if step == 1:
            cut_count = add_cut(cuts, 0, <uint32_t> start, <uint32_t> quantity, <uint32_t> come)
        else:
            for i in range(quantity):
                cut_count = add_cut(cuts, cut_count, <uint32_t> (start + i * step), 1, 0)
        rebuild(image, cuts, cut_count, words, NULL)
    finally:
        free(cuts)
        free(words)
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
    @cython.binding(True)  # Cython has no other class methods
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
        cdef int64_t first = number_from(address)
        cdef int64_t quantity = number_from(count)
        cdef int64_t index
        if not 0 <= first < ADDRESSES or quantity < 1:
            return False
        lock_image()
        index = locate(&self.image, <uint32_t> first, <uint32_t> quantity)
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
        if hasattr(values, "items"):
            merge(self, changes, self.mutable)
        elif not write_words(&self.image, address, sequence, False):
            if not self.mutable:
                raise ParameterException(immutable(min((each for each in changes if self._read(each) is None), default=address)))
            merge(self, spread(changes), True)
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
        if not isinstance(address, int) or not 0 <= address < ADDRESSES or not remove(self, address):
            raise KeyError(address)

    def __iter__(self):
        """Iterate over (address, value)."""
        return iter(snapshot(self).items())


cdef dict snapshot(ModbusSparseDataBlock block):
    cdef uint32_t i, count = block.image.count
    cdef uint32_t* keys = <uint32_t*> touched(count * (sizeof(uint32_t) + sizeof(uint16_t)))
    cdef uint16_t* words = <uint16_t*> (keys + count)
    if count:
        memcpy(keys, block.image.keys, count * sizeof(uint32_t))
        lock_image()
        memcpy(words, block.image.words, count * sizeof(uint16_t))
        unlock_image()
    try:
        return {keys[i]: words[i] for i in range(count)}
    finally:
        free(keys)


cdef str immutable(object address):
    return f"the address {address} is not in this sparse block, which is not mutable"


cdef int merge(ModbusSparseDataBlock block, dict changes, bint may_add) except -1:
    """Write `changes`, as spread() makes them, and add the addresses that are new, at once and all or nothing."""
    cdef list addresses = sorted(changes)
    cdef Py_ssize_t i, cut_count = 0, count = len(addresses)
    cdef uint32_t place
    cdef bint there
    cdef image_t* image = &block.image
    cdef uint16_t* words = words_from([changes[address] for address in addresses], 0)
    cdef uint32_t* keys = NULL
    cdef cut_t* cuts = NULL
    try:
        keys = keys_from(addresses)
        cuts = <cut_t*> malloc(max(count, 1) * sizeof(cut_t))
        if cuts == NULL:
            raise MemoryError()
        # No Python code runs from here on: the addresses stay.
        for i in range(count):
            place = index_from(image, keys[i])
            there = place < image.count and image.keys[place] == keys[i]
            if not there and not may_add:
                raise ParameterException(immutable(keys[i]))
            cut_count = add_cut(cuts, cut_count, place, there, 1)
        rebuild(image, cuts, cut_count, words, keys)
    finally:
        free(cuts)
        free(keys)
        free(words)
    return 0


cdef bint remove(ModbusSparseDataBlock block, uint32_t address) except -1:
    """Take `address` out; False where it is not there."""
    cdef image_t* image = &block.image
    cdef cut_t cut = cut_t(place=index_from(image, address), gone=1, come=0)
    if cut.place == image.count or image.keys[cut.place] != address:
        return False
    # Of its own words and keys none come.
    rebuild(image, &cut, 1, image.words, image.keys)
    return True


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


cdef uint32_t* keys_from(list addresses) except NULL:
    """Keys of `addresses`, ascending, to be freed by the caller."""
    cdef Py_ssize_t i
    cdef uint32_t* keys = <uint32_t*> malloc(max(len(addresses), 1) * sizeof(uint32_t))
    if keys == NULL:
        raise MemoryError()
    for i in range(len(addresses)):
        keys[i] = addresses[i]
    return keys


cdef int fill_sparse(ModbusSparseDataBlock block, dict values) except -1:
    cdef list addresses = sorted(values)
    cdef uint32_t* keys = keys_from(addresses)
    cdef uint16_t* words
    try:
        words = words_from([values[address] for address in addresses], 0)
    except BaseException:
        free(keys)
        raise
    swap_in(&block.image, words, keys, 0, <uint32_t> len(addresses))
    return 0
