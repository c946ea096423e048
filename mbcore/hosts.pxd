from libc.stdint cimport uint8_t

cdef bint lets_in_host(const uint8_t* host, size_t length) noexcept nogil
cdef bint asks_about_all() noexcept nogil
