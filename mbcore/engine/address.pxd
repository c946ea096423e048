# The address of a peer, as the system tells it.

from libc.string cimport memcpy, memset
from libc.stdint cimport uint8_t

from mbcore.hosts cimport lets_in_host

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr:
        unsigned short sa_family
    struct sockaddr_storage:
        unsigned short ss_family
    const int AF_INET
    const int AF_INET6
    int getpeername(int fd, sockaddr* address, socklen_t* length)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        pass
    struct in6_addr:
        pass
    struct sockaddr_in:
        in_addr sin_addr
    struct sockaddr_in6:
        in6_addr sin6_addr

cdef extern from "<arpa/inet.h>" nogil:
    const char* inet_ntop(int family, const void* address, char* text, socklen_t room)


cdef inline const void* host_bytes(const sockaddr_storage* address, int* length) noexcept nogil:
    if address.ss_family == AF_INET:
        length[0] = sizeof(in_addr)
        return &(<const sockaddr_in*> address).sin_addr
    if address.ss_family == AF_INET6:
        length[0] = sizeof(in6_addr)
        return &(<const sockaddr_in6*> address).sin6_addr
    length[0] = 0
    return NULL


# The host alone, to tell one from another.
cdef inline void copy_host(uint8_t* host, const sockaddr_storage* address) noexcept nogil:
    cdef int length = 0
    cdef const void* found = host_bytes(address, &length)
    memset(host, 0, sizeof(in6_addr))
    if found != NULL:
        memcpy(host, found, length)


# Whether a peer is let in without asking Python.
cdef inline bint lets_in_peer(const sockaddr_storage* address) noexcept nogil:
    cdef int length = 0
    cdef const void* found = host_bytes(address, &length)
    return lets_in_host(<const uint8_t*> found, length)


# As socket.getpeername() writes it; None of what has no host.
cdef inline object host_text(const sockaddr_storage* address):
    cdef char[64] text
    cdef int length = 0
    cdef const void* found = host_bytes(address, &length)
    if found == NULL or inet_ntop(address.ss_family, found, text, sizeof(text)) == NULL:
        return None
    return (<bytes> <char*> text).decode("ascii")
