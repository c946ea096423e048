from libc.stdint cimport uint32_t

from mbcore.engine.bell cimport bell_t
from mbcore.session cimport Session

cdef enum:
    # Of an errand, beside what a session stops for: whether a peer is let in; it is to be closed; it has gone, and its answer need not
    # come; its session is out of date.
    ADMIT = 100
    CLOSE = 101
    CANCEL = 102
    RETIRE = 103
    # Milliseconds between two looks at what Python has handed back while it does several errands.
    LOOK = 1


cdef class Loop:
    # rung to wake the loop, and to call Python
    cdef bell_t to_loop
    cdef bell_t to_python
    # of all processes that share the loop: which one has it; whether this one has, and which one has made it
    cdef int claims
    cdef bint claimed
    cdef int maker
    # Of both threads: written by `show`, read by `look`.
    cdef unsigned int stopping
    cdef unsigned int ended
    # it runs, or has run
    cdef bint begun
    # `__init__` has come to its end
    cdef bint whole
    # this process is a fork of the one where the loop runs, or has wanted it too late
    cdef bint left
    # Of both threads: how often something was counted, or all connections that were to go have gone.
    cdef unsigned int counted
    # who tells the observers of what its sessions write, and how many values of that were lost
    cdef Session first
    cdef unsigned int lost

    cdef void close_descriptors(self) noexcept
    cdef int initialised(self) except -1
    cdef void serve(self) noexcept nogil
    cdef void call_observers(self, Session session) noexcept nogil
    cdef void report(self) noexcept nogil
    cdef bint is_elsewhere(self) noexcept
    cdef int take_over(self) except -1
    cdef void leave(self) noexcept


# A peer that Python is asked for, or is done with.
ctypedef struct errand_t:
    # of the loop's table
    uint32_t index
    # what the session has stopped for, or one of the above; and what to do when it comes back: go on, or CLOSE
    int asked
    int need
    void* session


cdef class Errands:
    cdef errand_t* ring
    cdef uint32_t mask
    cdef unsigned int put_count
    cdef unsigned int got_count

    cdef void put(self, errand_t errand) noexcept nogil
    cdef bint get(self, errand_t* errand) noexcept nogil
    cdef unsigned int count(self) noexcept nogil


cdef class NetworkLoop(Loop):
    cdef object admit
    cdef bint gated
    cdef object new_session
    # of the table; there are as many sessions at most
    cdef uint32_t places

    # every session that was made, for the loop holds none of the references
    cdef set sessions
    # of `spare` the loop takes, and what is given back goes there: its own; `made` is filled by Python
    cdef void** spare
    cdef uint32_t spare_count
    cdef Errands made
    # Of both threads: more are wanted; those of another edition are out of date.
    cdef unsigned int wants_sessions
    cdef unsigned int edition

    cdef Errands asked
    cdef Errands done
    # sessions whose answer a user's code owes, and the indices of their peers
    cdef dict waiting
    # sessions that have come into `waiting`, or were taken out, since `attend` has returned the last time
    cdef list changed
    # the place of whose request was the last, and whether the last call had nothing behind another one of its own
    cdef uint32_t peer
    cdef bint same_peer
    # the loop is to hear of what was handed back
    cdef bint owes_call
    # Of both threads: Python does one errand after the other, and what it has handed back wants to be taken without a call.
    cdef unsigned int several
    # peers that Python is to let in
    cdef uint32_t strangers
    #: Peers that could not wait to be let in, since too many did.
    cdef readonly unsigned int turned_away

    cdef int set_up(self, new_session, admit) except -1
    cdef int tell_all(self) except -1
    cdef object host_of(self, uint32_t index)
    cdef int run_errand(self, errand_t errand) except -1
    cdef bint answer(self, errand_t errand) except -1
    cdef void hand_back(self, errand_t errand) noexcept
    cdef void call(self) noexcept
    cdef bint deliver(self, uint32_t index) noexcept
    cdef bint has_said_more(self, uint32_t index) noexcept
    cdef int make_sessions(self, unsigned int most) except -1
    cdef void want_sessions(self) noexcept nogil
    cdef uint32_t sessions_left(self) noexcept nogil
    cdef bint takes_stranger(self, uint32_t places_left) noexcept nogil
    cdef void* take_session(self) noexcept nogil
    cdef void give_back(self, void* session) noexcept nogil
    cdef void tell(self, uint32_t index, int need, void* session) noexcept nogil
