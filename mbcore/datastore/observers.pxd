from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    # Bytes of the values that one write may have: 123 registers, or 1968 coils (AP 6.11, 6.12).
    LONGEST_DATA = 246

# Values that a master has written one behind the other.
ctypedef struct span_t:
    int table
    # of FILE_RECORDS: the file
    uint16_t number
    # the wire's, or the first record
    uint16_t address
    uint16_t count
    # as on the wire; NULL: `value` is the only one
    const uint8_t* data
    uint16_t value

# One such write in a unit, on its way to the observers.
ctypedef struct note_t:
    span_t span
    uint8_t[LONGEST_DATA] data
    int unit_id

# A value that was written while the observers were behind. Those that there are stand in a list, in the order of their last writes.
ctypedef struct value_t:
    # unit, table, file and address, from the highest bits to the lowest
    uint64_t key
    # the number of the last write to it, from 1 on, in the highest bits; 0: it was not written. Then its unit id (8 bits) and value (16).
    uint64_t stamp
    value_t* before
    value_t* behind

cdef enum:
    PAGE = 64

# Those of PAGE addresses that follow one another: what is found is a page, so that many values make a small table.
ctypedef struct page_t:
    uint64_t number
    value_t[PAGE] values

# A hash table of pages, with `room` places, and the list of what stands in them.
ctypedef struct pages_t:
    page_t** places
    uint32_t room
    uint32_t count
    value_t* first
    value_t* last


cdef class Observers:
    cdef list called
    # of the process that these notes are of
    cdef unsigned int forks

    # The ring of notes: `base` is the number of the one that has its first place. Written with the image locked, but for `told`.
    cdef note_t* ring
    cdef unsigned int written
    cdef unsigned int told
    cdef unsigned int base
    # What did not find room in the ring. Touched with the image locked.
    cdef pages_t pages
    cdef uint64_t writes
    # Values that were written again before observers were told; values for which there was no memory.
    cdef unsigned int coalesced
    cdef unsigned int lost

    # Of who tells, with the GIL: up to which note; whether of the pages too; it is under way.
    cdef unsigned int until
    cdef bint pages_too
    cdef bint telling
    # pages that are told of, and the next of their values
    cdef pages_t taken
    cdef value_t* next_value

    cdef int add(self, object observer) except -1
    cdef void enter(self, int unit_id, int owner, const span_t* span) noexcept nogil
    cdef void merge(self, int unit_id, int owner, const span_t* span) noexcept nogil
    cdef void put(self, uint64_t key, uint32_t unit_and_value) noexcept nogil
    cdef int tell(self, object report) except -1
    cdef object call(self, tuple event, object report, object wanted)
    cdef tuple next_event(self)
    cdef tuple next_of_ring(self)
    cdef tuple next_taken(self)
    cdef bint take_pages(self) noexcept
    cdef void forget(self) noexcept nogil
