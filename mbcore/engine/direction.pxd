# The signal that switches an RS-485 transceiver, moved from C without the GIL. Decides no time and waits for nothing.

from libc.errno cimport errno
from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <sys/ioctl.h>
    #include <termios.h>

    /* Of linux/gpio.h, version 2 (Linux 5.10), which the headers that wheels are built with do not have. */
    struct mbcore_line_values { uint64_t bits; uint64_t mask; };
    #define MBCORE_LINE_SET_VALUES _IOWR(0xB4, 0x0F, struct mbcore_line_values)
    """
    const unsigned long TIOCMBIS
    const unsigned long TIOCMBIC
    const unsigned long TIOCSERGETLSR
    const unsigned long MBCORE_LINE_SET_VALUES
    const int TIOCM_RTS
    const int TIOCSER_TEMT
    int ioctl(int fd, unsigned long request, ...) noexcept nogil

    cdef struct mbcore_line_values:
        uint64_t bits
        uint64_t mask


cdef enum DirectionKind:
    DIRECTION_NONE = 0  # the adapter or its driver switches
    DIRECTION_RTS = 1  # RTS is set while sending
    DIRECTION_RTS_LOW = 2  # RTS is clear while sending
    DIRECTION_GPIO = 3  # a requested GPIO line, whose request says which level means to send


# Moves the signal: to sending or back to reception. `fd` is the port's, `gpio_fd` the line's. Returns 0, or the error's number.
cdef inline int set_direction(DirectionKind kind, int fd, int gpio_fd, bint sending) noexcept nogil:
    cdef mbcore_line_values values
    cdef int rts = TIOCM_RTS
    cdef int outcome = 0
    if kind == DIRECTION_GPIO:
        values.bits = 1 if sending else 0
        values.mask = 1
        outcome = ioctl(gpio_fd, MBCORE_LINE_SET_VALUES, &values)
    elif kind != DIRECTION_NONE:
        outcome = ioctl(fd, TIOCMBIS if sending == (kind == DIRECTION_RTS) else TIOCMBIC, &rts)
    return errno if outcome == -1 else 0


cdef inline int direction_on(DirectionKind kind, int fd, int gpio_fd) noexcept nogil:
    return set_direction(kind, fd, gpio_fd, True)


cdef inline int direction_off(DirectionKind kind, int fd, int gpio_fd) noexcept nogil:
    return set_direction(kind, fd, gpio_fd, False)


# Whether the last bit has left the UART: 1 yes, 0 not yet, -1 where the driver does not tell (most USB adapters, pseudo-terminals).
# Asking is one register on a UART of the board, but a round trip over the bus, about 1 ms, for an FTDI.
cdef inline int transmitter_empty(int fd) noexcept nogil:
    cdef int status = 0
    if ioctl(fd, TIOCSERGETLSR, &status) == -1:
        return -1
    return 1 if status & TIOCSER_TEMT else 0
