"""The TCP loop: one listening socket and all its connections, in a thread of its own, without the GIL.

The socket is opened and configured elsewhere. The loop accepts, reads, lets each connection's session answer, and sends, whatever Python
does meanwhile. What needs Python waits for :meth:`TcpLoop.attend`, which the reactor's thread calls when :meth:`TcpLoop.fileno` becomes
readable: a connection whose request a user's code answers stands still, and only that one; observers hear of writes in order; sessions are
made ahead. A connection is a session, a socket and an entry in a table.
"""

import os

from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from posix.unistd cimport close

from mbcore.control cimport has_table_of_hosts
from mbcore.engine.bell cimport hush, ring
from mbcore.engine.clock cimport monotonic
from mbcore.engine.notes cimport Notes
from mbcore.engine.shared cimport look, show
from mbcore.session cimport FED, OBSERVE, PYTHON, WAIT, Session

cdef extern from "<sys/epoll.h>" nogil:
    union epoll_data_t:
        uint32_t u32
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    const uint32_t EPOLLIN
    const uint32_t EPOLLOUT
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
    int accept4(int fd, void* address, void* length, int flags)
    int setsockopt(int fd, int level, int name, const void* value, unsigned int length)
    ssize_t recv(int fd, void* buffer, size_t length, int flags)
    ssize_t send(int fd, const void* buffer, size_t length, int flags)

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
    # of an errand: whether the connection's peer is let in; it is to be closed; it has gone, and its answer need not come
    ADMIT = 100
    CLOSE = 101
    CANCEL = 102
    # more connections than a process may have
    MOST = 1 << 20
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
    # Python is to say whether it is let in; it does not count yet
    PENDING
    # as ASKING or PENDING, but the connection has gone
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
    # what the session has stopped for, ADMIT or CANCEL; and what to do when it comes back: go on, or CLOSE
    int asked
    int need
    int fd
    void* session


cdef class Errands:
    """A ring of errands from one thread to another, which has room for all there can be at a time."""
    cdef errand_t* ring
    cdef uint32_t mask
    cdef unsigned int put_count
    cdef unsigned int got_count

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
        show(&self.put_count, self.put_count + 1)

    cdef bint get(self, errand_t* errand) noexcept nogil:
        if not self.count():
            return False
        errand[0] = self.ring[self.got_count & self.mask]
        show(&self.got_count, self.got_count + 1)
        return True

    cdef unsigned int count(self) noexcept nogil:
        return look(&self.put_count) - look(&self.got_count)


