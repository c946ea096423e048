# One lock for the image and the control blocks, since blocks may be shared between contexts and contexts between servers. Held for at most
# one request, one block that is built anew, one look for a host in the table of those that are let in, or one connection that is accepted
# or closed; never across Python code: its holder never waits for the GIL, so waiting for it with the GIL in hand can't deadlock.
cdef void lock_image() noexcept nogil
cdef void unlock_image() noexcept nogil

# Another number than the last time in a process that was forked since.
cdef unsigned int fork_count() noexcept nogil
