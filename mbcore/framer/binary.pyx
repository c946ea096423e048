"""Binary, a framing of pymodbus' own: `{`, unit id, function code, data with every brace doubled, CRC, `}`.

The CRC is the one that pymodbus 2.5.3's client sends: over unit id, function code and doubled data, low byte first, itself not doubled. A
brace in the CRC or as unit id stands alone, so the end is where a `}` and the CRC before it agree.
"""

from libc.stdint cimport uint8_t, uint16_t

from mbcore.checksum cimport crc16_from, crc16_of
from mbcore.constants cimport MAX_PDU
from mbcore.framer.base cimport DROP, FOUND, MORE, Framer, frame_t

cdef enum:
    START = 123
    END = 125
    # where the data starts: behind the brace, the unit id and the function code
    BODY = 3
    # brace, unit id, function code, CRC, brace
    SHORTEST = 6
    LONGEST = SHORTEST + 2 * (MAX_PDU - 1)


cdef bint is_brace(uint8_t byte) noexcept nogil:
    return byte == START or byte == END


cdef class ModbusBinaryFramer(Framer):
    """Frames between braces, with a CRC-16."""

    def __cinit__(self, *args, **kwargs):
        # Room to double the braces of a reply from its place to the front.
        self.head = 2
        self.longest = LONGEST
        self.patience = 0.5

    cdef int find(self, const uint8_t* data, int length, bint final, frame_t* frame) noexcept nogil:
        cdef int i = 0, end, single = -1
        # The CRC of all before `end - 2`.
        cdef uint16_t crc = 0xFFFF
        frame.damaged = False
        while i < length and data[i] != START:
            i += 1
        if i:
            frame.consumed = i
            return DROP
        frame.damaged = True
        i = BODY
        for end in range(BODY, min(length, LONGEST)):
            if end >= BODY + 1:
                crc = crc16_from(crc, data + end - BODY, 1)
            if data[end] == END and end >= SHORTEST - 1 and data[end - 2] == (crc & 0xFF) and data[end - 1] == crc >> 8:
                if self.take(data + 1, end - 3, frame):
                    frame.consumed = end + 1
                    return FOUND
            # A brace that stands alone is the end, or in the CRC before it: two more bytes decide.
            if single < 0 and end == i:
                if not is_brace(data[end]):
                    i += 1
                elif end + 1 < length:
                    if data[end + 1] == data[end]:
                        i += 2
                    else:
                        single = end
            if single >= 0 and end >= single + 2:
                # The one that opens is perhaps the next frame's.
                frame.consumed = single + (data[single] == END)
                return DROP
        if not final and length < LONGEST:
            return MORE
        frame.consumed = 1
        return DROP

    cdef int take(self, const uint8_t* body, int length, frame_t* frame) noexcept nogil:
        # `body` is unit id, function code and doubled data.
        cdef int i = 2, size = 2
        self.scratch[0] = body[0]
        self.scratch[1] = body[1]
        while i < length:
            if size == MAX_PDU + 1:
                return False
            if is_brace(body[i]):
                if i + 1 == length or body[i + 1] != body[i]:
                    return False
                i += 1
            self.scratch[size] = body[i]
            size += 1
            i += 1
        frame.unit_id = self.scratch[0]
        frame.transaction_id = 0
        frame.pdu = self.scratch + 1
        frame.pdu_length = size - 1
        frame.response = False
        frame.damaged = False
        return True

    cdef int wrap(self, const frame_t* frame, uint8_t* adu, int pdu_length) noexcept nogil:
        cdef uint8_t[256] plain
        cdef int i, size = BODY
        cdef uint16_t crc
        for i in range(pdu_length):
            plain[i] = adu[self.head + i]
        adu[0] = START
        adu[1] = frame.unit_id
        adu[2] = plain[0]
        for i in range(1, pdu_length):
            if is_brace(plain[i]):
                adu[size] = plain[i]
                size += 1
            adu[size] = plain[i]
            size += 1
        crc = crc16_of(adu + 1, size - 1)
        adu[size] = crc & 0xFF
        adu[size + 1] = crc >> 8
        adu[size + 2] = END
        return size + 3
