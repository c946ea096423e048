from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from cpython.pythread cimport PyThread_type_lock

from mbcore.session cimport Session, exchange_t

# One write by a master, for the observers.
ctypedef struct note_t:
    exchange_t exchange
    uint8_t[256] pdu
    uint8_t[32] executed
    # of a broadcast, for one unit
    bint one_of_many

# A value that was written while the observers were behind.
ctypedef struct value_t:
    # unit id, table, file and address, from the highest bits to the lowest
    uint64_t key
    # the number of the last write to it, from 1 on, and its value in the lowest 16 bits; 0: an empty place
    uint64_t stamp


cdef class Notes:
    cdef note_t* ring
    cdef uint32_t size
    cdef unsigned int written
    cdef unsigned int told
    # What did not find room in the ring, a hash table with `room` places. Both threads': touched with the lock held.
    cdef PyThread_type_lock lock
    cdef value_t* values
    cdef uint32_t room
    cdef uint32_t count
    cdef uint64_t writes
    # whether there is something in the table, for a look without the lock
    cdef unsigned int behind
    # values that were written again before observers were told; values for which there was no memory
    cdef readonly unsigned int coalesced
    cdef readonly unsigned int lost
    # taken from the table, in order, and how many of them were told
    cdef value_t* taken
    cdef uint32_t taken_count
    cdef uint32_t taken_told

    cdef int hold(self, uint32_t most) except -1
    cdef void write(self, Session session) noexcept nogil
    cdef void enter(self, Session session, int unit_id) noexcept nogil
    cdef void merge(self, Session session, int unit_id) noexcept nogil
    cdef void merge_for(self, int unit_id, Session session) noexcept nogil
    cdef void put(self, uint64_t key, uint16_t value) noexcept nogil
    cdef bint grow(self) noexcept nogil
    cdef int tell(self, Session session) except -1
    cdef int tell_note(self, Session session) except -1
    cdef void take(self) noexcept
    cdef int tell_taken(self, Session session) except -1
