from libc.stdint cimport uint8_t, uint16_t

from mbcore.wire cimport writer_t

# A request PDU (AP 6). Which fields mean something depends on the function code; the others are 0.
ctypedef struct request_t:
    uint8_t function_code
    # 08; of 43 the MEI type
    uint16_t sub_function
    # 01-06, 15, 16, 22; what 23 reads; the pointer of 24
    uint16_t address
    # 01-04, 15, 16; what 23 reads
    uint16_t quantity
    # 05, 06
    uint16_t value
    # 22
    uint16_t and_mask
    uint16_t or_mask
    # 23
    uint16_t write_address
    uint16_t write_quantity
    # 43/14
    uint8_t read_code
    uint8_t object_id
    # 08: data; 15: bits; 16, 23: registers; 20, 21: groups. Points into the PDU.
    const uint8_t* data
    uint16_t data_length

# A response PDU. `data` may stand in the reply buffer already, `response_head` bytes behind the PDU's start.
ctypedef struct response_t:
    uint8_t function_code
    # 0: a normal response
    uint8_t exception_code
    # 08; of 43 the MEI type
    uint16_t sub_function
    # 05, 06, 15, 16, 22
    uint16_t address
    # 15, 16; of 24 the number of registers
    uint16_t quantity
    # 05, 06
    uint16_t value
    # 22
    uint16_t and_mask
    uint16_t or_mask
    # 07 (8 bits); 11, 12
    uint16_t status
    # 11, 12
    uint16_t event_count
    # 12
    uint16_t message_count
    # 43/14
    uint8_t read_code
    uint8_t conformity
    uint8_t more_follows
    uint8_t next_object
    uint8_t object_count
    # 01-04, 23, 24: values; 08: data; 12: events; 17: server id and what follows; 20, 21: groups; 43: objects
    const uint8_t* data
    uint16_t data_length

# Lengths of requests with custom function codes, as their classes declare them.
ctypedef struct custom_t:
    # the whole RTU frame; 0: not fixed
    uint16_t frame_size[256]
    # where in the RTU frame its byte count stands; 0: nowhere
    uint8_t count_position[256]
    bint known[256]

# What `request_length` and `response_length` say besides a length.
cdef enum length_t:
    LENGTH_BY_CHECKSUM = -1
    LENGTH_NEEDS_MORE = 0
    # no message of this function has such a byte count
    LENGTH_IMPOSSIBLE = 65536

cdef int custom_length_of(const custom_t* custom, const uint8_t* pdu, int available) noexcept nogil
cdef int request_length_of(const uint8_t* pdu, int available) noexcept nogil
cdef int response_length_of(const uint8_t* pdu, int available) noexcept nogil
cdef int read_request(const uint8_t* pdu, int length, request_t* request) noexcept nogil
cdef void write_request(const request_t* request, writer_t* writer) noexcept nogil
cdef int read_response(const uint8_t* pdu, int length, response_t* response) noexcept nogil
cdef void write_response(const response_t* response, writer_t* writer) noexcept nogil
cdef int response_head(uint8_t function_code) noexcept nogil
cdef list bits_of(const uint8_t* data, int quantity)
cdef list registers_of(const uint8_t* data, int quantity)
