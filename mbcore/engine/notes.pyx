"""Writes by masters that a loop notes and observers hear of later, in order. One thread writes, without the GIL, another tells."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from mbcore.engine.shared cimport look, show
from mbcore.session cimport Session, exchange_t

cdef enum:
    # Writes that have not been told yet, at most: then who writes has to wait.
    NOTES = 64


cdef class Notes:
    """A ring of notes."""

    def __cinit__(self):
        self.ring = <note_t*> calloc(NOTES, sizeof(note_t))
        if self.ring == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.ring)

    cdef bint write(self, Session session) noexcept nogil:
        """Note the write that `session` has stopped at; False where the observers are too far behind."""
        cdef note_t* note = &self.ring[self.written % NOTES]
        cdef exchange_t* exchange = &note.exchange
        if self.written - look(&self.told) == NOTES:
            return False
        exchange[0] = session.exchange
        memcpy(note.executed, session.executed, sizeof(note.executed))
        memcpy(note.pdu, exchange.frame.pdu, exchange.frame.pdu_length)
        if exchange.request.data != NULL:
            exchange.request.data = note.pdu + (exchange.request.data - exchange.frame.pdu)
        exchange.frame.pdu = note.pdu
        show(&self.written, self.written + 1)
        return True

    cdef int tell(self, Session session) except -1:
        """Tell the observers of `session`'s store of all that is noted by now, each write once, whatever they raise."""
        cdef unsigned int last = look(&self.written)
        cdef note_t* note
        while self.told != last:
            note = &self.ring[self.told % NOTES]
            try:
                session.tell_observers(&note.exchange, note.executed)
            finally:
                show(&self.told, self.told + 1)
        return 0
