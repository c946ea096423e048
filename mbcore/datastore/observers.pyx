"""The observers of a server context, and what masters have written that they have not heard of yet, in order.

Every session enters its write with the image locked, so that the writes of all servers of a context are here in the order in which the
image has them. Who has the GIL tells. Who writes never waits for that: where observers are too far behind it is the values that are kept,
of each address the last one. Then they hear of what was written and not written again, in the order of the writes; what was written
together and lies together still comes together.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from mbcore.datastore.store cimport COILS, FILE_RECORDS, HOLDING_REGISTERS
from mbcore.lock cimport fork_count, lock_image, unlock_image
from mbcore.shared cimport look, show
from mbcore.wire cimport load_u16

cdef enum:
    # Events that observers hear of as they were, at most: of a broadcast one for each unit. A power of two.
    NOTES = 1024
    # Places of the first table of pages.
    ROOM = 16

# What observers know a table by.
cdef dict NAMES = {COILS: "coils", HOLDING_REGISTERS: "holding_registers", FILE_RECORDS: "file_records"}


cdef uint16_t value_in(const span_t* span, int index) noexcept nogil:
    if span.data == NULL:
        return span.value
    if span.table == COILS:
        return span.data[index >> 3] >> (index & 7) & 1
    return load_u16(span.data + 2 * index)


# ---- pages ----------------------------------------------------------------------------------------------------------------------------

cdef page_t** place_of(const pages_t* pages, uint64_t number) noexcept nogil:
    """Where a page is, or where there is room for it; `room` is a power of two, and not all of it is used."""
    cdef uint32_t place = <uint32_t> (number * <uint64_t> 0x9E3779B97F4A7C15 >> 32) & (pages.room - 1)
    while pages.places[place] != NULL and pages.places[place].number != number:
        place = (place + 1) & (pages.room - 1)
    return &pages.places[place]


cdef bint make_room(pages_t* pages) noexcept nogil:
    """Whether there is room for one more page."""
    cdef pages_t larger = pages[0]
    cdef uint32_t i
    if 4 * pages.count < 3 * pages.room:
        return True
    larger.room = 2 * pages.room or ROOM
    larger.places = <page_t**> calloc(larger.room, sizeof(page_t*))
    if larger.places == NULL:
        return False
    for i in range(pages.room):
        if pages.places[i] != NULL:
            place_of(&larger, pages.places[i].number)[0] = pages.places[i]
    free(pages.places)
    pages[0] = larger
    return True


cdef value_t* value_at(pages_t* pages, uint64_t key) noexcept nogil:
    """The value of a key, in a page that is made where there is none; NULL where there is no memory."""
    cdef page_t* page = NULL
    if pages.room:
        page = place_of(pages, key // PAGE)[0]
    if page == NULL:
        page = <page_t*> calloc(1, sizeof(page_t))
        if page == NULL or not make_room(pages):
            free(page)
            return NULL
        page.number = key // PAGE
        place_of(pages, page.number)[0] = page
        pages.count += 1
    return &page.values[key % PAGE]


cdef void put_last(pages_t* pages, value_t* value) noexcept nogil:
    """Have a value stand at the end of the list, where it is not in it or has another place."""
    if value.stamp:
        if value == pages.last:
            return
        value.behind.before = value.before
        if value == pages.first:
            pages.first = value.behind
        else:
            value.before.behind = value.behind
    value.before, value.behind = pages.last, NULL
    if pages.last == NULL:
        pages.first = value
    else:
        pages.last.behind = value
    pages.last = value


cdef void drop_pages(pages_t* pages) noexcept nogil:
    cdef uint32_t i
    for i in range(pages.room):
        free(pages.places[i])
    free(pages.places)
    memset(pages, 0, sizeof(pages_t))


# ---- who is told ----------------------------------------------------------------------------------------------------------------------

cdef tuple event_of(int unit_id, int table, int number, int address, list values):
    """A write as observers hear of it; `number` is the file's."""
    cdef object place = address
    if table == FILE_RECORDS:
        place = (number, address)
    return unit_id, NAMES[table], place, [value != 0 for value in values] if table == COILS else values


