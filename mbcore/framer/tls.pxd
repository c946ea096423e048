from mbcore.framer.base cimport Framer


cdef class ModbusTlsFramer(Framer):
    pass
