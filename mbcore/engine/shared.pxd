# What two threads share without a lock: written by `show`, read by `look`.

cdef extern from * nogil:
    # Of the compiler. What was written before a store is seen after the load that sees the store: Arm does not promise that by itself.
    const int ACQUIRE "__ATOMIC_ACQUIRE"
    const int RELEASE "__ATOMIC_RELEASE"
    unsigned int atomic_load "__atomic_load_n"(const unsigned int* place, int order)
    void atomic_store "__atomic_store_n"(unsigned int* place, unsigned int value, int order)


cdef inline unsigned int look(const unsigned int* place) noexcept nogil:
    return atomic_load(place, ACQUIRE)


cdef inline void show(unsigned int* place, unsigned int value) noexcept nogil:
    atomic_store(place, value, RELEASE)
