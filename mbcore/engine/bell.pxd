# What one thread rings, another waits for: an eventfd. Rung again before it is heard it costs no call of the system.

from libc.stdint cimport uint64_t

from posix.unistd cimport read, write

from mbcore.shared cimport look, swap

ctypedef struct bell_t:
    # -1: there is none
    int fd
    # Of both threads: it was rung and is not heard yet.
    unsigned int rung


cdef inline void ring(bell_t* bell) noexcept nogil:
    # An eventfd takes this always: its count does not get that far.
    cdef uint64_t one = 1
    if not swap(&bell.rung, True):
        write(bell.fd, &one, sizeof(one))


cdef inline void hear(bell_t* bell) noexcept nogil:
    """Before a look at what it was rung for: who rings from now on is heard again."""
    swap(&bell.rung, False)


cdef inline void hush(bell_t* bell) noexcept nogil:
    """As `hear`, where whoever waits is told as long as nobody has read."""
    # In this order: what rings in between is read the next time, or seen now.
    cdef uint64_t count
    read(bell.fd, &count, sizeof(count))
    hear(bell)


cdef inline bint unheard(const bell_t* bell) noexcept nogil:
    return look(&bell.rung)
