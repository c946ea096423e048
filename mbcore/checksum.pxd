from libc.stdint cimport uint8_t, uint16_t

# Goes on from the register `crc`; over a frame and its CRC, low byte first, it comes to 0.
cdef uint16_t crc16_from(uint16_t crc, const uint8_t* data, size_t length) noexcept nogil
cdef uint16_t crc16_of(const uint8_t* data, size_t length) noexcept nogil
cdef uint8_t lrc_of(const uint8_t* data, size_t length) noexcept nogil
