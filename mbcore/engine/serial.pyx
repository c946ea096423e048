"""The serial loop: one line's bytes, silences and direction signal, in a thread of its own, without the GIL.

The port is opened and configured elsewhere. The loop reads, lets the session answer, and sends when the reply is due, whatever Python does
meanwhile. A request that needs Python (a user's block or custom function) waits for :meth:`SerialLoop.attend`, which the reactor's thread
calls when :meth:`SerialLoop.fileno` becomes readable; so do observers, who hear of writes in order without holding up the line.
"""

import os

from libc.errno cimport EAGAIN, EINTR, EIO, errno
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport read, write

from mbcore.engine.direction cimport (
    DIRECTION_GPIO, DIRECTION_NONE, DIRECTION_RTS, DIRECTION_RTS_LOW, DirectionKind, direction_off, direction_on, transmitter_empty,
)
from mbcore.line cimport CHUNK, LineSession
from mbcore.session cimport FED, OBSERVE, WAIT, exchange_t

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
    int ppoll(pollfd* fds, unsigned long count, const timespec* timeout, const void* signals)

cdef extern from "<sched.h>" nogil:
    struct sched_param:
        int sched_priority
    const int SCHED_FIFO
    int sched_setscheduler(int pid, int policy, const sched_param* parameters)

cdef extern from "<time.h>" nogil:
    int clock_nanosleep(int clock, int flags, const timespec* request, timespec* remaining)
    const int TIMER_ABSTIME

cdef enum:
    # Writes that observers have not heard of yet; when there are as many, the line waits for Python.
    NOTES = 64

# How long a driver may take no more bytes, and how long a UART may take beyond the computed end of a reply, seconds.
cdef double STUCK = 1.0
cdef double OVERDUE = 0.1

# One write by a master, for the observers.
ctypedef struct note_t:
    exchange_t exchange
    uint8_t[256] pdu
    uint8_t[32] executed


cdef double monotonic() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double> now.tv_sec + <double> now.tv_nsec * 1e-9


cdef timespec time_of(double seconds) noexcept nogil:
    cdef timespec time
    if seconds < 0:
        seconds = 0
    time.tv_sec = <long> seconds
    time.tv_nsec = <long> ((seconds - <double> time.tv_sec) * 1e9)
    return time


cdef void sleep_until(double then) noexcept nogil:
    cdef timespec time = time_of(then)
    while clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR:
        pass


cdef void ring(int bell) noexcept nogil:
    # An eventfd takes this always: its count does not get that far.
    cdef uint64_t one = 1
    write(bell, &one, sizeof(one))


cdef void hush(int bell) noexcept nogil:
    cdef uint64_t count
    read(bell, &count, sizeof(count))


