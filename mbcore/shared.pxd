# What two threads share without a lock: written by `show`, read by `look`. Where both write, or each writes one thing and then reads the
# other's, it is `swap` and `look_last`.

cdef extern from * nogil:
    # Of the compiler. What was written before a store is seen after the load that sees the store: Arm does not promise that by itself.
    const int ACQUIRE "__ATOMIC_ACQUIRE"
    const int RELEASE "__ATOMIC_RELEASE"
    const int BOTH "__ATOMIC_ACQ_REL"
    unsigned int atomic_load "__atomic_load_n"(const unsigned int* place, int order)
    void atomic_store "__atomic_store_n"(unsigned int* place, unsigned int value, int order)
    unsigned int atomic_swap "__atomic_exchange_n"(unsigned int* place, unsigned int value, int order)
    unsigned int atomic_or "__atomic_fetch_or"(unsigned int* place, unsigned int value, int order)


cdef inline unsigned int look(const unsigned int* place) noexcept nogil:
    return atomic_load(place, ACQUIRE)


cdef inline void show(unsigned int* place, unsigned int value) noexcept nogil:
    atomic_store(place, value, RELEASE)


cdef inline unsigned int swap(unsigned int* place, unsigned int value) noexcept nogil:
    """Write, and return what was there. Of two threads that swap, the later one sees what the other had written before."""
    return atomic_swap(place, value, BOTH)


cdef inline unsigned int look_last(unsigned int* place) noexcept nogil:
    """What a `swap` has written; or else who swaps from now on sees what this thread has written before."""
    return atomic_or(place, 0, BOTH)
