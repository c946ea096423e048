# Which of several processes has what all of them have got by a fork: a file in memory, whose lock is one process' and ends with it.

from libc.string cimport memset

cdef extern from "<fcntl.h>" nogil:
    struct flock:
        short l_type
        short l_whence
    const short F_WRLCK
    const short F_UNLCK
    const int F_SETLK
    const int F_GETLK
    int fcntl(int fd, int command, flock* lock)

cdef extern from "<sys/syscall.h>" nogil:
    # The C library has it from glibc 2.27.
    const long SYS_memfd_create

cdef extern from "<unistd.h>" nogil:
    long syscall(long number, ...)
    const int SEEK_SET

cdef enum:
    # The kernel's MFD_CLOEXEC.
    CLOSE_ON_EXEC = 1


cdef inline int make_claim() noexcept nogil:
    """The descriptor of a claim that nobody has; -1 with `errno` where the system gives none."""
    return <int> syscall(SYS_memfd_create, b"mbcore", CLOSE_ON_EXEC)


cdef inline flock whole_file() noexcept nogil:
    cdef flock lock
    memset(&lock, 0, sizeof(lock))
    lock.l_type, lock.l_whence = F_WRLCK, SEEK_SET
    return lock


cdef inline bint take_claim(int claim) noexcept nogil:
    """Have it; False where another process has it."""
    cdef flock lock = whole_file()
    return fcntl(claim, F_SETLK, &lock) == 0


cdef inline bint is_claimed(int claim) noexcept nogil:
    """Whether another process has it."""
    cdef flock lock = whole_file()
    return fcntl(claim, F_GETLK, &lock) == 0 and lock.l_type != F_UNLCK
