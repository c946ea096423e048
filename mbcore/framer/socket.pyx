"""MBAP: transaction id, protocol id, length, unit id, PDU (Messaging on TCP/IP Implementation Guide V1.0b, 3.1.3)."""

from libc.stdint cimport uint8_t

from mbcore.constants cimport MAX_ADU_TCP, MAX_PDU
from mbcore.framer.base cimport CLOSE, DROP, FOUND, MORE, Framer, frame_t
from mbcore.wire cimport load_u16, store_u16

cdef enum:
    # up to and with the length field
    PREFIX = 6
    # with the unit id
    HEAD = 7


cdef class ModbusSocketFramer(Framer):
    """Modbus TCP: a head with the length in front of each PDU."""

    def __cinit__(self, *args, **kwargs):
        self.head = HEAD
        self.longest = MAX_ADU_TCP

    cdef int find(self, const uint8_t* data, int length, bint final, frame_t* frame) noexcept nogil:
        cdef int follows
        if length < PREFIX:
            return MORE
        follows = load_u16(data + 4)
        # The unit id and a function code at least, a whole PDU at most: past any other length no boundary can be trusted.
        if follows < 2 or follows > MAX_PDU + 1:
            return CLOSE
        if length < PREFIX + follows:
            return MORE
        frame.consumed = PREFIX + follows
        frame.damaged = False
        frame.protocol_id = load_u16(data + 2)
        if frame.protocol_id != 0 and not self.any_protocol:
            # Another protocol's: its length is believed, so that what follows is found.
            return DROP
        frame.transaction_id = load_u16(data)
        frame.unit_id = data[6]
        frame.pdu = data + HEAD
        frame.pdu_length = follows - 1
        frame.response = False
        return FOUND

    cdef int wrap(self, const frame_t* frame, uint8_t* adu, int pdu_length) noexcept nogil:
        store_u16(adu, frame.transaction_id)
        store_u16(adu + 2, frame.protocol_id)
        store_u16(adu + 4, pdu_length + 1)
        adu[6] = frame.unit_id
        return HEAD + pdu_length
