from libc.stdint cimport uint8_t

from mbcore.framer.base cimport Framer, frame_t


cdef class ModbusBinaryFramer(Framer):
    # unit id, PDU, CRC of the frame last looked at
    cdef uint8_t[256] scratch
    cdef int take(self, const uint8_t* body, int length, frame_t* frame) noexcept nogil
