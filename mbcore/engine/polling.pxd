# Descriptors that are waited for.

from posix.time cimport timespec

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    const short POLLIN
    const short POLLOUT
    const short POLLERR
    const short POLLHUP
    const short POLLNVAL
    int poll(pollfd* fds, unsigned long count, int timeout)
    int ppoll(pollfd* fds, unsigned long count, const timespec* timeout, const void* signals)


cdef inline timespec time_of(double seconds) noexcept nogil:
    cdef timespec time
    if seconds < 0:
        seconds = 0
    time.tv_sec = <long> seconds
    time.tv_nsec = <long> ((seconds - <double> time.tv_sec) * 1e9)
    return time
