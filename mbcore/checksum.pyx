"""CRC-16/Modbus and LRC. Knows no frames.

Sources: Modbus over Serial Line V1.02, clauses 2.5.1.2 and 2.5.2.2, appendix B.
"""

from libc.stdint cimport uint8_t, uint16_t

from cpython.bytes cimport PyBytes_AsStringAndSize


# SLICES[k][b]: what the byte b does to the register when k more bytes follow it. Eight bytes at a time take one look-up each
# without waiting for one another.
cdef uint16_t[256] SLICES[8]


cdef void fill_slices() noexcept:
    cdef int value, k, _
    cdef uint16_t crc
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
        SLICES[0][value] = crc
    for k in range(1, 8):
        for value in range(256):
            crc = SLICES[k - 1][value]
            SLICES[k][value] = (crc >> 8) ^ SLICES[0][crc & 0xFF]


fill_slices()


cdef uint16_t crc16_from(uint16_t crc, const uint8_t* data, size_t length) noexcept nogil:
    while length >= 8:
        crc = (
            SLICES[7][(data[0] ^ crc) & 0xFF] ^ SLICES[6][(data[1] ^ (crc >> 8)) & 0xFF]
            ^ SLICES[5][data[2]] ^ SLICES[4][data[3]] ^ SLICES[3][data[4]]
            ^ SLICES[2][data[5]] ^ SLICES[1][data[6]] ^ SLICES[0][data[7]]
        )
        data += 8
        length -= 8
    while length:
        crc = (crc >> 8) ^ SLICES[0][(crc ^ data[0]) & 0xFF]
        data += 1
        length -= 1
    return crc


cdef uint16_t crc16_of(const uint8_t* data, size_t length) noexcept nogil:
    return crc16_from(0xFFFF, data, length)


cdef uint8_t lrc_of(const uint8_t* data, size_t length) noexcept nogil:
    cdef uint8_t total = 0
    cdef size_t i
    for i in range(length):
        total += data[i]
    return <uint8_t> -total


def crc16(data):
    """Return the CRC-16 of ``data`` (any bytes-like object) as the value of the CRC register, 0..65535.

    It goes onto the wire low byte first (SL 2.5.1.2): ``crc16(frame).to_bytes(2, "little")``.
    """
    cdef char* at
    cdef Py_ssize_t length
    data = bytes(memoryview(data))
    PyBytes_AsStringAndSize(data, &at, &length)
    return crc16_of(<const uint8_t*> at, length)


def computeCRC(data):
    """Return the CRC-16 of ``data`` in wire order, as pymodbus does: low byte of the register first, read as a big-endian number."""
    crc = crc16(data)
    return (crc & 0xFF) << 8 | crc >> 8


def checkCRC(data, check):
    """Return whether ``check`` is what :func:`computeCRC` says of ``data``."""
    return computeCRC(data) == check


def computeLRC(data):
    """Return the LRC of ``data`` (any bytes-like object), 0..255: the two's complement of the sum of the bytes (SL 2.5.2.2)."""
    cdef char* at
    cdef Py_ssize_t length
    data = bytes(memoryview(data))
    PyBytes_AsStringAndSize(data, &at, &length)
    return lrc_of(<const uint8_t*> at, length)


def checkLRC(data, check):
    """Return whether ``check`` is the LRC of ``data``."""
    return computeLRC(data) == check
