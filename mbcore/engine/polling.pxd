# Descriptors that are waited for.

from libc.stdint cimport uint32_t

from posix.time cimport timespec

cdef extern from "<sys/epoll.h>" nogil:
    union epoll_data_t:
        uint32_t u32
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    const uint32_t EPOLLIN
    const uint32_t EPOLLOUT
    const uint32_t EPOLLRDHUP
    const uint32_t EPOLLERR
    const uint32_t EPOLLHUP
    const uint32_t EPOLLET
    const int EPOLL_CTL_ADD
    const int EPOLL_CTL_DEL
    const int EPOLL_CTL_MOD
    const int EPOLL_CLOEXEC
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int maxevents, int timeout)

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


cdef inline int milliseconds_of(double seconds) noexcept nogil:
    # Whole ones, rounded up: what is waited for is due by then.
    cdef int whole = <int> (1000 * seconds)
    return whole + (whole < 1000 * seconds)
