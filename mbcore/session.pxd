from libc.stdint cimport uint8_t

from mbcore.codec cimport custom_t, request_t, response_t
from mbcore.control cimport ModbusControlBlock
from mbcore.datastore.context cimport ModbusServerContext, unit_t
from mbcore.execute cimport Dialogue
from mbcore.framer.base cimport LONGEST_ADU, Framer, frame_t

cdef enum:
    # What `feed` says: every byte has been looked at, or more are needed.
    FED = 0
    # This request needs Python.
    PYTHON = 1
    # A master has written, and someone wants to know.
    OBSERVE = 2
    # A user's code answers later; what came behind its request waits.
    WAIT = 3
    # Room for a partial frame and as much again, so that the framer always gets a whole ADU to look at.
    BUFFER = 2 * LONGEST_ADU

# Of a loop: what the session that is served has, and the others need not.
ctypedef struct buffers_t:
    uint8_t* buffer
    uint8_t* out
    size_t out_room

# One request on its way through the house.
ctypedef struct exchange_t:
    frame_t frame
    request_t request
    response_t response
    # of the outcome: an exception code, or 0
    int refused
    bint broadcast
    # no answer, whatever the outcome
    bint silent
    # it has written, and someone wants to know
    bint observed
    # its function code is a user's own: Python has the whole message
    bint custom
    # the length of the response PDU where it stands ready in its place, else 0
    int ready


cdef class Session:
    cdef readonly Framer framer
    cdef readonly ModbusServerContext store
    cdef readonly ModbusControlBlock control
    cdef object report
    cdef object trace_pdu
    cdef bint traced
    cdef bint serial
    cdef bint ignore_missing_slaves
    cdef bint broadcast_enable
    # the stream can't be trusted any more: close it once the replies are written
    cdef readonly bint closing
    # a run of damaged bytes counts as one communication error
    cdef bint in_noise
    # silence has come: the bytes in the buffer are all there will be
    cdef bint final
    # when the last byte came, seconds
    cdef double last
    # when the call that is under way was made
    cdef double now

    # the bytes being looked at
    cdef const uint8_t* at
    cdef const uint8_t* end
    # a partial frame between calls
    cdef uint8_t* buffer
    cdef int held

    # 256 flags: the unit ids that are answered; NULL: all that the store has
    cdef uint8_t* answered

    # of a loop: which of its sessions are up to date
    cdef unsigned int edition

    # replies not yet handed out
    cdef uint8_t* out
    cdef size_t out_length
    cdef size_t out_room

    cdef exchange_t exchange

    # what decodes custom function codes, and their lengths; NULL: there are none
    cdef object decoder
    cdef custom_t* custom
    cdef int declare(self, object decoder) except -1

    # the request that a trace hook has let through
    cdef uint8_t[256] traced_pdu

    # Of a user's code that answers later: who is still to be asked, what is waited for, since when, and what came meanwhile.
    cdef list asked
    cdef Awaited awaited
    cdef double awaited_since
    cdef double answer_timeout
    cdef bytes backlog
    # what the exchange points into
    cdef bytes kept
    #: Called when a user's code has answered later: :meth:`resume` wants to be called.
    cdef public object wake

    cdef int initialised(self) except -1
    cdef int absorb(self, bytes data) except -1
    cdef int give_up(self) except -1
    cdef bytes taken(self, double now)
    cdef int drive(self, int fed) except -1
    cdef int attend(self, int fed) except -1
    cdef void keep(self) noexcept nogil
    cdef bint has_buffer(self) noexcept nogil
    cdef void forget_replies(self) noexcept nogil
    cdef uint8_t* room(self, int* available) noexcept nogil
    cdef int take(self, int length, double now) noexcept nogil
    cdef int take_datagram(self, int length, double now) noexcept nogil
    cdef bint is_one_frame(self, const uint8_t* at, Py_ssize_t length) noexcept nogil
    cdef int end_partial(self, double now) noexcept nogil
    cdef void clear(self) noexcept nogil
    cdef void lend_buffers(self, buffers_t* buffers) noexcept nogil
    cdef void give_buffers(self, buffers_t* buffers) noexcept nogil
    cdef int feed(self) noexcept nogil
    cdef bint skip_noise(self) noexcept nogil
    cdef void count_dropped(self) noexcept nogil
    cdef void count_damage(self) noexcept nogil
    cdef int answer(self) noexcept nogil
    cdef bint is_ours(self) noexcept nogil
    cdef int admit(self) noexcept nogil
    cdef uint8_t* data_place(self) noexcept nogil
    cdef int execute_one(self, int unit_id, unit_t* unit) noexcept nogil
    cdef void note_outcome(self, int unit_id, int outcome) noexcept nogil
    cdef int execute_everywhere(self) noexcept nogil
    cdef void note_write(self, int unit_id) noexcept nogil
    cdef void settle(self) noexcept nogil
    cdef int conclude(self) noexcept nogil
    cdef bint reserve(self) noexcept nogil
    cdef int tell_observers(self) except -1
    cdef int answer_custom(self) except -1
    cdef int answer_in_python(self) except -1
    cdef int begin_asking(self) except -1
    cdef list addressees(self)
    cdef int ask_on(self) except -1
    cdef void trace_request(self) noexcept with gil
    cdef int trace_response(self, uint8_t* place, int length) noexcept with gil


# An answer that a user's code gives later.
cdef class Awaited:
    cdef Session session
    cdef Dialogue dialogue
    cdef object deferred
    # the session has gone on without it and wants to be woken
    cdef bint suspended
    cdef bint over
    cdef int close(self, object error) except -1
