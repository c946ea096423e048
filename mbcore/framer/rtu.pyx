"""RTU: unit id, PDU, CRC; no delimiter but silence (Modbus over Serial Line V1.02, 2.5.1).

The function code says how long a frame is, as a request and as a response (other units answer on the same line); the CRC decides. Where
no length fits, the bytes wait for the silence that ends them, and then what is found in them counts.
"""

from libc.stdint cimport uint8_t, uint16_t

from mbcore.checksum cimport crc16_from, crc16_of
from mbcore.codec cimport LENGTH_BY_CHECKSUM, LENGTH_NEEDS_MORE, custom_length_of, request_length_of, response_length_of
from mbcore.constants cimport DIAGNOSTICS, MAX_ADU_RTU
from mbcore.framer.base cimport DROP, FOUND, MORE, Framer, frame_t

cdef enum:
    # unit id, function code, CRC
    SHORTEST = 4
    # what stands around a PDU
    AROUND = 3
    # a frame of 08 with two bytes of data, as it mostly is
    QUERY = 8


cdef bint intact(const uint8_t* data, int length) noexcept nogil:
    # The CRC goes low byte first.
    cdef int crc = crc16_of(data, length - 2)
    return data[length - 2] == (crc & 0xFF) and data[length - 1] == crc >> 8


cdef int intact_prefix(const uint8_t* data, int length) noexcept nogil:
    # The shortest beginning of `data` that is a frame by its CRC, 0 where there is none.
    cdef uint16_t crc = 0xFFFF
    cdef int i
    for i in range(length):
        crc = crc16_from(crc, data + i, 1)
        if crc == 0 and i + 1 >= SHORTEST:
            return i + 1
    return 0


cdef int found(const uint8_t* data, int length, bint response, frame_t* frame) noexcept nogil:
    frame.unit_id = data[0]
    frame.transaction_id = 0
    frame.pdu = data + 1
    frame.pdu_length = length - AROUND
    frame.consumed = length
    frame.response = response
    frame.damaged = False
    return FOUND


cdef class ModbusRtuFramer(Framer):
    """Modbus RTU: binary frames with a CRC-16, told apart by their length and by silence."""

    def __cinit__(self, *args, **kwargs):
        self.head = 1
        self.longest = MAX_ADU_RTU
        self.by_silence = True
        # Over TCP and UDP there is no silence to go by; a partial frame is given up after this many seconds.
        self.patience = 0.5

    cdef int find(self, const uint8_t* data, int length, bint final, frame_t* frame) noexcept nogil:
        cdef int size, best = 0
        cdef bint pending = length < SHORTEST, response, best_response = False
        for response in range(2):
            if response:
                if not self.line and not self.client:
                    continue
                size = response_length_of(data + 1, length - 1)
            else:
                # On a line 0x80 marks the exception response of another unit, or our own come back.
                if self.client or self.line and length > 1 and data[1] & 0x80:
                    continue
                size = self.request_size(data, length)
            if size == LENGTH_NEEDS_MORE:
                pending = True
            elif size == LENGTH_BY_CHECKSUM:
                # On a line silence ends it: any beginning of noise has a right CRC now and then.
                if not self.line:
                    size = intact_prefix(data, min(length, MAX_ADU_RTU))
                    if not size and not self.client and self.find_last(data, length) > 0:
                        # What stands before a whole request is none: there would have been an answer.
                        break
                elif data[1] == DIAGNOSTICS and length >= QUERY and intact(data, QUERY):
                    size = QUERY
                else:
                    size = 0
                if not size:
                    pending = True
                elif not best:
                    best, best_response = size, response
            elif size + AROUND > MAX_ADU_RTU:
                continue
            elif length < size + AROUND:
                pending = True
            elif (not best or size + AROUND < best) and intact(data, size + AROUND):
                best, best_response = size + AROUND, response
        if best:
            # The shorter of two: a frame and a zero behind it have a right CRC again.
            return found(data, best, best_response, frame)
        if final or length >= MAX_ADU_RTU or not pending and not self.line and not self.client:
            # A frame of another length than its function's is a frame where all of it is there: the codec refuses it (03).
            size = min(length, MAX_ADU_RTU)
            if size >= SHORTEST and not data[1] & 0x80 and intact(data, size):
                return found(data, size, False, frame)
        if not final and length < MAX_ADU_RTU and (pending or self.line):
            return MORE
        frame.consumed = 1
        frame.damaged = True
        return DROP

    cdef int request_size(self, const uint8_t* data, int length) noexcept nogil:
        # Of the PDU.
        if self.custom != NULL and length > 1 and self.custom.known[data[1]]:
            return custom_length_of(self.custom, data + 1, length - 1)
        return request_length_of(data + 1, length - 1)

    cdef int find_last(self, const uint8_t* data, int length) noexcept nogil:
        cdef int start
        if length <= MAX_ADU_RTU and length >= SHORTEST and intact(data, length):
            # All of it: whatever its function's length is.
            return 0
        for start in range(max(1, length - MAX_ADU_RTU), length - SHORTEST + 1):
            if self.fits(data + start, length - start) and intact(data + start, length - start):
                return start
        return -1

    cdef bint fits(self, const uint8_t* data, int length) noexcept nogil:
        # Whether the function's length is that.
        cdef int size = length - AROUND
        if data[1] == DIAGNOSTICS:
            return length == QUERY
        return self.request_size(data, length) == size or response_length_of(data + 1, length - 1) == size

    cdef int wrap(self, const frame_t* frame, uint8_t* adu, int pdu_length) noexcept nogil:
        cdef int crc
        adu[0] = frame.unit_id
        crc = crc16_of(adu, pdu_length + 1)
        adu[pdu_length + 1] = crc & 0xFF
        adu[pdu_length + 2] = crc >> 8
        return pdu_length + AROUND
