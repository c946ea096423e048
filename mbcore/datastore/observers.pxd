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

# One such write on its way to the observers.
ctypedef struct note_t:
    span_t span
    uint8_t[LONGEST_DATA] data
    int unit_id

# A value that was written while the observers were behind.
ctypedef struct value_t:
    # unit id, table, file and address, from the highest bits to the lowest
    uint64_t key
    # the number of the last write to it, from 1 on, and its value in the lowest 16 bits; 0: an empty place
    uint64_t stamp


cdef class Observers:
    cdef list called

    # The ring of notes: `base` is the number of the one that has its first place. Written with the image locked, but for `told`.
    cdef note_t* ring
    cdef unsigned int written
    cdef unsigned int told
    cdef unsigned int base
    # What did not find room in the ring, a hash table with `room` places. Touched with the image locked.
    cdef value_t* values
    cdef uint32_t room
    cdef uint32_t count
    cdef uint64_t writes
    # Values that were written again before observers were told; values for which there was no memory.
    cdef unsigned int coalesced
    cdef unsigned int lost

    # Of who tells, with the GIL: up to which note; whether of the table too; it is under way.
    cdef unsigned int until
    cdef bint table_too
    cdef bint telling
    # taken from the table, in order, and how many of them were told
    cdef value_t* taken
    cdef uint32_t taken_count
    cdef uint32_t taken_told

    cdef int add(self, object observer) except -1
    cdef void enter(self, int unit_id, const span_t* span) noexcept nogil
    cdef void merge(self, int unit_id, const span_t* span) noexcept nogil
    cdef void put(self, uint64_t key, uint16_t value) noexcept nogil
    cdef bint grow(self) noexcept nogil
    cdef int tell(self, object report) except -1
    cdef object call(self, tuple event, object report, object wanted)
    cdef tuple next_event(self)
    cdef tuple next_of_ring(self)
    cdef tuple next_taken(self)
    cdef bint take_table(self) noexcept
    cdef void forget(self) noexcept
