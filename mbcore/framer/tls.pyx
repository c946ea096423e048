"""The bare PDU, as pymodbus 2.5.3 sends it inside TLS: no head, no unit id; the function code says how long a request is.

Modbus/TCP Security has the MBAP head inside TLS: that is ModbusSocketFramer, what a TLS server of mbcore speaks unless told otherwise.
"""

from libc.stdint cimport uint8_t

from mbcore.codec cimport LENGTH_BY_CHECKSUM, LENGTH_NEEDS_MORE, custom_length_of, request_length_of, response_length_of
from mbcore.constants cimport DIAGNOSTICS, MAX_PDU
from mbcore.framer.base cimport DROP, FOUND, MORE, Framer, frame_t


cdef class ModbusTlsFramer(Framer):
    """A PDU and nothing else."""

    def __cinit__(self, *args, **kwargs):
        self.head = 0
        self.longest = MAX_PDU
        self.anonymous = True
        self.patience = 0.5

    cdef int find(self, const uint8_t* data, int length, bint final, frame_t* frame) noexcept nogil:
        cdef int size
        if self.client:
            size = response_length_of(data, length)
        elif self.custom != NULL and length and self.custom.known[data[0]]:
            size = custom_length_of(self.custom, data, length)
        else:
            size = request_length_of(data, length)
        if size == LENGTH_BY_CHECKSUM:
            # Nothing tells. Query data are two bytes, as pymodbus sends them; any other ends where the bytes end.
            size = 5 if data[0] == DIAGNOSTICS else min(length, MAX_PDU)
        frame.damaged = True
        if size > MAX_PDU:
            frame.consumed = 1
            return DROP
        if size == LENGTH_NEEDS_MORE or length < size:
            frame.consumed = length
            return DROP if final else MORE
        frame.unit_id = 0
        frame.transaction_id = 0
        frame.pdu = data
        frame.pdu_length = size
        frame.consumed = size
        frame.response = False
        frame.damaged = False
        return FOUND

    cdef int wrap(self, const frame_t* frame, uint8_t* adu, int pdu_length) noexcept nogil:
        return pdu_length
