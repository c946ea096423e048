# An eventfd: what one thread rings, another waits for.

from libc.stdint cimport uint64_t

from posix.unistd cimport read, write


cdef inline void ring(int bell) noexcept nogil:
    # An eventfd takes this always: its count does not get that far.
    cdef uint64_t one = 1
    write(bell, &one, sizeof(one))


cdef inline void hush(int bell) noexcept nogil:
    cdef uint64_t count
    read(bell, &count, sizeof(count))
