from libc.stdint cimport uint8_t, uint16_t

from mbcore.codec cimport custom_t

# What `find` says of the head of a buffer.
cdef enum:
    # a frame; `consumed` bytes long
    FOUND = 1
    # not yet: more bytes are needed
    MORE = 0
    # `consumed` bytes at the head are no frame
    DROP = -1
    # the stream can't be trusted any more
    CLOSE = -2

ctypedef struct frame_t:
    uint16_t transaction_id
    uint16_t protocol_id
    uint8_t unit_id
    # the PDU, in the buffer or in the framer's scratch: valid until the next `find`
    const uint8_t* pdu
    int pdu_length
    # FOUND and DROP: how many bytes of the buffer it takes
    int consumed
    # FOUND: it can only be the response of another unit
    bint response
    # DROP: a frame was there, but damaged
    bint damaged
    # a damaged one that is whole, from its first character to its last: an error of its own, whatever stands before it
    bint delimited

cdef class Framer:
    # bytes of an ADU before the PDU, at most; the reply's PDU is built that far into the reply buffer
    cdef int head
    # given that many bytes, `find` never says MORE
    cdef int longest
    # seconds of silence after which a partial frame is given up; 0: never
    cdef double patience
    # whether on a line only silence ends a frame for sure
    cdef bint by_silence
    # whether this is a serial line: other units answer on it, and silence ends a frame
    cdef bint line
    # whether this is the master's side, to which responses come
    cdef bint client
    # frames carry no unit id
    cdef bint anonymous
    # whether frames of another protocol are frames too
    cdef bint any_protocol
    # the last character of an ASCII frame
    cdef uint8_t delimiter
    # lengths of custom functions; NULL: there are none
    cdef const custom_t* custom
    # `final`: silence has come, nothing more belongs to these bytes
    cdef int find(self, const uint8_t* data, int length, bint final, frame_t* frame) noexcept nogil
    # how many bytes before a whole frame that ends with the last byte; -1 where there is none
    cdef int find_last(self, const uint8_t* data, int length) noexcept nogil
    # close the ADU around the PDU that stands at `adu + head`; returns the ADU's length, its bytes from `adu` on
    cdef int wrap(self, const frame_t* frame, uint8_t* adu, int pdu_length) noexcept nogil


cdef enum:
    # room for any ADU that `wrap` makes: binary, every byte doubled
    LONGEST_ADU = 520