cdef class TcpLoop:
    """Serves a listening socket's connections.

    :param listener: the descriptor of a socket that listens and does not block; it stays the caller's to close
    :param new_session: called without arguments in the thread that calls :meth:`attend`; returns a session for a connection to come
    :param max_connections: connections held at most; a further one takes the place of the one that was unused for longest
    :param idle_timeout: seconds after which a connection that says nothing is closed; 0: never
    :param admit: called as ``new_session`` is, with the descriptor of a new connection, once there is a table of hosts: whether its peer
        is let in
    """

    cdef int listener
    cdef object admit
    cdef bint gated
    # whether time ends anything: partial frames, idle connections
    cdef bint sweeps
    cdef object new_session
    cdef uint32_t max_connections
    # of the table, each with a session: as many as connections, and again for those that have gone while Python has their sessions
    cdef uint32_t places
    cdef double idle_timeout
    # `__init__` has come to its end
    cdef bint whole

    cdef int epoll
    # rung to wake the loop, and to call Python
    cdef int to_loop
    cdef int to_python
    # Of both threads: written by `show`, read by `look`.
    cdef unsigned int stopping
    cdef unsigned int ended
    cdef unsigned int wants_sessions

    # every session that was made, for the loop holds none of the references
    cdef list sessions
    # of `spare` the loop takes, and what is given back goes there: its own; `made` is filled by Python
    cdef void** spare
    cdef uint32_t spare_count
    cdef Errands made
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
    cdef Notes notes
    # connections that stand still because observers are too far behind: who writes next has to queue up behind them
    cdef uint32_t behind
    # sessions whose answer a user's code owes, and the indices of their connections
    cdef dict waiting
    # sessions that have come into `waiting`, or were taken out, since `attend` has returned the last time
    cdef list changed

    def __cinit__(self, *args, **kwargs):
        self.epoll = self.to_loop = self.to_python = -1
        self.to_loop = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.to_python = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __init__(self, int listener, new_session, uint32_t max_connections, double idle_timeout=0.0, *, admit=None):
        if self.table != NULL:
            raise TypeError("a loop is made once")
        self.listener = listener
        self.new_session = new_session
        self.max_connections = min(max_connections, <uint32_t> MOST)
        self.places = 2 * self.max_connections + 2
        self.idle_timeout = idle_timeout
        self.admit = admit
        self.gated = admit is not None
        self.sessions = []
        self.waiting = {}
        self.changed = []
        self.table = <connection_t*> calloc(self.places, sizeof(connection_t))
        self.vacant = <uint32_t*> calloc(self.places, sizeof(uint32_t))
        self.spare = <void**> calloc(self.places, sizeof(void*))
        if self.table == NULL or self.vacant == NULL or self.spare == NULL:
            raise MemoryError()
        self.made = Errands(SPARE)
        # Of a place a request, its cancellation, and one for the next connection, which may come before the cancellation is read.
        self.asked = Errands(3 * self.places)
        self.done = Errands(self.places)
        self.notes = Notes()
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0 or self.watch(self.to_loop, BELL, EPOLLIN):
            raise OSError(errno, os.strerror(errno))
        self.make_sessions()
        self.sweeps = idle_timeout > 0 or (<Session> self.sessions[0]).framer.patience > 0
        self.whole = True

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
        return bool(look(&self.ended))

    def run(self):
        """Serve until :meth:`stop` is called; for a thread of its own."""
        self.initialised()
        with nogil:
            self.serve()
            show(&self.ended, True)
            ring(self.to_python)

    def stop(self):
        """Close all connections and end the loop; does not wait for that."""
        show(&self.stopping, True)
        ring(self.to_loop)

    def attend(self):
        """Do what the loop wants of Python, as far as it is asked by now.

        Returns the sessions that have begun to wait for a user's code, or need not wait any more, as ``session.waiting`` tells. For the
        former :meth:`resume` wants to be called by ``session.wake``, and :meth:`give_up` at ``session.deadline()``. When the loop has ended
        observers are told of the last writes, and nothing else is done.
        """
        cdef errand_t errand
        cdef unsigned int _
        self.initialised()
        hush(self.to_python)
        try:
            self.notes.tell(self.sessions[0])
            # What is asked later rings again: the reactor has its turn in between.
            for _ in range(self.asked.count()):
                # A user's code may have had the rest done, as one does that stops the server.
                if not self.asked.get(&errand):
                    break
                # What comes before it in order is told, whatever that raises.
                try:
                    self.notes.tell(<Session> errand.session)
                finally:
                    self.run_errand(errand)
            if look(&self.wants_sessions) and not look(&self.stopping):
                self.make_sessions()
        except BaseException:
            # What is left is done the next time.
            ring(self.to_python)
            raise
        changed, self.changed = self.changed, []
        return changed

    def resume(self, Session session not None):
        """A user's code has answered; whether the session waits for another answer."""
        cdef errand_t errand
        self.initialised()
        if session not in self.waiting or look(&self.ended):
            return False
        memset(&errand, 0, sizeof(errand))
        errand.index = self.waiting.pop(session)
        errand.asked = errand.need = PYTHON
        errand.session = <void*> session
        try:
            self.notes.tell(session)
        finally:
            waits = self.answer(errand)
        return waits

    def give_up(self, Session session not None):
        """A user's code has not answered in time; whether the session waits for another answer."""
        self.initialised()
        if session in self.waiting and session.awaited is not None:
            try:
                session.give_up()
            finally:
                self.resume(session)
        return session in self.waiting

    cdef int initialised(self) except -1:
        if not self.whole:
            raise TypeError("this loop was made without __init__")
        return 0

    cdef int run_errand(self, errand_t errand) except -1:
        cdef Session session = <Session> errand.session
        if errand.need == CANCEL:
            if session in self.waiting:
                errand.index = self.waiting.pop(session)
                self.changed.append(session)
                try:
                    session.reset()
                finally:
                    self.hand_back(errand)
        elif look(&self.ended):
            if errand.need == OBSERVE:
                session.attend(OBSERVE)
        elif errand.need == ADMIT:
            errand.need = CLOSE
            try:
                if self.admit(errand.fd):
                    errand.need = ADMIT
            finally:
                self.hand_back(errand)
        elif self.answer(errand):
            self.changed.append(session)
        return 0

    cdef bint answer(self, errand_t errand) except -1:
        """Let a session do what it has stopped for; whether a user's code answers later."""
        cdef Session session = <Session> errand.session
        session.now = monotonic()
        try:
            if session.attend(errand.need) == WAIT:
                self.waiting[session] = errand.index
                return True
        except BaseException:
            # A user's code wants to end the program: its connection ends.
            errand.need = CLOSE
            try:
                session.reset()
            finally:
                self.hand_back(errand)
            raise
        self.hand_back(errand)
        return False

    cdef void hand_back(self, errand_t errand) noexcept:
        self.done.put(errand)
        ring(self.to_loop)

    cdef int make_sessions(self) except -1:
        cdef errand_t errand
        memset(&errand, 0, sizeof(errand))
        # First: the loop may take them all, and want more, before this is done.
        show(&self.wants_sessions, False)
        while self.made.count() < SPARE and <uint32_t> len(self.sessions) < self.places:
            session = self.new_session()
            (<Session?> session).initialised()
            self.sessions.append(session)
            errand.session = <void*> session
            self.made.put(errand)
        ring(self.to_loop)
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
        self.accept_on()
        while not look(&self.stopping):
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
            if not self.accepting and now >= self.accept_again:
                self.accept_on()
            # Not before all has been read that came before `now`.
            if self.sweeps and now >= sweep_at and count < EVENTS:
                self.sweep(now)
                sweep_at = now + SWEEP
        self.close_all()

    cdef int pause(self) noexcept nogil:
        # Milliseconds until something has to be done; -1: nothing.
        if self.sweeps and self.count or not self.accepting:
            return <int> (1000 * SWEEP)
        return -1

    cdef void accept_on(self) noexcept nogil:
        if self.spare_count or self.made.count():
            self.accepting = self.watch(self.listener, LISTENER, EPOLLIN) == 0
        else:
            self.want_sessions()

    cdef void want_sessions(self) noexcept nogil:
        if not look(&self.wants_sessions):
            show(&self.wants_sessions, True)
            ring(self.to_python)

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
                self.want_sessions()
                return
            fd = accept4(self.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                self.enter(fd, session)
                continue
            self.spare[self.spare_count] = session
            self.spare_count += 1
            if errno == EAGAIN:
                break
            if errno != ECONNABORTED and errno != EINTR:
                # Descriptors have run out, for example: the kernel would say so again and again.
                self.rest_accepting(now + REST)
                break
        if self.made.count() < SPARE // 2 and not self.spare_count:
            self.want_sessions()

    cdef void rest_accepting(self, double again) noexcept nogil:
        if self.accepting:
            epoll_ctl(self.epoll, EPOLL_CTL_DEL, self.listener, NULL)
        self.accepting = False
        self.accept_again = again

    cdef void enter(self, int fd, void* session) noexcept nogil:
        """Enter a new connection into the table."""
        cdef uint32_t index
        cdef connection_t* connection
        cdef int on = 1
        # Whoever has a session has a place.
        if self.vacant_count:
            self.vacant_count -= 1
            index = self.vacant[self.vacant_count]
        else:
            index = self.used
            self.used += 1
        connection = &self.table[index]
        memset(connection, 0, sizeof(connection_t))
        connection.fd = fd
        connection.session = session
        connection.state = PENDING
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on))
        if self.gated and has_table_of_hosts():
            self.ask(index, ADMIT)
        else:
            self.let_in(index)

    cdef void let_in(self, uint32_t index) noexcept nogil:
        """A connection is served from now on."""
        cdef connection_t* connection = &self.table[index]
        if self.count >= self.max_connections:
            self.evict()
        connection.state = OPEN
        # Of a burst, too, the first one is the oldest.
        connection.last_heard = monotonic()
        self.count += 1
        self.accepted += 1
        # What has come already is told.
        if self.watch(connection.fd, index, CONNECTION_EVENTS):
            self.drop(index)

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
            ring(self.to_python)

    cdef void drop(self, uint32_t index) noexcept nogil:
        """Close a connection; its place is free when Python has no part in it."""
        cdef connection_t* connection = &self.table[index]
        if connection.state == FREE or connection.state == GONE:
            return
        close(connection.fd)
        if connection.state != PENDING:
            self.count -= 1
        if connection.state == OPEN:
            self.release(index)
        elif connection.state == ASKING:
            connection.state = GONE
            self.tell(index, CANCEL)
        else:
            connection.state = GONE

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
        if need != ADMIT:
            self.table[index].state = ASKING
        if need == OBSERVE:
            self.behind += 1
        self.tell(index, need)

    cdef void tell(self, uint32_t index, int need) noexcept nogil:
        cdef errand_t errand
        errand.index = index
        errand.asked = errand.need = need
        errand.session = self.table[index].session
        errand.fd = self.table[index].fd
        self.asked.put(errand)
        ring(self.to_python)

    cdef void look_at(self, uint32_t index, uint32_t events, double now) noexcept nogil:
        # Each is told once, and perhaps of a connection that has gone and left its place to another since: nothing here takes an event's
        # word for what the next system call tells.
        cdef connection_t* connection = &self.table[index]
        connection.ready = True
        if events & EPOLLRDHUP:
            connection.hung_up = True
        if connection.state != OPEN:
            return
        if connection.blocked and not self.flush(index):
            return
        if not connection.blocked:
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
            if count < 0 and errno == EAGAIN:
                return
            if count < 0 and errno == EINTR:
                continue
            if count <= 0:
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
                if self.watch(connection.fd, index, CONNECTION_EVENTS, EPOLL_CTL_MOD):
                    self.drop(index)
                return

    cdef bint go_on(self, uint32_t index, int fed) noexcept nogil:
        """Let the session look at all its bytes and send its replies; False where the connection can't be read now."""
        cdef connection_t* connection = &self.table[index]
        while fed != FED:
            if fed == OBSERVE and not self.behind and self.notes.write(<Session> connection.session):
                ring(self.to_python)
            else:
                # Who has asked before need not wait.
                if self.flush(index):
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
        """Go on with connections that Python is done with."""
        cdef errand_t errand
        cdef connection_t* connection
        while self.done.get(&errand):
            connection = &self.table[errand.index]
            if errand.asked == OBSERVE:
                self.behind -= 1
            if connection.state == GONE:
                self.release(errand.index)
            elif errand.need == ADMIT:
                self.let_in(errand.index)
            elif errand.need == CLOSE:
                close(connection.fd)
                if connection.state == ASKING:
                    self.count -= 1
                self.release(errand.index)
            else:
                connection.state = OPEN
                connection.last_heard = now
                if self.go_on(errand.index, (<Session> connection.session).feed()) and connection.ready:
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
