from libc.stdint cimport uint8_t, uint16_t, uint32_t

from mbcore.datastore.observers cimport Observers
from mbcore.datastore.store cimport image_t

# A file or a FIFO queue of a unit.
ctypedef struct numbered_t:
    uint16_t number
    image_t* image

# What the compiled rooms see of a slave context. Changed and read only with the image locked.
ctypedef struct unit_t:
    # NULL: Python answers for this table
    image_t* tables[4]
    # added to a wire address: 1, with zero_mode 0
    uint32_t offset
    numbered_t* files
    uint32_t file_count
    numbered_t* fifos
    uint32_t fifo_count
    # what 17 answers instead of the server's own; NULL: nothing of its own
    const uint8_t* server_id
    uint8_t server_id_length

# What the compiled rooms see of a server context.
ctypedef struct units_t:
    unit_t* by_id[256]
    # the unit where there is only one: unit ids 0 and 255 address the device itself on TCP (TG 4.4.2)
    unit_t* only
    int only_id
    bint observed

cdef image_t* numbered(const numbered_t* entries, uint32_t count, uint16_t number) noexcept nogil

cdef class ModbusSlaveContext:
    cdef unit_t unit
    # of each table: methods of the user's own answer for it, or say that its functions act on another one; it is not in C
    cdef bint[4] foreign
    # {"d" "c" "i" "h" or a user's own key: block}
    cdef dict blocks
    cdef dict file_blocks
    cdef dict fifo_blocks
    cdef dict own_functions
    cdef bytes own_server_id
    cdef object __weakref__
    cdef int note_methods(self) except -1
    cdef void point(self, int table, image_t* image) noexcept
    cdef object block_of(self, object fx)


# What the compiled rooms see of a context; a user's own kind of context has no table in C.
cdef unit_t* unit_of(object context)


cdef class ModbusServerContext:
    cdef units_t units
    cdef dict contexts
    cdef readonly bint single
    cdef Observers observers
    cdef object context_of(self, int unit_id)
    cdef void note_observers(self) noexcept
    cdef object __weakref__
