"""Writes by masters that a loop notes and observers hear of later, in order. One thread writes, without the GIL, another tells."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from mbcore.engine.shared cimport look, show
from mbcore.session cimport Session, exchange_t

cdef enum:
    # Writes that have not been told yet, at most: then who writes has to wait.
    NOTES = 64


cdef void take_pdu(note_t* note) noexcept nogil:
    """Have the exchange point into the note itself."""
    cdef exchange_t* exchange = &note.exchange
    memcpy(note.pdu, exchange.frame.pdu, exchange.frame.pdu_length)
    if exchange.request.data != NULL:
        exchange.request.data = note.pdu + (exchange.request.data - exchange.frame.pdu)
    exchange.frame.pdu = note.pdu


cdef void copy_note(note_t* note, const note_t* noted) noexcept nogil:
    note[0] = noted[0]
    take_pdu(note)


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
        if self.written - look(&self.told) == NOTES:
            return False
        note.exchange = session.exchange
        memcpy(note.executed, session.executed, sizeof(note.executed))
        take_pdu(note)
        show(&self.written, self.written + 1)
        return True

    cdef int tell(self, Session session) except -1:
        """Tell the observers of `session`'s store of all that is noted by now, each write once, whatever they raise.

        An observer may have the rest told, as one does that stops the server.
        """
        cdef unsigned int last = look(&self.written)
        cdef note_t note
        while <int> (last - self.told) > 0:
            copy_note(&note, &self.ring[self.told % NOTES])
            show(&self.told, self.told + 1)
            session.tell_observers(&note.exchange, note.executed)
        return 0
