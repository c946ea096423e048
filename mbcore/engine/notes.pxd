from libc.stdint cimport uint8_t

from mbcore.session cimport Session, exchange_t

# One write by a master, for the observers.
ctypedef struct note_t:
    exchange_t exchange
    uint8_t[256] pdu
    uint8_t[32] executed


cdef class Notes:
    cdef note_t* ring
    cdef unsigned int written
    cdef unsigned int told

    cdef bint write(self, Session session) noexcept nogil
    cdef int tell(self, Session session) except -1
