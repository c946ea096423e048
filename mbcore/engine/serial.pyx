"""The serial loop: one line's bytes, silences and direction signal, in a thread of its own, without the GIL.

The port is opened and configured elsewhere. The loop reads, lets the session answer, and sends when the reply is due, whatever Python does
meanwhile. A request that needs Python (a user's block or custom function) waits for :meth:`SerialLoop.attend`, which the reactor's thread
calls when :meth:`SerialLoop.fileno` becomes readable; so do observers, who hear of writes in order without holding up the line.
"""

from libc.errno cimport EAGAIN, EBADF, EINTR, EIO, errno
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memmove

from posix.time cimport CLOCK_MONOTONIC, timespec
from posix.unistd cimport read, write

from mbcore.engine.bell cimport hush, ring
from mbcore.engine.clock cimport monotonic
from mbcore.engine.direction cimport (
    DIRECTION_GPIO, DIRECTION_NONE, DIRECTION_RTS, DIRECTION_RTS_LOW, DirectionKind, direction_off, direction_on, transmitter_empty,
)
from mbcore.engine.loop cimport Loop
from mbcore.engine.polling cimport POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, pollfd, ppoll, time_of
from mbcore.engine.schedule cimport take_priority
from mbcore.line cimport CHUNK, LineSession
from mbcore.session cimport FED, OBSERVE, WAIT
from mbcore.shared cimport look, show

cdef extern from "<termios.h>" nogil:
    const int TCOFLUSH
    int tcflush(int fd, int queues)

cdef extern from "<time.h>" nogil:
    int clock_nanosleep(int clock, int flags, const timespec* request, timespec* remaining)
    const int TIMER_ABSTIME

cdef enum:
    # Bytes kept of what comes while the line waits for Python; as many again are kept by the kernel.
    BACKLOG = 4096

# How long a driver may keep a reply waiting beyond its computed end before the rest is dropped, and how long a UART may take beyond it,
# seconds.
cdef double STUCK = 1.0
cdef double OVERDUE = 0.1


cdef void sleep_until(double then) noexcept nogil:
    cdef timespec time = time_of(then)
    while clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR:
        pass


