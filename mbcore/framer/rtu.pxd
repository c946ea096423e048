from libc.stdint cimport uint8_t

from mbcore.framer.base cimport Framer


cdef class ModbusRtuFramer(Framer):
    cdef bint fits(self, const uint8_t* data, int length) noexcept nogil
    cdef int request_size(self, const uint8_t* data, int length) noexcept nogil
