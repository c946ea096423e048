"""The observers of a server context, and what masters have written that they have not heard of yet, in order.

Every session enters its write with the image locked, so that the writes of all servers of a context are here in the order in which the
image has them. Who has the GIL tells. Who writes never waits for that: where observers are too far behind it is the values that are kept,
of each address the last one. Then they hear of what was written and not written again, in the order of the writes; what was written
together and lies together still comes together.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, qsort
from libc.string cimport memcpy

from mbcore.datastore.store cimport COILS, FILE_RECORDS, HOLDING_REGISTERS
from mbcore.lock cimport lock_image, unlock_image
from mbcore.shared cimport look, show
from mbcore.wire cimport load_u16

cdef enum:
    # Writes that observers hear of as they were, at most; a power of two.
    NOTES = 1024
    # Places of the first table of values.
    ROOM = 256

# What observers know a table by.
cdef dict NAMES = {COILS: "coils", HOLDING_REGISTERS: "holding_registers", FILE_RECORDS: "file_records"}


cdef uint16_t value_in(const span_t* span, int index) noexcept nogil:
    if span.data == NULL:
        return span.value
    if span.table == COILS:
        return span.data[index >> 3] >> (index & 7) & 1
    return load_u16(span.data + 2 * index)


cdef int by_write(const void* one, const void* other) noexcept nogil:
    cdef const value_t* a = <const value_t*> one
    cdef const value_t* b = <const value_t*> other
    if a.stamp >> 16 != b.stamp >> 16:
        return -1 if a.stamp >> 16 < b.stamp >> 16 else 1
    return -1 if a.key < b.key else 1


cdef uint32_t place_of(const value_t* values, uint32_t room, uint64_t key) noexcept nogil:
    """Where `key` is, or where there is room for it; `room` is a power of two, and not all of it is used."""
    cdef uint32_t place = <uint32_t> (key * <uint64_t> 0x9E3779B97F4A7C15 >> 32) & (room - 1)
    while values[place].stamp and values[place].key != key:
        place = (place + 1) & (room - 1)
    return place


cdef tuple event_of(int unit_id, int table, int number, int address, list values):
    """A write as observers hear of it; `number` is the file's."""
    cdef object place = address
    if table == FILE_RECORDS:
        place = (number, address)
    return unit_id, NAMES[table], place, [value != 0 for value in values] if table == COILS else values


