from mbcore.framer.base cimport Framer


cdef class ModbusSocketFramer(Framer):
    pass
