"""Writes by masters that a loop notes and observers hear of later, in order. One thread writes, without the GIL, another tells.

Who writes never waits: where observers are too far behind it is the values that are kept, of each address the last one. Then they hear of
what was written and not written again, in the order of the writes; what was written together and lies together still comes together.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, qsort
from libc.string cimport memcpy

from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock, PyThread_release_lock, WAIT_LOCK,
)

from mbcore.constants cimport MASK_WRITE_REGISTER
from mbcore.engine.shared cimport look, show
from mbcore.execute cimport next_span, owe_observers, register_at, span_t, tell_owed, value_in
from mbcore.session cimport Session, exchange_t

cdef enum:
    # Of the units of a broadcast.
    EVERY = -1
    # Places of the first table of values.
    ROOM = 256
    # Values that are told together at most: as many as one write may have.
    TOGETHER = 1968


cdef int by_write(const void* one, const void* other) noexcept nogil:
    cdef const value_t* a = <const value_t*> one
    cdef const value_t* b = <const value_t*> other
    if a.stamp >> 16 != b.stamp >> 16:
        return -1 if a.stamp >> 16 < b.stamp >> 16 else 1
    return -1 if a.key < b.key else 1


cdef class Notes:
    """A ring of notes, and a table of the values that did not find room in it."""

    def __cinit__(self):
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError()

    def __dealloc__(self):
        if self.lock != NULL:
            PyThread_free_lock(self.lock)
        free(self.ring)
        free(self.values)
        free(self.taken)

    cdef int hold(self, uint32_t most) except -1:
        """Before the first write: so many are told as they were at most. Memory that no write has needed is not touched."""
        self.ring = <note_t*> calloc(most, sizeof(note_t))
        if self.ring == NULL:
            raise MemoryError()
        self.size = most
        return 0

    # ---- from the thread that writes --------------------------------------------------------------------------------------------------

    cdef void write(self, Session session) noexcept nogil:
        """Note the write that `session` has stopped at."""
        cdef int unit_id
        if not session.exchange.broadcast or session.exchange.request.function_code != MASK_WRITE_REGISTER:
            self.enter(session, EVERY)
            return
        # Every unit has its own result, which may be another one when it is told.
        for unit_id in range(256):
            if session.executed[unit_id >> 3] >> (unit_id & 7) & 1:
                self.enter(session, unit_id)

    cdef void enter(self, Session session, int unit_id) noexcept nogil:
        """Note a write. `unit_id`: of a broadcast's units this one alone, or EVERY."""
        cdef note_t* note = &self.ring[self.written % self.size]
        cdef exchange_t* exchange = &note.exchange
        # What comes behind something in the table goes there too.
        if look(&self.behind) or self.written - look(&self.told) == self.size:
            self.merge(session, unit_id)
            return
        exchange[0] = session.exchange
        memcpy(note.executed, session.executed, sizeof(note.executed))
        note.one_of_many = unit_id != EVERY
        if note.one_of_many:
            exchange.broadcast = False
            exchange.frame.unit_id = unit_id
            exchange.response.value = register_at(&session.store.units, unit_id, exchange.request.address)
        take_pdu(note)
        show(&self.written, self.written + 1)

    cdef void merge(self, Session session, int unit_id) noexcept nogil:
        """Enter what was written into the table."""
        PyThread_acquire_lock(self.lock, WAIT_LOCK)
        self.writes += 1
        if not session.exchange.broadcast:
            self.merge_for(session.exchange.frame.unit_id, session)
        elif unit_id != EVERY:
            self.merge_for(unit_id, session)
        else:
            for unit_id in range(256):
                if session.executed[unit_id >> 3] >> (unit_id & 7) & 1:
                    self.merge_for(unit_id, session)
        show(&self.behind, self.count)
        PyThread_release_lock(self.lock)

    cdef void merge_for(self, int unit_id, Session session) noexcept nogil:
        cdef exchange_t* exchange = &session.exchange
        cdef uint64_t key
        cdef span_t span
        cdef int at = 0, index
        while next_span(&exchange.request, &exchange.response, &at, &span):
            if exchange.broadcast and exchange.request.function_code == MASK_WRITE_REGISTER:
                # Every unit has its own result.
                span.value = register_at(&session.store.units, unit_id, span.address)
            key = (<uint64_t> unit_id << 8 | span.table) << 32 | <uint64_t> span.number << 16 | span.address
            for index in range(span.count):
                self.put(key + index, value_in(&span, index))

    cdef void put(self, uint64_t key, uint16_t value) noexcept nogil:
        cdef uint32_t place
        if 4 * self.count >= 3 * self.room and not self.grow():
            self.lost += 1
            return
        place = place_of(self.values, self.room, key)
        if self.values[place].stamp:
            self.coalesced += 1
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

    # ---- from the thread that tells ---------------------------------------------------------------------------------------------------

    cdef int tell(self, Session session) except -1:
        """Tell the observers of `session`'s store of all that is noted by now, each write once, whatever they raise."""
        # A user's code may be in the midst of this, and want it done: as one has that stops the loop, or answers another request.
        cdef unsigned int last
        self.tell_taken(session)
        last = look(&self.written)
        while <int> (last - self.told) > 0:
            self.tell_note(session)
        PyThread_acquire_lock(self.lock, WAIT_LOCK)
        # What has come into the ring since was written before the table was begun; the bell has been rung for it.
        if self.told == look(&self.written):
            self.taken, self.taken_count, self.taken_told = self.values, self.room, 0
            self.values, self.room, self.count = NULL, 0, 0
            show(&self.behind, 0)
        PyThread_release_lock(self.lock)
        self.take()
        self.tell_taken(session)
        return 0

    cdef int tell_note(self, Session session) except -1:
        cdef note_t note = self.ring[self.told % self.size]
        take_pdu(&note)
        # Not told twice, whatever observers raise.
        show(&self.told, self.told + 1)
        # As of any broadcast: not of a unit that the application has taken out since.
        if note.one_of_many and note.exchange.frame.unit_id not in session.store:
            return 0
        return session.tell_observers(&note.exchange, note.executed)

    cdef void take(self) noexcept:
        """Order what was taken from the table."""
        cdef uint32_t i, count = 0
        for i in range(self.taken_count):
            if self.taken[i].stamp:
                self.taken[count] = self.taken[i]
                count += 1
        self.taken_count = count
        if count:
            qsort(self.taken, count, sizeof(value_t), by_write)

    cdef int tell_taken(self, Session session) except -1:
        cdef value_t* first
        cdef uint32_t i
        while self.taken_told < self.taken_count:
            first = &self.taken[self.taken_told]
            values = []
            for i in range(min(<uint32_t> TOGETHER, self.taken_count - self.taken_told)):
                if first[i].key != first.key + i or first[i].stamp >> 16 != first.stamp >> 16:
                    break
                values.append(first[i].stamp & 0xFFFF)
            # As above.
            self.taken_told += <uint32_t> len(values)
            owe_observers(
                session.store, <int> (first.key >> 40), <int> (first.key >> 32 & 0xFF), <int> (first.key >> 16 & 0xFFFF),
                <int> (first.key & 0xFFFF), values, session.report,
            )
            tell_owed(session.store, None)
        free(self.taken)
        self.taken, self.taken_count, self.taken_told = NULL, 0, 0
        return 0


cdef void take_pdu(note_t* note) noexcept nogil:
    """Have a note that was copied point into itself."""
    cdef exchange_t* exchange = &note.exchange
    memcpy(note.pdu, exchange.frame.pdu, exchange.frame.pdu_length)
    if exchange.request.data != NULL:
        exchange.request.data = note.pdu + (exchange.request.data - exchange.frame.pdu)
    exchange.frame.pdu = note.pdu


cdef uint32_t place_of(const value_t* values, uint32_t room, uint64_t key) noexcept nogil:
    """Where `key` is, or where there is room for it; `room` is a power of two, and not all of it is used."""
    cdef uint32_t place = <uint32_t> (key * <uint64_t> 0x9E3779B97F4A7C15 >> 32) & (room - 1)
    while values[place].stamp and values[place].key != key:
        place = (place + 1) & (room - 1)
    return place
