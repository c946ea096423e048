from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

# What a unit has, as masters and observers tell one from another.
cdef enum:
    DISCRETE_INPUTS = 0
    COILS = 1
    INPUT_REGISTERS = 2
    HOLDING_REGISTERS = 3
    FILE_RECORDS = 4

# The values of one table. Read and written only with the image locked (mbcore.lock). All but the words themselves is changed only by who
# has the GIL as well, so who has that may read it without the lock, and finds it unchanged until Python code runs.
ctypedef struct image_t:
    uint16_t* words
    # Sparse: the addresses of the words, ascending. NULL: they follow one another from `base`.
    uint32_t* keys
    uint32_t base
    uint32_t count

# The index in `words` of `quantity` consecutive addresses, -1 where one of them does not exist. 32-bit sums: nothing wraps.
cdef int64_t locate(const image_t* image, uint32_t address, uint32_t quantity) noexcept nogil

# To and from the wire's order (AP 4.2, 6.1, 6.3). `index` is what `locate` said.
cdef void load_registers(const image_t* image, int64_t index, uint32_t quantity, uint8_t* wire) noexcept nogil
cdef void store_registers(image_t* image, int64_t index, uint32_t quantity, const uint8_t* wire) noexcept nogil
cdef void load_bits(const image_t* image, int64_t index, uint32_t quantity, uint8_t* wire) noexcept nogil
cdef void store_bits(image_t* image, int64_t index, uint32_t quantity, const uint8_t* wire) noexcept nogil

cdef class BaseModbusDataBlock:
    cdef image_t image
    # of a block without an image: what its properties hold, None until one is asked for
    cdef dict plain
    cdef object __weakref__
    cdef bint overrides(self) except -1
    cdef dict properties(self)


cdef class ModbusSequentialDataBlock(BaseModbusDataBlock):
    # What reset() goes back to: an int for all values, or bytes with one native word each...
    cdef object initial
    # ... and how many values there were; -1: as many as there are then.
    cdef int64_t initial_count


cdef class ModbusSparseDataBlock(BaseModbusDataBlock):
    cdef dict initial
    cdef public bint mutable


# A block of `count` zeros from address 0.
cdef ModbusSequentialDataBlock zero_block(uint32_t count)
