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

cdef extern from "<netdb.h>" nogil:
    const int NI_NUMERICHOST
    const int NI_NUMERICSERV
    int getnameinfo(
        const sockaddr* address, socklen_t length, char* host, socklen_t host_room, char* service, socklen_t service_room, int flags
    )


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


# As socket.getpeername() writes it, with the link of an address that has one, "fe80::1%eth0"; None of what has no host.
cdef inline object host_text(const sockaddr_storage* address):
    cdef char[64] host
    if not write_name(address, host, NULL):
        return None
    return (<bytes> <char*> host).decode("utf-8", "replace")


# For the log: host and port.
cdef inline object peer_text(const sockaddr_storage* address):
    cdef char[64] host
    cdef char[8] port
    if not write_name(address, host, port):
        return None
    return (<bytes> <char*> host + b":" + <bytes> <char*> port).decode("utf-8", "replace")


# Into a host's 64 characters and a port's 8.
cdef inline bint write_name(const sockaddr_storage* address, char* host, char* port) noexcept:
    cdef int length = 0
    if host_bytes(address, &length) == NULL:
        return False
    return not getnameinfo(
        <const sockaddr*> address, sizeof(address[0]), host, 64, port, 8 if port != NULL else 0, NI_NUMERICHOST | NI_NUMERICSERV
    )
