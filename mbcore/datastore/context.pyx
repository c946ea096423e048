"""The slave context (one unit: four tables, files, FIFO queues) and the server context (units by id). Knows no messages.

The one-off of ``zero_mode=False`` exists only here: a wire address is zero-based everywhere else.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from cpython.bytes cimport PyBytes_AsString

from mbcore.constants cimport *
from mbcore.datastore.observers cimport Observers
from mbcore.datastore.store cimport (
    COILS, DISCRETE_INPUTS, HOLDING_REGISTERS, INPUT_REGISTERS, BaseModbusDataBlock, ModbusSequentialDataBlock, image_t, zero_block,
)
from mbcore.lock cimport lock_image, unlock_image
from mbcore.shared cimport look

from mbcore.datastore.views import BlockMapping, NumberedMapping
from mbcore.errors import ConfigurationError, NoSuchSlaveException, ParameterException

cdef dict TABLE_OF_KEY = {"d": DISCRETE_INPUTS, "c": COILS, "i": INPUT_REGISTERS, "h": HOLDING_REGISTERS}
cdef dict KEY_OF_FUNCTION = {
    READ_COILS: "c", WRITE_SINGLE_COIL: "c", WRITE_MULTIPLE_COILS: "c",
    READ_DISCRETE_INPUTS: "d", READ_INPUT_REGISTERS: "i",
    READ_HOLDING_REGISTERS: "h", WRITE_SINGLE_REGISTER: "h", WRITE_MULTIPLE_REGISTERS: "h", MASK_WRITE_REGISTER: "h",
    READ_WRITE_MULTIPLE_REGISTERS: "h",
}

# The longest answer of 17 that fits a PDU: function code and byte count stand before it.
cdef enum:
    MAX_SERVER_ID = MAX_PDU - 2

# Stands for a context whose every answer is Python's: no table in C.
cdef unit_t FOREIGN
memset(&FOREIGN, 0, sizeof(FOREIGN))


cdef image_t* numbered(const numbered_t* entries, uint32_t count, uint16_t number) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        if entries[i].number == number:
            return entries[i].image
    return NULL


cdef class ModbusSlaveContext:
    """One unit: four tables, and where it has them, files and FIFO queues.

    :param di: discrete inputs, a data block; likewise ``co`` coils, ``ir`` input registers, ``hr`` holding registers. One that is missing
        is a block of zeros for all 65536 addresses.
    :param zero_mode: False, as in pymodbus: the block address is the wire's address + 1. True: it is the wire's address.
    :param files: {file number 1..65535: list of 16-bit records from record 0} for functions 20 and 21
    :param fifos: {pointer address 0..65535: list of values} for function 24
    :raises ConfigurationError: a value or a number is out of its range
    """

    def __cinit__(self, *args, **kwargs):
        memset(&self.unit, 0, sizeof(self.unit))
        self.unit.offset = 1
        self.blocks = {}
        self.file_blocks = {}
        self.fifo_blocks = {}
        self.own_functions = {}
        cdef bint own = bool(own_methods(type(self), ()))
        cdef int table
        for table in range(4):
            self.foreign[table] = own

    def __init__(self, *, di=None, co=None, ir=None, hr=None, zero_mode=False, files=None, fifos=None):
        self.zero_mode = zero_mode
        # A default block has one address more where the context adds one, so that wire address 65535 exists.
        for key, block in (("d", di), ("c", co), ("i", ir), ("h", hr)):
            self._attach(key, zero_block(65536 + self.unit.offset) if block is None else block)
        self.files = files or {}
        self.fifos = fifos or {}

    def __dealloc__(self):
        free(self.unit.files)
        free(self.unit.fifos)

    @property
    def zero_mode(self):
        """Whether block addresses are wire addresses; False: they are one more."""
        return self.unit.offset == 0

    @zero_mode.setter
    def zero_mode(self, zero_mode):
        lock_image()
        self.unit.offset = 0 if zero_mode else 1
        unlock_image()

    @property
    def store(self):
        """The blocks as a live dict: "d" discrete inputs, "c" coils, "i" input registers, "h" holding registers, and a user's own keys."""
        return BlockMapping(self)

    @property
    def files(self):
        """The files, {file number: live list of records}; assign to a key, or a whole dict."""
        return NumberedMapping(self._files, file_blocks_from, self._publish_files)

    @files.setter
    def files(self, files):
        self._publish_files(file_blocks_from(files))

    @property
    def fifos(self):
        """The FIFO queues, {pointer address: live list of values}; the first value is the oldest. More than 31 values answer 03."""
        return NumberedMapping(self._fifos, fifo_blocks_from, self._publish_fifos)

    @fifos.setter
    def fifos(self, fifos):
        self._publish_fifos(fifo_blocks_from(fifos))

    @property
    def reportSlaveIdData(self):
        """What 17 Report Server ID answers for this unit: str or bytes up to 251, run indicator included; None: the server's identity."""
        return self.own_server_id

    @reportSlaveIdData.setter
    def reportSlaveIdData(self, data):
        cdef bytes encoded = None if data is None else data.encode() if isinstance(data, str) else bytes(data)
        if encoded is not None and len(encoded) > MAX_SERVER_ID:
            raise ConfigurationError(f"reportSlaveIdData has {len(encoded)} bytes; function 17 can answer {MAX_SERVER_ID}")
        held = self.own_server_id
        cdef const uint8_t* text = NULL
        cdef uint8_t length = 0
        if encoded is not None:
            text = <const uint8_t*> PyBytes_AsString(encoded)
            length = <uint8_t> len(encoded)
        lock_image()
        self.unit.server_id = text
        self.unit.server_id_length = length
        unlock_image()
        self.own_server_id = encoded
        del held

    def decode(self, fx):
        """Return the key in :attr:`store` of the table that function code ``fx`` acts on.

        :raises ParameterException: ``fx`` acts on no table
        """
        key = self.own_functions.get(fx) or KEY_OF_FUNCTION.get(fx)
        if key is None:
            raise ParameterException(f"function code {fx!r} acts on no table; 1 is coils, 2 discrete inputs, 3 holding, 4 input registers")
        return key

    def register(self, fc, fx, datablock=None):
        """Make the custom function code ``fc`` of this context act on ``datablock`` under the key ``fx`` of :attr:`store`.

        :param datablock: a data block, or what else the function's request class works with; None: a block of 65536 zeros
        :raises ConfigurationError: ``fc`` is a public function code, which has its table; or ``fx`` is a table and ``datablock`` no block
        """
        if fc in KEY_OF_FUNCTION:
            raise ConfigurationError(f"function code {fc} has a table: put the block there, context.store[{KEY_OF_FUNCTION[fc]!r}] = block")
        self._attach(fx, ModbusSequentialDataBlock.create() if datablock is None else datablock)
        self.own_functions[fc] = fx

    cdef int note_methods(self) except -1:
        """Find which tables are the user's methods' to answer for: those of the class, and of the instance by now."""
        cdef int table
        cdef image_t* image
        try:
            own = own_methods(type(self), object.__getattribute__(self, "__dict__"))
        except AttributeError:
            own = own_methods(type(self), ())
        for key, table in TABLE_OF_KEY.items():
            self.foreign[table] = bool(own - {"decode"}) or "decode" in own and not decodes_as_usual(self, key)
            block = self.blocks.get(key)
            image = image_of(block)
            # Else another thread has put one there meanwhile, as it belongs there.
            if self.blocks.get(key) is block:
                self.point(table, image)
        return 0

    cdef void point(self, int table, image_t* image) noexcept:
        """Have a table answered from `image`, where Python need not."""
        lock_image()
        self.unit.tables[table] = NULL if self.foreign[table] else image
        unlock_image()

    cdef object block_of(self, object fx):
        """The block that function code `fx` acts on."""
        key = KEY_OF_FUNCTION.get(fx) if type(self) is ModbusSlaveContext else None
        return self.blocks[self.decode(fx) if key is None else key]

    def validate(self, fx, address, count=1):
        """Return whether the ``count`` addresses from the zero-based wire ``address`` exist in the table of function code ``fx``."""
        return self.block_of(fx).validate(address + self.unit.offset, count)

    def getValues(self, fx, address, count=1):
        """Return a list of ``count`` values from the zero-based wire ``address`` of the table of function code ``fx``; from any thread."""
        return self.block_of(fx).getValues(address + self.unit.offset, count)

    def setValues(self, fx, address, values):
        """Write ``values`` from the zero-based wire ``address`` on, in the table of function code ``fx``; from any thread, at once."""
        # A block of the user's may answer later.
        return self.block_of(fx).setValues(address + self.unit.offset, values)

    def reset(self):
        """Reset every block, file and FIFO queue to its initial values."""
        for blocks in (self.blocks, self.file_blocks, self.fifo_blocks):
            for block in blocks.values():
                # Under a key of the user's own may stand anything.
                if hasattr(block, "reset"):
                    block.reset()

    def __str__(self):
        return f"{type(self).__name__}(zero_mode={self.zero_mode})"

    # What the live dicts need.

    def _blocks(self):
        return self.blocks

    def _files(self):
        return self.file_blocks

    def _fifos(self):
        return self.fifo_blocks

    def _attach(self, key, block):
        cdef image_t* image
        for name in ("validate", "getValues", "setValues", "reset"):
            if key in TABLE_OF_KEY and not callable(getattr(block, name, None)):
                raise ConfigurationError(
                    f"{block!r} is no data block for {key!r}: it has no method {name}(); use ModbusSequentialDataBlock(address, values)"
                )
        image = image_of(block)
        held = self.blocks.get(key)
        if key in TABLE_OF_KEY:
            self.point(TABLE_OF_KEY[key], image)
        self.blocks[key] = block
        # The old block goes only now that no one can reach its image any more.
        del held

    def _publish_files(self, dict blocks):
        publish(&self.unit.files, &self.unit.file_count, blocks)
        # The old blocks go only now that no one can reach their images any more.
        self.file_blocks = blocks

    def _publish_fifos(self, dict blocks):
        publish(&self.unit.fifos, &self.unit.fifo_count, blocks)
        self.fifo_blocks = blocks