cdef class Observers:
    """Who is called, a ring of notes, and pages of the values that did not find room in it."""

    def __cinit__(self):
        self.called = []
        self.forks = fork_count()

    def __dealloc__(self):
        free(self.ring)
        drop_pages(&self.pages)
        drop_pages(&self.taken)

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

    cdef void enter(self, int unit_id, int owner, const span_t* span) noexcept nogil:
        """Note that values were written in a unit.

        :param owner: one unit id for all by which the same image is reached
        """
        cdef note_t* note
        if self.forks != fork_count():
            self.forget()
        # What comes behind something in the pages goes there too.
        if self.pages.first != NULL or self.written - look(&self.told) == NOTES:
            self.merge(unit_id, owner, span)
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

    cdef void merge(self, int unit_id, int owner, const span_t* span) noexcept nogil:
        """Enter what was written into the pages."""
        cdef uint64_t key = (<uint64_t> owner << 8 | span.table) << 32 | <uint64_t> span.number << 16 | span.address
        cdef int index
        self.writes += 1
        for index in range(span.count):
            self.put(key + index, <uint32_t> unit_id << 16 | value_in(span, index))

    cdef void put(self, uint64_t key, uint32_t unit_and_value) noexcept nogil:
        cdef value_t* value = value_at(&self.pages, key)
        if value == NULL:
            show(&self.lost, self.lost + 1)
            return
        if value.stamp:
            show(&self.coalesced, self.coalesced + 1)
        put_last(&self.pages, value)
        value.key = key
        value.stamp = self.writes << 24 | unit_and_value

    # ---- from the threads that tell, with the GIL -------------------------------------------------------------------------------------

    cdef int tell(self, object report) except -1:
        """Tell each observer of all that is noted by now, each write once, in order, whatever they raise.

        Where they are being told already that goes on to these writes: where one causes a further one, all hear of that behind the one at
        hand. Raises what an observer wants the program to end with when all have heard of all.

        :param report: called with (sentence, exception) where an observer raises
        """
        if look(&self.forks) != fork_count():
            lock_image()
            # Another thread of the child may have been here before.
            if self.forks != fork_count():
                self.forget()
            unlock_image()
        self.until = look(&self.written)
        self.pages_too = True
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
        # An observer may have forked: its parent goes on.
        while look(&self.forks) == fork_count():
            if self.next_value != NULL:
                return self.next_taken()
            if self.told != self.until:
                return self.next_of_ring()
            if not self.pages_too or not self.take_pages():
                break
        return None

    cdef tuple next_of_ring(self):
        cdef note_t note = self.ring[(self.told - self.base) % NOTES]
        cdef int index
        # First: without memory for the rest it is not told, rather than told for ever.
        show(&self.told, self.told + 1)
        if note.span.data != NULL:
            note.span.data = note.data
        values = [value_in(&note.span, index) for index in range(note.span.count)]
        return event_of(note.unit_id, note.span.table, note.span.number, note.span.address, values)

    cdef tuple next_taken(self):
        """What was written together, as far as it lies together."""
        cdef const value_t* first = self.next_value
        cdef uint64_t key = first.key, stamp = first.stamp
        cdef uint64_t end = key
        values = []
        while self.next_value != NULL and self.next_value.key == end and self.next_value.stamp >> 16 == stamp >> 16:
            values.append(self.next_value.stamp & 0xFFFF)
            self.next_value = self.next_value.behind
            end += 1
        if self.next_value == NULL:
            drop_pages(&self.taken)
        return event_of(
            <int> (stamp >> 16 & 0xFF), <int> (key >> 32 & 0xFF), <int> (key >> 16 & 0xFFFF), <int> (key & 0xFFFF), values
        )

    cdef bint take_pages(self) noexcept:
        """Have what is in the pages told next, or first what was written before it; False where there is nothing."""
        cdef bint there
        lock_image()
        there = self.pages.first != NULL
        if there and self.told != self.written:
            # Nothing comes behind that but into the pages.
            self.until = self.written
        elif there:
            self.taken = self.pages
            self.next_value = self.taken.first
            memset(&self.pages, 0, sizeof(pages_t))
            # What is written from now on is told the next time: there may be no end of it.
            self.pages_too = False
        unlock_image()
        return there

    cdef void forget(self) noexcept nogil:
        """In a fork of the process that tells, with the image locked: nobody is told here of what is noted by now."""
        self.until = self.written
        show(&self.told, self.written)
        drop_pages(&self.pages)
        drop_pages(&self.taken)
        self.next_value = NULL
        self.telling = False
        # Last: who sees that needs no lock for the rest.
        show(&self.forks, fork_count())