cdef class Observers:
    """Who is called, a ring of notes, and a table of the values that did not find room in it."""

    def __cinit__(self):
        self.called = []

    def __dealloc__(self):
        free(self.ring)
        free(self.values)
        free(self.taken)

    cdef int add(self, object observer) except -1:
        """Call one more, from the next write that is told on."""
        if self.ring == NULL:
            # Nobody else pays for it.
            self.ring = <note_t*> calloc(NOTES, sizeof(note_t))
            if self.ring == NULL:
                raise MemoryError()
        self.called = [*self.called, observer]
        return 0

    # ---- from the threads that write, with the image locked ---------------------------------------------------------------------------

    cdef void enter(self, int unit_id, const span_t* span) noexcept nogil:
        """Note that values were written in a unit."""
        cdef note_t* note
        # What comes behind something in the table goes there too.
        if self.count or self.written - look(&self.told) == NOTES:
            self.merge(unit_id, span)
            return
        if self.written == look(&self.told):
            # The same few places again and again, for the sake of small caches.
            self.base = self.written
        note = &self.ring[(self.written - self.base) % NOTES]
        note.span = span[0]
        if span.data != NULL:
            memcpy(note.data, span.data, (span.count + 7) // 8 if span.table == COILS else 2 * span.count)
        note.unit_id = unit_id
        show(&self.written, self.written + 1)

    cdef void merge(self, int unit_id, const span_t* span) noexcept nogil:
        """Enter what was written into the table."""
        cdef uint64_t key = (<uint64_t> unit_id << 8 | span.table) << 32 | <uint64_t> span.number << 16 | span.address
        cdef int index
        self.writes += 1
        for index in range(span.count):
            self.put(key + index, value_in(span, index))

    cdef void put(self, uint64_t key, uint16_t value) noexcept nogil:
        cdef uint32_t place
        if 4 * self.count >= 3 * self.room and not self.grow():
            show(&self.lost, self.lost + 1)
            return
        place = place_of(self.values, self.room, key)
        if self.values[place].stamp:
            show(&self.coalesced, self.coalesced + 1)
        else:
            self.count += 1
        self.values[place].key = key
        self.values[place].stamp = self.writes << 16 | value

    cdef bint grow(self) noexcept nogil:
        cdef uint32_t room = 2 * self.room or ROOM
        cdef uint32_t i
        cdef value_t* values = <value_t*> calloc(room, sizeof(value_t))
        if values == NULL:
            return False
        for i in range(self.room):
            if self.values[i].stamp:
                values[place_of(values, room, self.values[i].key)] = self.values[i]
        free(self.values)
        self.values = values
        self.room = room
        return True

    # ---- from the threads that tell, with the GIL -------------------------------------------------------------------------------------

    cdef int tell(self, object report) except -1:
        """Tell each observer of all that is noted by now, each write once, in order, whatever they raise.

        Where they are being told already that goes on to these writes: where one causes a further one, all hear of that behind the one at
        hand. Raises what an observer wants the program to end with when all have heard of all.

        :param report: called with (sentence, exception) where an observer raises
        """
        self.until = look(&self.written)
        self.table_too = True
        if self.telling:
            return 0
        self.telling = True
        wanted = None
        try:
            while (event := self.next_event()) is not None:
                wanted = self.call(<tuple> event, report, wanted)
        finally:
            self.telling = False
        if wanted is not None:
            raise wanted
        return 0

    cdef object call(self, tuple event, object report, object wanted):
        """Call each observer; returns the first of what is `wanted` instead of going on."""
        unit_id, table, place, values = event
        for observer in self.called:
            try:
                try:
                    observer(unit_id, table, place, list(values))
                except (Exception, SystemExit) as error:
                    if report is not None:
                        report(f"the observer {observer!r} failed", error)
            except BaseException as error:
                # Further ones want the same.
                if wanted is None:
                    wanted = error
        return wanted

    cdef tuple next_event(self):
        """What is to be told next; it is not told twice. None where there is nothing more."""
        while True:
            if self.taken_told < self.taken_count:
                return self.next_taken()
            if self.told != self.until:
                return self.next_of_ring()
            if not self.table_too or not self.take_table():
                return None

    cdef tuple next_of_ring(self):
        cdef note_t note = self.ring[(self.told - self.base) % NOTES]
        cdef int index
        show(&self.told, self.told + 1)
        if note.span.data != NULL:
            note.span.data = note.data
        values = [value_in(&note.span, index) for index in range(note.span.count)]
        return event_of(note.unit_id, note.span.table, note.span.number, note.span.address, values)

    cdef tuple next_taken(self):
        cdef const value_t* first = &self.taken[self.taken_told]
        cdef uint64_t key = first.key
        cdef uint32_t i = 0
        values = []
        while i < self.taken_count - self.taken_told and first[i].key == key + i and first[i].stamp >> 16 == first.stamp >> 16:
            values.append(first[i].stamp & 0xFFFF)
            i += 1
        self.taken_told += i
        if self.taken_told == self.taken_count:
            free(self.taken)
            self.taken, self.taken_count, self.taken_told = NULL, 0, 0
        return event_of(<int> (key >> 40), <int> (key >> 32 & 0xFF), <int> (key >> 16 & 0xFFFF), <int> (key & 0xFFFF), values)

    cdef bint take_table(self) noexcept:
        """Have what is in the table told next, or first what was written before it; False where it is empty."""
        cdef uint32_t i, count = 0
        cdef bint there
        lock_image()
        there = self.count > 0
        if there and self.told != self.written:
            # Nothing comes behind that but into the table.
            self.until = self.written
        elif there:
            self.taken, self.taken_count = self.values, self.room
            self.values, self.room, self.count = NULL, 0, 0
            # What is written from now on is told the next time: there may be no end of it.
            self.table_too = False
        unlock_image()
        for i in range(self.taken_count):
            if self.taken[i].stamp:
                self.taken[count] = self.taken[i]
                count += 1
        self.taken_count = count
        if count:
            qsort(self.taken, count, sizeof(value_t), by_write)
        return there

    cdef void forget(self) noexcept:
        """In a fork of the process that tells: nobody is told here of what is noted by now."""
        lock_image()
        self.until = self.written
        show(&self.told, self.written)
        free(self.values)
        self.values, self.room, self.count = NULL, 0, 0
        unlock_image()
        free(self.taken)
        self.taken, self.taken_count, self.taken_told = NULL, 0, 0
        self.telling = False