cdef image_t* image_of(object block) except? NULL:
    """The image of a block that C may read and write; NULL where Python answers."""
    if isinstance(block, BaseModbusDataBlock) and not (<BaseModbusDataBlock> block).overrides():
        return &(<BaseModbusDataBlock> block).image
    return NULL


cdef set own_methods(object cls, object instance):
    """The methods that a request is answered by which are the user's own: of the class, or in the dict of the instance."""
    return {
        name for name in ("validate", "getValues", "setValues", "decode")
        if name in instance or getattr(cls, name) is not getattr(ModbusSlaveContext, name)
    }


cdef bint decodes_as_usual(ModbusSlaveContext context, str key) except -1:
    """Whether the user's `decode` leaves the functions of the table `key` to it; one that raises is asked again by each request."""
    try:
        return all([context.decode(function_code) == usual for function_code, usual in KEY_OF_FUNCTION.items() if usual == key])
    except Exception:
        return False


cdef object checked_number(object number, int low, str what):
    if not isinstance(number, int) or not low <= number <= 0xFFFF:
        raise ConfigurationError(f"the {what} {number!r} is not in {low}..65535")
    return number


cdef dict blocks_from(object values_by_number, int low, str what):
    blocks = {}
    for number, values in dict(values_by_number).items():
        held = values if isinstance(values, ModbusSequentialDataBlock) else ModbusSequentialDataBlock(0, list(values))
        blocks[checked_number(number, low, what)] = held
    return blocks


