"""The TCP loop: one listening socket and all its connections, in a thread of its own, without the GIL.

The socket is opened and configured elsewhere. The loop accepts, reads, lets each connection's session answer, and sends, whatever Python
does meanwhile. What needs Python waits for :meth:`TcpLoop.attend`, which the reactor's thread calls when :meth:`TcpLoop.fileno` becomes
readable: a connection whose request a user's code answers stands still, and only that one; observers hear of writes in order; sessions are made
ahead. A connection is a session, a socket and an entry in a table.
"""

import os

from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from posix.unistd cimport close

from mbcore.engine.bell cimport hush, ring
from mbcore.engine.clock cimport monotonic
from mbcore.engine.notes cimport Notes
from mbcore.session cimport FED, OBSERVE, PYTHON, WAIT, Session

cdef extern from "<sys/epoll.h>" nogil:
    union epoll_data_t:
        uint32_t u32
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    const uint32_t EPOLLIN
    const uint32_t EPOLLOUT
    const uint32_t EPOLLERR
    const uint32_t EPOLLHUP
    const uint32_t EPOLLRDHUP
    const uint32_t EPOLLET
    const int EPOLL_CTL_ADD
    const int EPOLL_CTL_DEL
    const int EPOLL_CTL_MOD
    const int EPOLL_CLOEXEC
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int maxevents, int timeout)

cdef extern from "<sys/socket.h>" nogil:
    const int SOL_SOCKET
    const int SO_KEEPALIVE
    const int SOCK_NONBLOCK
    const int SOCK_CLOEXEC
    const int MSG_NOSIGNAL
    const int MSG_DONTWAIT
    const int SHUT_RDWR
    int accept4(int fd, void* address, void* length, int flags)
    int setsockopt(int fd, int level, int name, const void* value, unsigned int length)
    ssize_t recv(int fd, void* buffer, size_t length, int flags)
    ssize_t send(int fd, const void* buffer, size_t length, int flags)
    int shutdown(int fd, int how)

cdef extern from "<netinet/tcp.h>" nogil:
    const int TCP_NODELAY
    const int IPPROTO_TCP "6"

cdef enum:
    # what epoll says of the listening socket and of `to_loop`
    LISTENER = 0xFFFFFFFF
    BELL = 0xFFFFFFFE
    # sockets looked at after one wait
    EVENTS = 256
    # sessions made ahead, each for one connection to come
    SPARE = 16
    # of an errand: whether the connection's peer is let in; it is not
    ADMIT = 100
    REFUSED = 101
    # bytes read from one connection before the others have their turn
    TURN = 65536

# Each change is told once: a connection that stands still makes no noise.
cdef uint32_t CONNECTION_EVENTS = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET

# How often partial frames and idle connections are looked for, and how long accepting rests when descriptors have run out, seconds.
cdef double SWEEP = 0.1
cdef double REST = 0.5

cdef enum state_t:
    FREE
    OPEN
    # Python has its session
    ASKING
    # as ASKING, but the connection has gone
    GONE

ctypedef struct connection_t:
    int fd
    state_t state
    # its Session; the loop's list of sessions holds the reference
    void* session
    # bytes of the replies that the client has taken
    size_t sent
    # the client does not take its replies: it is not read
    bint blocked
    # bytes may have come that were not read
    bint ready
    # the client sends no more: behind what is there comes the end
    bint hung_up
    # close once the replies are out
    bint closing
    double last_heard

# A connection that Python is asked for, or is done with.
ctypedef struct errand_t:
    uint32_t index
    # what the session has stopped for, or ADMIT
    int need
    int fd
    void* session


