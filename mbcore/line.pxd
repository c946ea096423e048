from libc.stdint cimport uint8_t

from mbcore.framer.base cimport LONGEST_ADU
from mbcore.session cimport Session

cdef enum:
    # The most bytes that `begin` takes at once.
    CHUNK = 512

# What has happened on a line, since it was first opened.
ctypedef struct line_counters_t:
    # runs of bytes that are no frame
    unsigned int crc_errors
    unsigned int discarded_bytes
    # other slaves' requests and responses
    unsigned int foreign_frames
    # replies not sent: another frame came first, or they came too late
    unsigned int suppressed_replies
    # own transmissions heard back, and those of them that differed
    unsigned int echoes
    unsigned int collisions


cdef class LineSession(Session):
    # t3.5, and how late bytes may be; 0: the framing needs no silence
    cdef double gap
    cdef double late
    cdef double reply_delay
    cdef double reply_deadline
    cdef double character_time
    cdef bint paced
    cdef line_counters_t counters

    # the buffer begins where a frame may begin
    cdef bint boundary
    # how far the silence since the last byte has been dealt with
    cdef int stage
    # when the last byte of the request came whose reply waits
    cdef double asked_at

    # own transmission heard back: what was sent, when, how much of it has come back; `sent_length` until something else came, and
    # `spoken_length` until it has come back among noise
    cdef int echo
    cdef int echo_asked
    cdef uint8_t[LONGEST_ADU] request
    cdef int request_length
    cdef uint8_t[LONGEST_ADU] sent
    cdef int sent_length
    cdef int spoken_length
    cdef int matched
    # bytes that have come since
    cdef Py_ssize_t heard_since
    cdef double sent_at
    # what comes before that can't be a request, unless the line is not paced
    cdef double too_early
    # the reply equals its request
    cdef bint ambiguous
    # replies that have not come back, and those that perhaps have, one after the other
    cdef int unheard
    cdef int suspects
    # as many of those are taken for echoes; that this was done, for want of better evidence, and when last
    cdef int suspicious
    cdef bint guessed
    cdef double guessed_at
    # what came back stands in the buffer until someone else goes on, or nobody does
    cdef bint held_back
    # what came back last was perhaps a request, and once it was one
    cdef bint doubt
    cdef bint doubted

    cdef int choose(self, object units) except -1
    cdef int begin(self, const uint8_t* data, int length, double now) noexcept nogil
    cdef int tick(self, double now) noexcept nogil
    cdef double next_time(self) noexcept nogil
    cdef size_t reply_ready(self, double now) noexcept nogil
    cdef void reply_sent(self, double now) noexcept nogil
    cdef int end_of_frame(self) noexcept nogil
    cdef void discard(self, int length) noexcept nogil
    cdef void drop_reply(self) noexcept nogil
    cdef void count_unsent(self) noexcept nogil
    cdef bint only_zeros(self, const uint8_t* at) noexcept nogil
    cdef bint is_mine(self) noexcept nogil
    cdef void pass_over(self) noexcept nogil
    cdef int hear(self, const uint8_t* data, int length, double now) noexcept nogil
    cdef double echo_time(self) noexcept nogil
    cdef bint is_echo(self, double now) noexcept nogil
    cdef bint is_own(self, const uint8_t* adu, int length) noexcept nogil
    cdef void give_back(self) noexcept nogil
    cdef void learn(self, const uint8_t* adu, int length) noexcept nogil
    cdef void be_warier(self) noexcept nogil
    cdef void count_unheard(self) noexcept nogil