cdef class SerialLoop:
    """Answers one serial line from a descriptor that is open, configured and non-blocking.

    :param session: the line's session; the loop's alone from :meth:`run` on until that returns
    :param fd: the port's descriptor, which stays the caller's to close
    :param character_time: seconds that a character takes
    :param direction: "rts" or "gpio": the loop switches the transceiver; "auto" or "kernel": others do
    :param active: "high" or "low", RTS while sending; a GPIO line's level is in its request
    :param gpio_fd: the GPIO line's descriptor
    :param delay_before: seconds between switching to sending and the first byte
    :param delay_after: seconds between the last byte and switching back
    :param priority: of SCHED_FIFO, 1..99; 0: the thread's own schedule
    """

    cdef readonly LineSession session
    cdef int fd
    cdef int gpio_fd
    cdef DirectionKind direction
    cdef double character_time
    cdef double delay_before
    cdef double delay_after
    cdef int priority

    # rung to wake the loop, and to call Python
    cdef int to_loop
    cdef int to_python
    cdef bint stopping
    cdef bint ended
    # what the loop stands still for, as the session says, or 0
    cdef int need
    # why it has ended, an errno; 0: it was stopped
    cdef int error
    cdef int schedule_error
    # whether the driver tells when the last bit is out: not asked yet, or as `transmitter_empty` says
    cdef bint tells_empty

    cdef note_t* notes
    cdef unsigned int notes_written
    cdef unsigned int notes_read

    def __cinit__(self, *args, **kwargs):
        self.to_loop = self.to_python = -1
        self.notes = <note_t*> calloc(NOTES, sizeof(note_t))
        if self.notes == NULL:
            raise MemoryError()

    def __init__(
        self, LineSession session not None, int fd, double character_time, *, direction="auto", active="high", int gpio_fd=-1,
        double delay_before=0.0, double delay_after=0.0, int priority=0,
    ):
        self.session = session
        self.fd = fd
        self.gpio_fd = gpio_fd
        self.direction = DIRECTION_NONE
        if direction == "rts":
            self.direction = DIRECTION_RTS if active == "high" else DIRECTION_RTS_LOW
        elif direction == "gpio":
            self.direction = DIRECTION_GPIO
        self.character_time = character_time
        self.delay_before = delay_before
        self.delay_after = delay_after
        self.priority = priority
        self.tells_empty = True
        self.to_loop = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.to_python = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __dealloc__(self):
        for bell in (self.to_loop, self.to_python):
            if bell >= 0:
                os.close(bell)
        free(self.notes)

    # ---- from Python's threads --------------------------------------------------------------------------------------------------------

    def fileno(self):
        """Return the descriptor that is readable when :meth:`attend` wants to be called."""
        return self.to_python

    @property
    def over(self):
        """Whether the loop has ended, by :meth:`stop` or because the line is gone."""
        return self.ended

    @property
    def errno(self):
        """Why the loop has ended, an error number of the system; 0: it was stopped, or runs."""
        return self.error

    @property
    def schedule_errno(self):
        """Why the system has refused the real-time schedule; 0: it has not."""
        return self.schedule_error

    def run(self):
        """Serve the line until it is gone or :meth:`stop` is called; for a thread of its own."""
        with nogil:
            self.serve()
            self.ended = True
            ring(self.to_python)

    def stop(self):
        """End the loop when a reply that is being sent is out; does not wait for that."""
        self.stopping = True
        ring(self.to_loop)

    def attend(self):
        """Do what the loop wants of Python: tell observers, answer a request that a user's code answers.

        Where a user's code answers later this wants to be called again by ``session.wake``, and :meth:`give_up` at ``session.deadline()``.
        """
        cdef note_t* note
        hush(self.to_python)
        while self.notes_read != self.notes_written:
            note = &self.notes[self.notes_read % NOTES]
            self.session.tell_observers(&note.exchange, note.executed)
            self.notes_read += 1
        if self.need and not self.ended and self.session.awaited is None and self.session.attend(self.need) != WAIT:
            self.need = 0
            ring(self.to_loop)

    def give_up(self):
        """A user's code has not answered in time: let the line go on."""
        if self.session.awaited is not None:
            self.session.give_up()
            self.attend()

    # ---- in the loop's thread, without the GIL ----------------------------------------------------------------------------------------

    cdef void serve(self) noexcept nogil:
        cdef sched_param parameters
        cdef uint8_t[CHUNK] chunk
        cdef ssize_t count
        cdef short events
        cdef double then
        if self.priority:
            parameters.sched_priority = self.priority
            if sched_setscheduler(0, SCHED_FIFO, &parameters):
                self.schedule_error = errno
                ring(self.to_python)
        while not self.stopping and not self.error:
            then = self.session.next_time()
            events = self.wait(then)
            if events & POLLIN:
                count = read(self.fd, chunk, CHUNK)
                if count > 0:
                    self.go_on(self.session.begin(chunk, <int> count, monotonic()))
                    if count == CHUNK:
                        continue
                elif count == 0:
                    self.error = EIO
                elif errno != EAGAIN and errno != EINTR:
                    self.error = errno
            elif events:
                self.error = EIO
            elif then >= 0 and monotonic() >= then:
                self.go_on(self.session.tick(monotonic()))
            self.send()

    cdef short wait(self, double then) noexcept nogil:
        """Wait for bytes, for `then` (below 0: for ever), or for `stop`; what the port is ready for."""
        cdef pollfd[2] polled
        cdef timespec timeout = time_of(then - monotonic())
        polled[0].fd, polled[0].events, polled[0].revents = self.fd, POLLIN, 0
        polled[1].fd, polled[1].events, polled[1].revents = self.to_loop, POLLIN, 0
        if ppoll(polled, 2, NULL if then < 0 else &timeout, NULL) < 0:
            return 0
        if polled[1].revents:
            hush(self.to_loop)
        return polled[0].revents

    cdef void go_on(self, int fed) noexcept nogil:
        """Let the session go on until it has looked at all bytes; stand still where it needs Python."""
        while fed != FED and not self.stopping:
            if fed != OBSERVE or not self.write_note():
                self.need = fed
                ring(self.to_python)
                while self.need and not self.stopping:
                    self.wait_for_python()
            fed = self.session.feed()
        if not self.stopping:
            self.session.keep()

    cdef void wait_for_python(self) noexcept nogil:
        cdef pollfd bell
        bell.fd, bell.events, bell.revents = self.to_loop, POLLIN, 0
        ppoll(&bell, 1, NULL, NULL)
        hush(self.to_loop)

    cdef bint write_note(self) noexcept nogil:
        """Note a write for the observers; False where they are too far behind."""
        cdef note_t* note = &self.notes[self.notes_written % NOTES]
        cdef exchange_t* exchange = &note.exchange
        if self.notes_written - self.notes_read == NOTES:
            return False
        exchange[0] = self.session.exchange
        memcpy(note.executed, self.session.executed, sizeof(note.executed))
        memcpy(note.pdu, exchange.frame.pdu, exchange.frame.pdu_length)
        exchange.request.data = note.pdu + (exchange.request.data - exchange.frame.pdu)
        exchange.frame.pdu = note.pdu
        self.notes_written += 1
        ring(self.to_python)
        return True

    cdef void send(self) noexcept nogil:
        """Send the reply if it is due, with the transceiver turned round for it."""
        cdef double now = monotonic(), end
        cdef size_t length = self.session.reply_ready(now), sent = 0
        cdef ssize_t count
        cdef pollfd polled
        cdef timespec timeout = time_of(STUCK)
        if not length:
            return
        if self.direction != DIRECTION_NONE:
            direction_on(self.direction, self.fd, self.gpio_fd)
            if self.delay_before:
                sleep_until(now + self.delay_before)
        self.session.reply_sent(now)
        end = monotonic() + <double> length * self.character_time
        while sent < length:
            count = write(self.fd, self.session.out + sent, length - sent)
            if count > 0:
                sent += count
                continue
            polled.fd, polled.events, polled.revents = self.fd, POLLOUT, 0
            if count < 0 and errno != EAGAIN and errno != EINTR:
                self.error = errno
                break
            if ppoll(&polled, 1, &timeout, NULL) <= 0 or polled.revents & (POLLERR | POLLHUP | POLLNVAL):
                # Flow control, or a device that has gone: the master has given up, and the next read says which.
                break
        if self.direction != DIRECTION_NONE:
            self.wait_until_sent(end)
            direction_off(self.direction, self.fd, self.gpio_fd)

    cdef void wait_until_sent(self, double end) noexcept nogil:
        """Sleep to the computed end of the last character, then ask the driver, never tcdrain, which waits in jiffies."""
        cdef double limit = end + OVERDUE
        cdef int empty
        sleep_until(end)
        while self.tells_empty and monotonic() < limit:
            empty = transmitter_empty(self.fd)
            if empty < 0:
                self.tells_empty = False
            if empty:
                break
            sleep_until(monotonic() + self.character_time / 4)
        if self.delay_after:
            sleep_until(monotonic() + self.delay_after)