def file_blocks_from(files):
    """Return {file number: block} of {file number: records}."""
    return blocks_from(files, 1, "file number")


def fifo_blocks_from(fifos):
    """Return {pointer address: block} of {pointer address: values}."""
    return blocks_from(fifos, 0, "FIFO pointer address")


cdef int publish(numbered_t** entries, uint32_t* count, dict blocks) except -1:
    cdef numbered_t* old
    cdef numbered_t* new = <numbered_t*> malloc(max(len(blocks), 1) * sizeof(numbered_t))
    cdef int i
    if new == NULL:
        raise MemoryError()
    for i, (number, block) in enumerate(blocks.items()):
        new[i].number = number
        new[i].image = &(<ModbusSequentialDataBlock> block).image
    lock_image()
    old = entries[0]
    entries[0] = new
    count[0] = <uint32_t> len(blocks)
    unlock_image()
    free(old)
    return 0


cdef class ModbusServerContext:
    """The units of a server.

    :param slaves: with ``single=True`` one context, which answers every unit id; with ``single=False`` a dict {unit id: context}. A
        context is a :class:`ModbusSlaveContext` or any object with its ``validate``, ``getValues`` and ``setValues``.
    :param single: whether one context answers every unit id
    :raises ConfigurationError: ``slaves`` does not fit ``single``, or something in it is no slave context
    :raises NoSuchSlaveException: a unit id is not one of 0..247 or 255
    """

    def __cinit__(self, *args, **kwargs):
        memset(&self.units, 0, sizeof(self.units))
        self.contexts = {}
        self.observers = Observers()

    def __init__(self, slaves=None, single=True):
        self.single = single
        if single:
            if hasattr(slaves, "items"):
                raise ConfigurationError("slaves is a dict of units: write ModbusServerContext(slaves=..., single=False)")
            self[0] = ModbusSlaveContext() if slaves is None else slaves
        elif slaves is not None and not hasattr(slaves, "items"):
            raise ConfigurationError("slaves is one context: write ModbusServerContext(slaves={1: context}, single=False), or single=True")
        else:
            for unit_id, context in dict(slaves or {}).items():
                self[unit_id] = context

    def __iter__(self):
        """Iterate over (unit id, context)."""
        return iter(list(self.contexts.items()))

    def __contains__(self, unit_id):
        return bool(self.contexts) if self.single else unit_id in self.contexts

    def __len__(self):
        return len(self.contexts)

    def __getitem__(self, unit_id):
        """Return the context of ``unit_id``.

        :raises NoSuchSlaveException: there is none
        """
        try:
            return self.contexts[0 if self.single else unit_id]
        except KeyError:
            raise NoSuchSlaveException(f"there is no unit {unit_id!r} in this server context") from None

    def __setitem__(self, unit_id, context):
        """Put ``context`` in the place of ``unit_id`` (with ``single``: of every unit id)."""
        unit_id = 0 if self.single else checked_unit_id(unit_id)
        for name in ("validate", "getValues", "setValues"):
            if not callable(getattr(context, name, None)):
                raise ConfigurationError(
                    f"{context!r} is no slave context: it has no method {name}(); use ModbusSlaveContext(di=..., co=..., ir=..., hr=...)"
                )
        if isinstance(context, ModbusSlaveContext):
            (<ModbusSlaveContext> context).note_methods()
        held = self.contexts.get(unit_id)
        self.contexts[unit_id] = context
        self._place()
        # The old context goes only now that no one can reach it any more.
        del held

    def __delitem__(self, unit_id):
        """Take ``unit_id`` out.

        :raises NoSuchSlaveException: there is none, or the context is ``single``
        """
        if self.single:
            raise NoSuchSlaveException("a server context with single=True cannot lose its only unit")
        if unit_id not in self.contexts:
            raise NoSuchSlaveException(f"there is no unit {unit_id!r} in this server context")
        held = self.contexts.pop(unit_id)
        self._place()
        del held

    def slaves(self):
        """Return the unit ids as a list; [0] with ``single``."""
        return list(self.contexts)

    def add_observer(self, observer):
        """Have ``observer(unit_id, table, address, values)`` called after every successful write by a master.

        ``unit_id`` is the wire's, of a broadcast that of each unit in turn; ``table`` is "coils", "holding_registers" or "file_records";
        ``address`` is the wire's (of a file record: (file, record)); ``values`` is a list of truth values or ints. An observer can't
        veto; what it raises is reported and changes nothing. Where observers are being told of a write already they hear of this one
        behind that, in the same thread, perhaps after its reply.
        """
        if not callable(observer):
            raise ConfigurationError(f"the observer {observer!r} cannot be called; give a function (unit_id, table, address, values)")
        self.observers.add(observer)
        self.note_observers()

    def remove_observer(self, observer):
        """Undo :meth:`add_observer`.

        :raises ConfigurationError: it was not added
        """
        remaining = list(self.observers.called)
        if observer not in remaining:
            raise ConfigurationError(f"the observer {observer!r} was not added to this server context")
        remaining.remove(observer)
        self.observers.called = remaining
        self.note_observers()

    @property
    def coalesced(self):
        """Values by masters that observers were not told, because they were behind and the values were written again."""
        return look(&self.observers.coalesced)

    @property
    def lost(self):
        """Values by masters that observers were not told, because they were behind and there was no memory."""
        return look(&self.observers.lost)

    cdef void note_observers(self) noexcept:
        lock_image()
        self.units.observed = bool(self.observers.called)
        unlock_image()

    cdef object context_of(self, int unit_id):
        # As the compiled gate sees it: the only unit answers for the device itself, 0 and 255. None: it was taken out since.
        context = self.contexts.get(0 if self.single else unit_id)
        if context is None and (unit_id == 0 or unit_id == 255) and len(self.contexts) == 1:
            return next(iter(self.contexts.values()))
        return context

    def _place(self):
        cdef units_t units
        cdef int unit_id = 0
        units = self.units
        memset(units.by_id, 0, sizeof(units.by_id))
        for number, context in self.contexts.items():
            unit_id = number
            units.by_id[unit_id] = unit_of(context)
        units.only = units.by_id[unit_id] if len(self.contexts) == 1 else NULL
        units.only_id = unit_id
        if self.single:
            for unit_id in range(256):
                units.by_id[unit_id] = units.only
        lock_image()
        self.units = units
        unlock_image()


cdef unit_t* unit_of(object context):
    if isinstance(context, ModbusSlaveContext):
        return &(<ModbusSlaveContext> context).unit
    return &FOREIGN


cdef object checked_unit_id(object unit_id):
    # SL 2.2: 0 broadcast, 1..247 units; TG 4.4.2: 255 the TCP device itself.
    if not isinstance(unit_id, int) or not (0 <= unit_id <= 247 or unit_id == 255):
        raise NoSuchSlaveException(f"the unit id {unit_id!r} is not one of 0..247 or 255")
    return unit_id