cdef class SerialLoop(Loop):
    """Answers one serial line from a descriptor that is open, configured and non-blocking.

    :param session: the line's session; the loop's alone from :meth:`run` on until that returns
    :param fd: the port's descriptor, with VMIN 1 and O_NONBLOCK, which stays the caller's to close
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

    # Of both threads: what the loop stands still for, as the session says, or 0.
    cdef unsigned int need
    # why it has ended, an errno; 0: it was stopped
    cdef int error
    cdef int schedule_error
    # whether the driver tells when the last bit is out: not asked yet, or as `transmitter_empty` says
    cdef bint tells_empty

    # what came in while the loop stood still, and when the last of it
    cdef uint8_t[BACKLOG] backlog
    cdef int kept
    cdef double kept_at

    def __init__(
        self, LineSession session not None, int fd, double character_time, *, direction="auto", active="high", int gpio_fd=-1,
        double delay_before=0.0, double delay_after=0.0, int priority=0,
    ):
        session.initialised()
        self.session = self.first = session
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
        self.whole = True

    # ---- from Python's threads --------------------------------------------------------------------------------------------------------

    @property
    def errno(self):
        """Why the loop has ended, an error number of the system; 0: it was stopped, or runs."""
        return self.error

    @property
    def schedule_errno(self):
        """Why the system has refused the real-time schedule; 0: it has not."""
        return self.schedule_error

    def attend(self):
        """Do what the loop wants of Python: tell observers, answer a request that a user's code answers.

        Where a user's code answers later this wants to be called again by ``session.wake``, and :meth:`give_up` at ``session.deadline()``.
        """
        self.initialised()
        # Of several processes the one that runs the loop hears it, even if none does yet.
        if self.claimed:
            hush(&self.to_python)
        try:
            if look(&self.need) and not look(&self.ended) and self.session.awaited is None:
                self.answer()
        finally:
            # Last: the line does not wait for them.
            self.session.tell_observers()

    cdef int answer(self) except -1:
        """Answer what the loop stands still for, and let it go on."""
        cdef int answered = FED
        self.session.now = monotonic()
        try:
            answered = self.session.answer_in_python()
        except BaseException:
            # A user's code wants to end the program: this request has no answer.
            self.session.reset()
            # The line was not opened anew: what came behind the request is looked at with the time that it has.
            self.session.last = self.session.now
            raise
        finally:
            if answered == WAIT:
                self.session.awaited.suspended = True
            else:
                show(&self.need, 0)
                ring(&self.to_loop)
        return 0

    def give_up(self):
        """A user's code has not answered in time: let the line go on."""
        self.initialised()
        if self.session.awaited is not None:
            self.session.give_up()
            self.attend()

    # ---- in the loop's thread, without the GIL ----------------------------------------------------------------------------------------

    cdef void serve(self) noexcept nogil:
        cdef uint8_t[CHUNK] chunk
        cdef short events
        cdef double then
        cdef int fed
        if self.priority:
            self.schedule_error = take_priority(self.priority)
            if self.schedule_error:
                ring(&self.to_python)
        while not look(&self.stopping) and not self.error:
            if self.kept:
                self.take_kept(chunk)
                continue
            then = self.session.next_time()
            events = self.wait(then)
            if events:
                fed = self.take(chunk, CHUNK, events)
                if fed > 0:
                    self.go_on(self.session.begin(chunk, fed, monotonic()))
            elif then >= 0 and monotonic() >= then:
                fed = self.session.tick(monotonic())
                self.go_on(fed)
                if fed == FED:
                    # No time has passed since nothing was there to be read.
                    self.send()
        if self.error and self.direction != DIRECTION_NONE:
            direction_off(self.direction, self.fd, self.gpio_fd)

    cdef int take(self, uint8_t* place, int room, short events) noexcept nogil:
        """Read what is there; how many bytes. Notes it when the line is gone."""
        cdef ssize_t count
        if not events & POLLIN:
            self.error = EBADF if events & POLLNVAL else EIO
            return 0
        count = read(self.fd, place, room)
        if count > 0:
            return <int> count
        if count == 0:
            self.error = EIO
        elif errno != EAGAIN and errno != EINTR:
            self.error = errno
        elif events & (POLLERR | POLLHUP):
            self.error = EIO
        return 0

    cdef void take_kept(self, uint8_t* chunk) noexcept nogil:
        """Go on with what came while the loop stood still."""
        cdef int length = min(self.kept, CHUNK)
        memcpy(chunk, self.backlog, length)
        self.kept -= length
        memmove(self.backlog, self.backlog + length, self.kept)
        self.go_on(self.session.begin(chunk, length, self.kept_at))

    cdef short wait(self, double then) noexcept nogil:
        """Wait for bytes, for `then` (below 0: for ever), or for `stop`; what the port is ready for."""
        cdef pollfd[2] polled
        cdef timespec timeout = time_of(then - monotonic())
        polled[0].fd, polled[0].events, polled[0].revents = self.fd, POLLIN, 0
        polled[1].fd, polled[1].events, polled[1].revents = self.to_loop.fd, POLLIN, 0
        if ppoll(polled, 2, NULL if then < 0 else &timeout, NULL) < 0:
            return 0
        if polled[1].revents:
            hush(&self.to_loop)
        return polled[0].revents

    cdef void go_on(self, int fed) noexcept nogil:
        """Let the session go on until it has looked at all bytes; stand still where it needs Python."""
        while fed != FED:
            if fed == OBSERVE:
                self.call_observers(self.session)
            else:
                show(&self.need, fed)
                ring(&self.to_python)
                while look(&self.need):
                    self.stand_still()
                    if look(&self.stopping) or self.error:
                        return
            fed = self.session.feed()
        self.session.keep()

    cdef void stand_still(self) noexcept nogil:
        """Wait for Python; keep what comes in meanwhile, and when it came."""
        cdef pollfd[2] polled
        cdef int count
        polled[0].fd, polled[0].events, polled[0].revents = self.fd if self.kept < BACKLOG else -1, POLLIN, 0
        polled[1].fd, polled[1].events, polled[1].revents = self.to_loop.fd, POLLIN, 0
        if ppoll(polled, 2, NULL, NULL) < 0:
            return
        if polled[1].revents:
            hush(&self.to_loop)
        if polled[0].revents:
            count = self.take(self.backlog + self.kept, BACKLOG - self.kept, polled[0].revents)
            if count:
                self.kept += count
                self.kept_at = monotonic()

    cdef void send(self) noexcept nogil:
        """Send the reply if it is due, with the transceiver turned round for it."""
        cdef size_t length = self.session.reply_ready(monotonic())
        cdef double begun, end
        cdef int outcome
        if not length:
            return
        if self.direction != DIRECTION_NONE:
            self.error = direction_on(self.direction, self.fd, self.gpio_fd)
            if self.error:
                # Nobody would hear the reply, or it would meet others' bytes.
                return
            if self.delay_before:
                sleep_until(monotonic() + self.delay_before)
        begun = monotonic()
        # What is heard until the line is free again is the own echo.
        self.session.reply_sent(begun + self.delay_after)
        end = self.write_out(length, begun + <double> length * self.character_time + STUCK)
        if self.direction != DIRECTION_NONE:
            self.wait_until_sent(end)
            outcome = direction_off(self.direction, self.fd, self.gpio_fd)
            if outcome and not self.error:
                self.error = outcome

    cdef double write_out(self, size_t length, double limit) noexcept nogil:
        """Hand the reply to the driver; what that does not take until `limit` is dropped, since the master has given up.

        Returns when the last character is out at the earliest.
        """
        cdef double end = 0
        cdef size_t sent = 0
        cdef ssize_t count
        cdef pollfd polled
        cdef timespec timeout
        while sent < length:
            count = write(self.fd, self.session.out + sent, length - sent)
            if count > 0:
                sent += count
                # Not from before the call: the thread may have stood still on the way to it.
                end = max(end, monotonic()) + <double> count * self.character_time
                continue
            if count < 0 and errno != EAGAIN and errno != EINTR:
                self.error = errno
                self.session.count_unsent()
                break
            timeout = time_of(limit - monotonic())
            polled.fd, polled.events, polled.revents = self.fd, POLLOUT, 0
            ppoll(&polled, 1, &timeout, NULL)
            if monotonic() >= limit or polled.revents & (POLLERR | POLLHUP | POLLNVAL):
                # Flow control, or a device that has gone: the next read says which. A part of a reply must not go out later.
                tcflush(self.fd, TCOFLUSH)
                self.session.count_unsent()
                break
        return end

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