cdef class Errands:
    """A ring of errands from one thread to another; as long as there are connections, each of which is in it once at most."""
    cdef errand_t* ring
    cdef uint32_t mask
    cdef uint32_t put_count
    cdef uint32_t got_count

    def __cinit__(self, uint32_t most):
        cdef uint32_t size = 2
        while size < most:
            size *= 2
        self.mask = size - 1
        self.ring = <errand_t*> calloc(size, sizeof(errand_t))
        if self.ring == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.ring)

    cdef void put(self, errand_t errand) noexcept nogil:
        self.ring[self.put_count & self.mask] = errand
        # The bell that is rung next makes both visible to the other thread, in this order.
        self.put_count += 1

    cdef bint get(self, errand_t* errand) noexcept nogil:
        if self.got_count == self.put_count:
            return False
        errand[0] = self.ring[self.got_count & self.mask]
        self.got_count += 1
        return True


cdef class TcpLoop:
    """Serves a listening socket's connections.

    :param listener: the descriptor of a socket that listens and does not block; it stays the caller's to close
    :param new_session: called without arguments in the thread that calls :meth:`attend`; returns a session for a connection to come
    :param max_connections: connections held at most; a further one takes the place of the one that was unused for longest
    :param idle_timeout: seconds after which a connection that says nothing is closed; 0: never
    :param admit: called as ``new_session`` is, with the descriptor of a new connection: whether its peer is let in
    """

    cdef int listener
    cdef object admit
    #: Whether ``admit`` is asked.
    cdef public bint gated
    # whether time ends anything: partial frames, idle connections
    cdef bint sweeps
    cdef object new_session
    cdef uint32_t max_connections
    cdef double idle_timeout

    cdef int epoll
    # rung to wake the loop, and to call Python
    cdef int to_loop
    cdef int to_python
    cdef bint stopping
    cdef bint ended

    # every session that was made, for the loop holds none of the references
    cdef list sessions
    # of `spare` the loop takes, and what is given back goes there: its own; `made` is filled by Python
    cdef void** spare
    cdef uint32_t spare_count
    cdef Errands made
    cdef bint wants_sessions
    cdef bint accepting
    cdef double accept_again

    cdef connection_t* table
    # indices of the table that were never used, and of those that were, which are free
    cdef uint32_t used
    cdef uint32_t* vacant
    cdef uint32_t vacant_count
    cdef readonly unsigned int count
    cdef readonly unsigned int accepted
    cdef readonly unsigned int evicted

    cdef Errands asked
    cdef Errands done
    # those that stand still because observers are too far behind
    cdef Notes notes
    cdef dict waiting

    def __cinit__(self, *args, **kwargs):
        self.epoll = self.to_loop = self.to_python = -1

    def __init__(self, int listener, new_session, uint32_t max_connections, double idle_timeout=0.0, *, admit=None):
        self.listener = listener
        self.new_session = new_session
        self.max_connections = max_connections
        self.idle_timeout = idle_timeout
        self.admit = admit
        self.gated = admit is not None
        self.sessions = []
        self.waiting = {}
        # One more than `max_connections`: the new one is there before an old one goes. Python may still have sessions of those that went.
        self.made = Errands(SPARE)
        self.asked = Errands(2 * max_connections + 2)
        self.done = Errands(2 * max_connections + 2)
        self.notes = Notes()
        self.table = <connection_t*> calloc(2 * max_connections + 2, sizeof(connection_t))
        self.vacant = <uint32_t*> calloc(2 * max_connections + 2, sizeof(uint32_t))
        self.spare = <void**> calloc(2 * max_connections + 2 + SPARE, sizeof(void*))
        if self.table == NULL or self.vacant == NULL or self.spare == NULL:
            raise MemoryError()
        self.to_loop = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.to_python = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise OSError(errno, os.strerror(errno))
        self.watch(self.to_loop, BELL, EPOLLIN)
        self.make_sessions()
        self.sweeps = idle_timeout > 0 or (<Session> self.sessions[0]).framer.patience > 0

    def __dealloc__(self):
        for descriptor in (self.epoll, self.to_loop, self.to_python):
            if descriptor >= 0:
                close(descriptor)
        free(self.table)
        free(self.vacant)
        free(self.spare)

    # ---- from the thread that attends -------------------------------------------------------------------------------------------------

    def fileno(self):
        """Return the descriptor that is readable when :meth:`attend` wants to be called."""
        return self.to_python

    @property
    def over(self):
        """Whether the loop has ended."""
        return self.ended

    def run(self):
        """Serve until :meth:`stop` is called; for a thread of its own."""
        with nogil:
            self.serve()
            self.ended = True
            ring(self.to_python)

    def stop(self):
        """Close all connections and end the loop; does not wait for that."""
        self.stopping = True
        ring(self.to_loop)

    def attend(self):
        """Do what the loop wants of Python; returns the sessions whose user's code answers later, which are to be watched.

        For each of them :meth:`resume` wants to be called by ``session.wake``, and :meth:`give_up` at ``session.deadline()``.
        """
        cdef errand_t errand
        cdef list later = []
        hush(self.to_python)
        if self.sessions:
            self.notes.tell(self.sessions[0])
        while self.asked.get(&errand):
            # What comes before it in order is told.
            self.notes.tell(<Session> errand.session)
            if errand.need == ADMIT:
                if not self.admit(errand.fd):
                    errand.need = REFUSED
                self.done.put(errand)
            elif (<Session> errand.session).attend(errand.need) == WAIT:
                self.waiting[<Session> errand.session] = errand.index
                later.append(<Session> errand.session)
            else:
                self.done.put(errand)
        if self.wants_sessions and not self.stopping:
            self.make_sessions()
        ring(self.to_loop)
        return later

    def resume(self, Session session not None):
        """A user's code has answered; whether the session waits for another answer."""
        cdef errand_t errand
        if session not in self.waiting:
            return False
        if session.attend(PYTHON) == WAIT:
            return True
        errand.index = self.waiting.pop(session)
        errand.need = PYTHON
        errand.session = <void*> session
        self.done.put(errand)
        ring(self.to_loop)
        return False

    def give_up(self, Session session not None):
        """A user's code has not answered in time; whether the session waits for another answer."""
        if session in self.waiting and session.awaited is not None:
            session.give_up()
        return self.resume(session)

    cdef int make_sessions(self) except -1:
        cdef errand_t errand
        memset(&errand, 0, sizeof(errand))
        while self.made.put_count - self.made.got_count < SPARE and len(self.sessions) < 2 * self.max_connections + 2:
            session = self.new_session()
            self.sessions.append(session)
            errand.session = <void*> (<Session?> session)
            self.made.put(errand)
        self.wants_sessions = False
        return 0

    cdef int watch(self, int fd, uint32_t index, uint32_t events, int operation=EPOLL_CTL_ADD) noexcept nogil:
        cdef epoll_event event
        memset(&event, 0, sizeof(event))
        event.events = events
        event.data.u32 = index
        return epoll_ctl(self.epoll, operation, fd, &event)

    # ---- in the loop's thread, without the GIL ----------------------------------------------------------------------------------------

    cdef void serve(self) noexcept nogil:
        cdef epoll_event[EVENTS] events
        cdef int count, i
        cdef double now, sweep_at = 0
        self.accepting = self.watch(self.listener, LISTENER, EPOLLIN) == 0
        while not self.stopping:
            count = epoll_wait(self.epoll, events, EVENTS, self.pause())
            now = monotonic()
            for i in range(count):
                if events[i].data.u32 == LISTENER:
                    self.accept_some(now)
                elif events[i].data.u32 == BELL:
                    hush(self.to_loop)
                else:
                    self.look_at(events[i].data.u32, events[i].events, now)
            self.take_back(now)
            if not self.accepting and now >= self.accept_again and (self.spare_count or self.made.got_count != self.made.put_count):
                self.accepting = self.watch(self.listener, LISTENER, EPOLLIN) == 0
            if self.sweeps and now >= sweep_at:
                self.sweep(now)
                sweep_at = now + SWEEP
        self.close_all()

    cdef int pause(self) noexcept nogil:
        # Milliseconds until something has to be done; -1: nothing.
        if self.sweeps and self.count or not self.accepting:
            return <int> (1000 * SWEEP)
        return -1

    cdef void accept_some(self, double now) noexcept nogil:
        """Take the connections that wait."""
        cdef errand_t errand
        cdef void* session
        cdef int fd, _
        # As many as a burst has; the others have their turn in between.
        for _ in range(64):
            if self.spare_count:
                self.spare_count -= 1
                session = self.spare[self.spare_count]
            elif self.made.get(&errand):
                session = errand.session
            else:
                # Python makes more; until then the kernel keeps them waiting.
                self.rest_accepting(0)
                self.wants_sessions = True
                ring(self.to_python)
                return
            fd = accept4(self.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd < 0 or not self.enter(fd, session, now):
                self.spare[self.spare_count] = session
                self.spare_count += 1
            if fd >= 0:
                continue
            if errno == EAGAIN:
                break
            if errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM:
                # The kernel would say so again and again.
                self.rest_accepting(now + REST)
                break
            if errno != ECONNABORTED and errno != EINTR:
                self.rest_accepting(now + REST)
                break
        if self.made.put_count - self.made.got_count < SPARE // 2 and not self.spare_count and not self.wants_sessions:
            self.wants_sessions = True
            ring(self.to_python)

    cdef void rest_accepting(self, double again) noexcept nogil:
        if self.accepting:
            epoll_ctl(self.epoll, EPOLL_CTL_DEL, self.listener, NULL)
        self.accepting = False
        self.accept_again = again

    cdef bint enter(self, int fd, void* session, double now) noexcept nogil:
        """Enter a new connection into the table."""
        cdef uint32_t index
        cdef connection_t* connection
        cdef int on = 1
        if self.count >= self.max_connections:
            self.evict()
        if self.vacant_count:
            self.vacant_count -= 1
            index = self.vacant[self.vacant_count]
        elif self.used < 2 * self.max_connections + 2:
            index = self.used
            self.used += 1
        else:
            close(fd)
            return False
        connection = &self.table[index]
        memset(connection, 0, sizeof(connection_t))
        connection.fd = fd
        connection.session = session
        connection.last_heard = now
        connection.state = OPEN
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on))
        self.count += 1
        self.accepted += 1
        if self.watch(fd, index, CONNECTION_EVENTS):
            self.drop(index)
        elif self.gated:
            self.ask(index, ADMIT)
        return True

    cdef void evict(self) noexcept nogil:
        # "the oldest unused connection is closed" (Messaging on TCP/IP Implementation Guide V1.0b, connection management)
        cdef uint32_t index, oldest = LISTENER
        for index in range(self.used):
            if (self.table[index].state == OPEN or self.table[index].state == ASKING) and (
                oldest == LISTENER or self.table[index].last_heard < self.table[oldest].last_heard
            ):
                oldest = index
        if oldest != LISTENER:
            self.evicted += 1
            self.drop(oldest)

    cdef void drop(self, uint32_t index) noexcept nogil:
        """Close a connection; its place is free when Python has no part in it."""
        cdef connection_t* connection = &self.table[index]
        if connection.state == OPEN or connection.state == ASKING:
            close(connection.fd)
            self.count -= 1
            if connection.state == ASKING:
                connection.state = GONE
            else:
                self.release(index)

    cdef void release(self, uint32_t index) noexcept nogil:
        """The place and the session of a connection that has gone are free."""
        cdef connection_t* connection = &self.table[index]
        connection.state = FREE
        (<Session> connection.session).clear()
        self.spare[self.spare_count] = connection.session
        self.spare_count += 1
        self.vacant[self.vacant_count] = index
        self.vacant_count += 1

    cdef void ask(self, uint32_t index, int need) noexcept nogil:
        """Have Python do something for a connection, which stands still until then."""
        cdef errand_t errand
        self.table[index].state = ASKING
        errand.index = index
        errand.need = need
        errand.session = self.table[index].session
        errand.fd = self.table[index].fd
        self.asked.put(errand)
        ring(self.to_python)

    cdef void look_at(self, uint32_t index, uint32_t events, double now) noexcept nogil:
        cdef connection_t* connection = &self.table[index]
        if events & EPOLLRDHUP:
            connection.hung_up = True
        if connection.state != OPEN:
            connection.ready = True
            return
        if events & (EPOLLERR | EPOLLHUP):
            self.drop(index)
            return
        if connection.blocked:
            connection.ready = True
            if events & EPOLLOUT and not self.flush(index):
                return
        if not connection.blocked and (events & (EPOLLIN | EPOLLRDHUP) or connection.ready):
            self.read_from(index, now)

    cdef void read_from(self, uint32_t index, double now) noexcept nogil:
        """Read what is there and answer it."""
        cdef connection_t* connection = &self.table[index]
        cdef uint8_t* place
        cdef int available = 0, turn = 0
        cdef ssize_t count
        connection.ready = False
        while True:
            place = (<Session> connection.session).room(&available)
            if place == NULL:
                self.drop(index)
                return
            count = recv(connection.fd, place, available, MSG_DONTWAIT)
            if count <= 0:
                if count < 0 and errno == EINTR:
                    continue
                if count == 0 or errno != EAGAIN:
                    self.drop(index)
                return
            connection.last_heard = now
            if not self.go_on(index, (<Session> connection.session).take(<int> count, now)):
                connection.ready = True
                return
            if count < available and not connection.hung_up:
                # All that was there; what comes later is told.
                return
            turn += <int> count
            if turn >= TURN:
                # The others have their turn, then this one is told of again.
                self.watch(connection.fd, index, CONNECTION_EVENTS, EPOLL_CTL_MOD)
                return

    cdef bint go_on(self, uint32_t index, int fed) noexcept nogil:
        """Let the session look at all its bytes and send its replies; False where the connection can't be read now."""
        cdef connection_t* connection = &self.table[index]
        while fed != FED:
            if fed == OBSERVE and self.notes.write(<Session> connection.session):
                ring(self.to_python)
            else:
                self.ask(index, fed)
                return False
            fed = (<Session> connection.session).feed()
        (<Session> connection.session).keep()
        if (<Session> connection.session).closing:
            connection.closing = True
        return self.flush(index) and not connection.blocked

    cdef bint flush(self, uint32_t index) noexcept nogil:
        """Send replies; False where the connection has gone."""
        cdef connection_t* connection = &self.table[index]
        cdef uint8_t* out = (<Session> connection.session).out
        cdef size_t length = (<Session> connection.session).out_length
        cdef ssize_t count
        while connection.sent < length:
            count = send(connection.fd, out + connection.sent, length - connection.sent, MSG_NOSIGNAL | MSG_DONTWAIT)
            if count >= 0:
                connection.sent += count
            elif errno == EAGAIN:
                connection.blocked = True
                return True
            elif errno != EINTR:
                self.drop(index)
                return False
        connection.blocked = False
        connection.sent = 0
        (<Session> connection.session).out_length = 0
        if connection.closing:
            self.drop(index)
            return False
        return True

    cdef void take_back(self, double now) noexcept nogil:
        """Go on with connections that Python is done with, and with those that had more to read than their turn."""
        cdef errand_t errand
        cdef connection_t* connection
        while self.done.get(&errand):
            connection = &self.table[errand.index]
            if connection.state == GONE:
                self.release(errand.index)
                continue
            connection.state = OPEN
            if errand.need == REFUSED:
                self.drop(errand.index)
            elif errand.need == ADMIT:
                self.read_from(errand.index, now)
            elif self.go_on(errand.index, (<Session> connection.session).feed()) and connection.ready:
                self.read_from(errand.index, now)

    cdef void sweep(self, double now) noexcept nogil:
        """Give up partial frames and idle connections."""
        cdef uint32_t index
        cdef connection_t* connection
        for index in range(self.used):
            connection = &self.table[index]
            if connection.state != OPEN:
                continue
            if self.idle_timeout and now >= connection.last_heard + self.idle_timeout:
                self.drop(index)
            elif not connection.blocked and (<Session> connection.session).held:
                self.go_on(index, (<Session> connection.session).end_partial(now))

    cdef void close_all(self) noexcept nogil:
        cdef uint32_t index
        for index in range(self.used):
            self.drop(index)
