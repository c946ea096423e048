"""ASCII: a colon, hex pairs of unit id, PDU and LRC, CR, LF (Modbus over Serial Line V1.02, 2.5.2).

The last character is settable (08, sub-function 3). A new colon starts a new frame wherever it comes.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from mbcore.checksum cimport lrc_of
from mbcore.constants cimport MAX_ADU_ASCII
from mbcore.framer.base cimport DROP, FOUND, MORE, Framer, frame_t

cdef enum:
    # unit id, function code, LRC
    SHORTEST = 3
    COLON = 58
    CR = 13
    DIGIT_0 = 48
    DIGIT_9 = 57
    UPPER_A = 65
    LOWER_A = 97
    LOWER_F = 102
    NO_DIGIT = 16


cdef int digit(uint8_t character) noexcept nogil:
    if DIGIT_0 <= character <= DIGIT_9:
        return character - DIGIT_0
    # Either case.
    character |= LOWER_A - UPPER_A
    if LOWER_A <= character <= LOWER_F:
        return character - LOWER_A + 10
    return NO_DIGIT


cdef uint8_t character_of(int nibble) noexcept nogil:
    return <uint8_t> (DIGIT_0 + nibble if nibble < 10 else UPPER_A + nibble - 10)


cdef class ModbusAsciiFramer(Framer):
    """Modbus ASCII: frames in hex digits with an LRC."""

    def __cinit__(self, *args, **kwargs):
        self.head = 1
        self.longest = MAX_ADU_ASCII
        # SL 2.5.2.1: up to one second between characters.
        self.patience = 1.0

    cdef int find(self, const uint8_t* data, int length, bint final, frame_t* frame) noexcept nogil:
        cdef int i = 0, end
        frame.damaged = frame.delimited = False
        # Whatever stands before a colon is noise.
        while i < length and data[i] != COLON:
            i += 1
        if i:
            frame.consumed = i
            return DROP
        end = 1
        while end < length and end < MAX_ADU_ASCII and data[end] != COLON and not (data[end] == self.delimiter and data[end - 1] == CR):
            end += 1
        frame.consumed = end
        frame.damaged = True
        if end == length and end < MAX_ADU_ASCII:
            return DROP if final else MORE
        if end == MAX_ADU_ASCII or data[end] == COLON:
            return DROP
        frame.consumed = end + 1
        frame.delimited = True
        return self.take(data + 1, end - 2, frame)

    cdef int take(self, const uint8_t* digits, int count, frame_t* frame) noexcept nogil:
        cdef int i, high, low, size = count // 2
        if count % 2 or size < SHORTEST:
            return DROP
        for i in range(size):
            high = digit(digits[2 * i])
            low = digit(digits[2 * i + 1])
            if high == NO_DIGIT or low == NO_DIGIT:
                return DROP
            self.scratch[i] = <uint8_t> (high << 4 | low)
        if lrc_of(self.scratch, size - 1) != self.scratch[size - 1]:
            return DROP
        frame.unit_id = self.scratch[0]
        frame.transaction_id = 0
        frame.pdu = self.scratch + 1
        frame.pdu_length = size - 2
        frame.response = False
        frame.damaged = False
        return FOUND

    cdef int wrap(self, const frame_t* frame, uint8_t* adu, int pdu_length) noexcept nogil:
        cdef uint8_t[256] plain
        cdef int i, size = pdu_length + 2
        plain[0] = frame.unit_id
        memcpy(plain + 1, adu + 1, pdu_length)
        plain[size - 1] = lrc_of(plain, size - 1)
        adu[0] = COLON
        for i in range(size):
            adu[1 + 2 * i] = character_of(plain[i] >> 4)
            adu[2 + 2 * i] = character_of(plain[i] & 0x0F)
        adu[2 * size + 1] = CR
        adu[2 * size + 2] = self.delimiter
        return 2 * size + 3
