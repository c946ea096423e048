from mbcore.framer.base cimport Framer


cdef class ModbusRtuFramer(Framer):
    pass
