"""The process' table of the hosts that compiled loops let in without asking Python. Knows no names, and no rule but this table."""

from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from cpython.bytes cimport PyBytes_AsString
from cpython.dict cimport PyDict_Values

from mbcore.lock cimport lock_image, unlock_image

from mbcore.errors import ConfigurationError

cdef enum:
    # bytes of an address
    V4 = 4
    V6 = 16
    # bytes in front of one of version 4 that is written as one of version 6
    MAPPED = V6 - V4

cdef const uint8_t* BEFORE_MAPPED = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"

ctypedef struct network_t:
    uint8_t[V6] address
    # of the address: V4 or V6
    size_t length
    # how many bits, the first ones, all its hosts have
    int bits

# Read and replaced with the image locked. NULL: there is no table.
cdef network_t* table = NULL
cdef size_t table_length = 0


cdef bint lets_in_host(const uint8_t* host, size_t length) noexcept nogil:
    """Whether the table has a host, or there is none.

    A host of version 4 is the same in both versions' writing. One without an address is in no network.
    """
    cdef bint found
    cdef size_t i = 0
    if length == V6 and not memcmp(host, BEFORE_MAPPED, MAPPED):
        host, length = host + MAPPED, V4
    lock_image()
    found = table == NULL
    while not found and i < table_length:
        found = table[i].length == length and begins_alike(host, table[i].address, table[i].bits)
        i += 1
    unlock_image()
    return found


cdef bint asks_about_all() noexcept nogil:
    """Whether Python is to say of every host whether it is let in: there is a table, and nobody in it."""
    cdef bint all_of_them
    lock_image()
    all_of_them = table != NULL and not table_length
    unlock_image()
    return all_of_them


cdef bint begins_alike(const uint8_t* one, const uint8_t* other, int bits) noexcept nogil:
    cdef int whole = bits >> 3, rest = bits & 7
    return not memcmp(one, other, whole) and (rest == 0 or (one[whole] ^ other[whole]) >> (8 - rest) == 0)


def set_table(dict networks):
    """Have the loops let in the hosts of these networks from now on, and ask Python for all others.

    The dict is read in one go: of threads that change it and then call this, whoever comes last leaves what all have changed.

    :param networks: its values are (address, 4 or 16 bytes; how many of its bits count), a host alone has all of them; None is passed over.
        None instead of a dict: there is no table, and everyone is let in
    :raises ConfigurationError: a value is no network; the table is what it was
    """
    global table, table_length
    cdef network_t* new = NULL
    cdef network_t* old
    cdef list given
    cdef size_t count = 0
    if networks is not None:
        # From here on no other thread has its turn before the table is there.
        given = PyDict_Values(networks)
        # One more than there are: a table without hosts is a table.
        new = <network_t*> calloc(len(given) + 1, sizeof(network_t))
        if new == NULL:
            raise MemoryError()
        try:
            for network in given:
                if network is not None:
                    fill(&new[count], network)
                    count += 1
        except BaseException:
            free(new)
            raise
    lock_image()
    old, table = table, new
    table_length = count
    unlock_image()
    free(old)


cdef int fill(network_t* network, tuple given) except -1:
    cdef bytes address
    cdef int bits
    address, bits = given
    if (len(address) != V4 and len(address) != V6) or not 0 <= bits <= 8 * len(address):
        raise ConfigurationError(f"{given!r} is no network: give the 4 or 16 bytes of its address, and how many of their bits count")
    memcpy(network.address, PyBytes_AsString(address), len(address))
    network.length = len(address)
    network.bits = bits
    return 0


def lets_in(bytes host not None):
    """Return whether a loop lets a host in without asking, by its address of 4 or 16 bytes: the table has it, or there is none."""
    return lets_in_host(<const uint8_t*> PyBytes_AsString(host), len(host))
