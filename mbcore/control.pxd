from libc.stdint cimport uint8_t, uint16_t

# The counters of 08 Diagnostics, in the order of its sub-functions 11..18 (CPT1..CPT8 of SL, appendix A).
cdef enum:
    BUS_MESSAGE = 0
    BUS_COMMUNICATION_ERROR = 1
    BUS_EXCEPTION_ERROR = 2
    SERVER_MESSAGE = 3
    SERVER_NO_RESPONSE = 4
    SERVER_NAK = 5
    SERVER_BUSY = 6
    BUS_CHARACTER_OVERRUN = 7
    COUNTERS = 8

# Event bytes (AP 6.10).
cdef enum event_t:
    RECEIVED = 0x80
    RECEIVED_COMMUNICATION_ERROR = 0x02
    RECEIVED_LISTEN_ONLY = 0x20
    RECEIVED_BROADCAST = 0x40
    SENT = 0x40
    SENT_EXCEPTION_1_TO_3 = 0x01
    SENT_EXCEPTION_4 = 0x02
    SENT_EXCEPTION_5_OR_6 = 0x04
    SENT_EXCEPTION_7 = 0x08
    SENT_LISTEN_ONLY = 0x20
    ENTERED_LISTEN_ONLY = 0x04
    COMMUNICATION_RESTART = 0x00

# Objects of the device identification; NULL: there is none. The texts are held by the ModbusDeviceIdentification.
ctypedef struct identity_t:
    const uint8_t* text[256]
    uint8_t length[256]

# Changed with the image locked.
ctypedef struct control_t:
    uint16_t counters[8]
    # of 11 and 12: successfully completed messages
    uint16_t event_count
    # a ring; `newest` is the index of the last one
    uint8_t events[64]
    unsigned int newest
    unsigned int logged
    # of 11 and 12: 0xFFFF while a program command runs
    uint16_t status
    uint16_t diagnostic_register
    uint8_t exception_status
    # of 17: 0xFF running, 0x00 not
    uint8_t run_indicator
    # the last character of an ASCII frame
    uint8_t delimiter
    bint listen_only
    const identity_t* identity

cdef void add_event(control_t* control, uint8_t event) noexcept nogil
cdef int copy_events(const control_t* control, uint8_t* out) noexcept nogil
cdef void clear_counters(control_t* control) noexcept nogil
cdef void restart_communications(control_t* control, bint clear_log) noexcept nogil
cdef void count_received(control_t* control, bint broadcast) noexcept nogil
cdef void count_error(control_t* control) noexcept nogil
cdef void count_completed(control_t* control, uint8_t function_code, uint8_t exception_code, bint answered) noexcept nogil

cdef class ModbusDeviceIdentification:
    cdef identity_t objects
    cdef dict texts
    cdef dict encoded


cdef class ModbusControlBlock:
    cdef control_t control
    cdef ModbusDeviceIdentification identity
    cdef object __weakref__
