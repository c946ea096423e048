# An eventfd: what one thread rings, another waits for.

from libc.stdint cimport uint64_t

from posix.unistd cimport read, write

cdef extern from "<poll.h>" nogil:
    struct bell_poll "pollfd":
        int fd
        short events
        short revents
    const short POLLIN
    int poll(bell_poll* fds, unsigned long count, int timeout)


cdef inline void ring(int bell) noexcept nogil:
    # An eventfd takes this always: its count does not get that far.
    cdef uint64_t one = 1
    write(bell, &one, sizeof(one))


cdef inline void hush(int bell) noexcept nogil:
    cdef uint64_t count
    read(bell, &count, sizeof(count))


cdef inline bint unheard(int bell) noexcept nogil:
    cdef bell_poll polled
    polled.fd, polled.events, polled.revents = bell, POLLIN, 0
    return poll(&polled, 1, 0) > 0
