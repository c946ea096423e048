from libc.stdint cimport uint8_t

from mbcore.codec cimport request_t, response_t
from mbcore.control cimport control_t
from mbcore.datastore.context cimport ModbusSlaveContext, unit_t
from mbcore.datastore.observers cimport Observers

# What `execute` says besides an exception code; 0: done.
cdef enum:
    EXECUTE_IN_PYTHON = -1

# What is asked of a user's context for one request, and what it has answered so far.
cdef class Dialogue:
    # of a broadcast: whose answer it is
    cdef int unit_id
    cdef object context
    # the context where it is of our own class: its blocks are asked, and not the context for them
    cdef ModbusSlaveContext plain
    cdef list known
    cdef object error
    cdef int step
    cdef bint is_known(self) except -1
    cdef object again(self)
    cdef object heard(self, object answer)
    cdef object validate(self, int function_code, int address, int quantity)
    cdef object get_values(self, int function_code, int address, int quantity)
    cdef int set_values(self, int function_code, int address, list values) except -1

cdef Dialogue dialogue_with(object context, int unit_id=*)
cdef bint writes(uint8_t function_code) noexcept nogil
cdef bint needs_python(const unit_t* unit, uint8_t function_code) noexcept nogil
cdef int execute(unit_t* unit, control_t* control, const request_t* request, response_t* response, uint8_t* data) noexcept nogil
cdef int execute_in_python(Dialogue dialogue, const request_t* request, response_t* response, uint8_t* data, object report) except -1
cdef void enter_write(
    Observers observers, int unit_id, int owner, const request_t* request, const response_t* response
) noexcept nogil
