from libc.stdint cimport uint8_t, uint16_t

from mbcore.codec cimport request_t, response_t
from mbcore.control cimport control_t
from mbcore.datastore.context cimport ModbusServerContext, unit_t, units_t

# What `execute` says besides an exception code; 0: done.
cdef enum:
    EXECUTE_IN_PYTHON = -1

# Beside the tables of a context, of `span_t`.
cdef enum:
    FILE_RECORDS = 4

# Values that a master has written one behind the other.
ctypedef struct span_t:
    int table
    # of FILE_RECORDS: the file
    uint16_t number
    # the wire's, or the first record
    uint16_t address
    uint16_t count
    # as on the wire; NULL: `value` is the only one
    const uint8_t* data
    uint16_t value

# What is asked of a user's context for one request, and what it has answered so far.
cdef class Dialogue:
    cdef object context
    cdef list known
    cdef object error
    cdef int step
    cdef bint is_known(self) except -1
    cdef object again(self)
    cdef object heard(self, object answer)
    cdef object validate(self, int function_code, int address, int quantity)
    cdef object get_values(self, int function_code, int address, int quantity)
    cdef int set_values(self, int function_code, int address, list values) except -1

cdef Dialogue dialogue_with(object context)
cdef bint writes(uint8_t function_code) noexcept nogil
cdef bint needs_python(const unit_t* unit, uint8_t function_code) noexcept nogil
cdef int execute(unit_t* unit, control_t* control, const request_t* request, response_t* response, uint8_t* data) noexcept nogil
cdef int execute_in_python(Dialogue dialogue, const request_t* request, response_t* response, uint8_t* data, object report) except -1
cdef uint16_t register_at(const units_t* units, int unit_id, uint16_t address) noexcept nogil
cdef uint16_t value_of(object context, int address, object report) except? 0xFFFF
cdef bint next_span(const request_t* request, const response_t* response, int* at, span_t* span) noexcept nogil
cdef uint16_t value_in(const span_t* span, int index) noexcept nogil
cdef int owe_observers(ModbusServerContext store, int unit_id, int table, int number, int address, list values, object report) except -1
cdef int tell_owed(ModbusServerContext store, object wanted) except -1
cdef int notify(ModbusServerContext store, int unit_id, const request_t* request, const response_t* response, object report) except -1
