from libc.stdint cimport uint8_t

from mbcore.framer.base cimport Framer, frame_t


cdef class ModbusAsciiFramer(Framer):
    # unit id, PDU, LRC of the frame last looked at
    cdef uint8_t[256] scratch
    cdef int take(self, const uint8_t* digits, int count, frame_t* frame) noexcept nogil
