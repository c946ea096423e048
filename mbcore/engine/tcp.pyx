"""The TCP loop: one listening socket and all its connections, in a thread of its own, without the GIL.

The socket is opened and configured elsewhere. The loop accepts, reads, lets each connection's session answer, and sends, whatever Python
does meanwhile. What needs Python waits for :meth:`TcpLoop.attend`, which the reactor's thread calls when :meth:`TcpLoop.fileno` becomes
readable: a connection whose request a user's code answers stands still, and only that one; observers hear of writes in order; sessions are
made ahead. A connection is a session, a socket and an entry in a table; what it reads and sends with is lent to it while it does.
"""

import os

from libc.errno cimport (
    EAGAIN, ECONNABORTED, EHOSTDOWN, EHOSTUNREACH, EINTR, ENETDOWN, ENETUNREACH, ENOPROTOOPT, EOPNOTSUPP, EPERM, EPROTO, errno,
)
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memset

from posix.unistd cimport close

from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock, PyThread_release_lock, PyThread_type_lock, WAIT_LOCK,
)

from mbcore.engine.address cimport copy_host, getpeername, host_text, lets_in_peer, peer_text, sockaddr, sockaddr_storage, socklen_t
from mbcore.engine.bell cimport hear, ring
from mbcore.engine.clock cimport monotonic
from mbcore.engine.loop cimport ADMIT, CANCEL, CLOSE, LOOK, NetworkLoop, errand_t
from mbcore.engine.polling cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, POLLERR,
    POLLHUP, epoll_create1, epoll_ctl, epoll_event, epoll_wait, milliseconds_of, poll, pollfd,
)
from mbcore.lock cimport lock_image, unlock_image
from mbcore.session cimport FED, OBSERVE, Session, buffers_t
from mbcore.shared cimport look, look_last, show, swap

cdef extern from "<errno.h>" nogil:
    const int ENONET

cdef extern from "<sys/socket.h>" nogil:
    const int SOL_SOCKET
    const int SO_KEEPALIVE
    const int SOCK_NONBLOCK
    const int SOCK_CLOEXEC
    const int MSG_NOSIGNAL
    const int MSG_DONTWAIT
    int accept4(int fd, sockaddr* address, socklen_t* length, int flags)
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
    # more connections than a process may have
    MOST = 1 << 20
    # errors of single connections that accepting goes on after
    MOST_FAILURES = 16
    # bytes read from one connection before the others have their turn
    TURN = 4096

# Each change is told once: a connection that stands still makes no noise.
cdef uint32_t CONNECTION_EVENTS = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET

# How often partial frames and idle connections are looked for, and how long accepting rests when descriptors have run out, seconds.
cdef double SWEEP = 0.1
# How late a sweep may be where every look finds more to read, seconds.
cdef double OVERDUE = 1.0
cdef double REST = 0.5
# How long a client has for taking the last replies when its connection is closed, and when the loop ends, seconds.
cdef double CLOSE_WAIT = 0.5
cdef double STOP_WAIT = 0.05

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
    # the client sends no more: behind what is there comes the end
    bint hung_up
    # close once the replies are out, or when it is `closes_at`
    bint closing
    # `empty` waits for that
    bint leaving
    double closes_at
    double last_heard
    # its address
    uint8_t[16] host

cdef class TcpLoop(NetworkLoop):
    """Serves a listening socket's connections.

    :param listener: the descriptor of a socket that listens and does not block; it stays the caller's to close
    :param new_session: called without arguments in the thread that calls :meth:`attend`; returns a session for a connection to come
    :param max_connections: connections held at most; a further one takes the place of the one that was unused for longest
    :param idle_timeout: seconds after which a connection that says nothing is closed; 0: never
    :param per_host: as ``max_connections``, of those of one host; 0: no limit
    :param admit: called as ``new_session`` is, with the address of a new connection's peer, where a table of hosts does not have it:
        whether it is let in
    :param told: called with True for each connection made and with False for each one lost, in order, as long as :meth:`trace` says so
    """

    cdef int listener
    # whether time ends anything: partial frames, idle connections
    cdef bint sweeps
    cdef uint32_t max_connections
    cdef double idle_timeout
    cdef int epoll
    cdef bint accepting
    cdef double accept_again

    cdef connection_t* table
    # Of both threads, for each place: bytes may have come that were not read.
    cdef unsigned int* ready
    # held while Python sends for a connection that it has, or is asked for that one's peer, and while such a one is closed
    cdef PyThread_type_lock sending
    # indices of the table that were never used, and of those that were, which are free
    cdef uint32_t used
    cdef uint32_t* vacant
    cdef uint32_t vacant_count
    # what a connection has while it reads and sends
    cdef buffers_t buffers
    # time ends something until then
    cdef double sweeps_until
    cdef uint32_t per_host
    #: Open connections, all that there were, and those of them that were closed to make room; how often all that were to go had gone.
    cdef readonly unsigned int count
    cdef readonly unsigned int accepted
    cdef readonly unsigned int evicted
    cdef readonly unsigned int emptied
    #: How often connections could not be accepted, and the last error number.
    cdef readonly unsigned int refused
    cdef readonly int refusal

    # connections made (1) and lost (0) that Python is to be told of, a ring
    cdef object told
    cdef uint8_t* turns
    cdef uint32_t turns_mask
    # Of both threads.
    cdef unsigned int turns_put
    cdef unsigned int turns_got
    cdef unsigned int traces
    cdef unsigned int emptying
    # connections that are to go and have replies to be taken
    cdef unsigned int leaving
    # nothing is read any more
    cdef bint ending
    #: Streams that have lost their frames and were closed for that, and the peer of the last one.
    cdef readonly unsigned int broken
    cdef sockaddr_storage last_broken

    def __cinit__(self, *args, **kwargs):
        self.epoll = -1
        self.sending = PyThread_allocate_lock()
        if self.sending == NULL:
            raise MemoryError()

    def __init__(
        self, int listener, new_session, uint32_t max_connections, double idle_timeout=0.0, *, uint32_t per_host=0, admit=None, told=None,
    ):
        cdef uint32_t turns = 64
        if self.table != NULL:
            raise TypeError("a loop is made once")
        self.listener = listener
        self.max_connections = min(max_connections, <uint32_t> MOST)
        self.per_host = per_host
        self.idle_timeout = idle_timeout
        self.told = told
        # As many as connections, and again for those that have gone while Python has their sessions.
        self.places = 2 * self.max_connections + 2
        while turns < 4 * self.places:
            turns *= 2
        self.turns_mask = turns - 1
        self.turns = <uint8_t*> calloc(turns, 1)
        self.table = <connection_t*> calloc(self.places, sizeof(connection_t))
        self.ready = <unsigned int*> calloc(self.places, sizeof(unsigned int))
        self.vacant = <uint32_t*> calloc(self.places, sizeof(uint32_t))
        if self.table == NULL or self.ready == NULL or self.vacant == NULL or self.turns == NULL:
            raise MemoryError()
        self.take_over()
        self.set_up(new_session, admit)
        self.whole = True

    cdef void close_descriptors(self) noexcept:
        NetworkLoop.close_descriptors(self)
        if self.epoll >= 0:
            close(self.epoll)
        self.epoll = -1

    def __dealloc__(self):
        # The base class' own comes after this one.
        self.close_descriptors()
        if self.sending != NULL:
            PyThread_free_lock(self.sending)
        free(self.table)
        free(self.ready)
        free(self.vacant)
        free(self.turns)
        free(self.buffers.buffer)
        free(self.buffers.out)

    # ---- from the thread that attends -------------------------------------------------------------------------------------------------

    def trace(self, bint on):
        """Whether ``told`` is called from now on."""
        self.initialised()
        show(&self.traces, on)

    def disconnect(self):
        """Close all connections there are, once their replies are out; :meth:`attend` wants to be called when the last is gone."""
        self.initialised()
        show(&self.emptying, True)
        ring(&self.to_loop)

    @property
    def broken_peer(self):
        """The host and port of the peer whose stream has lost its frames last; None where it had gone."""
        return peer_text(&self.last_broken)

    cdef int tell_all(self) except -1:
        cdef unsigned int last = look(&self.turns_put)
        cdef bint made
        # A hook may have the rest told, as one does that stops the server.
        while <int> (last - self.turns_got) > 0:
            made = self.turns[self.turns_got & self.turns_mask]
            show(&self.turns_got, self.turns_got + 1)
            self.told(made)
        return NetworkLoop.tell_all(self)

    cdef object host_of(self, uint32_t index):
        cdef sockaddr_storage address
        cdef socklen_t length = sizeof(address)
        cdef bint known
        # In a fork, which a user's code has made, the descriptor is closed, and the parent's loop may have had the lock.
        if self.left:
            return None
        PyThread_acquire_lock(self.sending, WAIT_LOCK)
        known = self.table[index].state != GONE and not getpeername(self.table[index].fd, <sockaddr*> &address, &length)
        PyThread_release_lock(self.sending)
        return host_text(&address) if known else None

    cdef bint deliver(self, uint32_t index) noexcept:
        cdef connection_t* connection = &self.table[index]
        cdef bint delivered = False
        # In a fork, which a user's code has made, its descriptor is closed.
        if self.left:
            return False
        # With the GIL: giving it away and getting it back takes longer, and this does not wait.
        PyThread_acquire_lock(self.sending, WAIT_LOCK)
        if connection.state == ASKING and not connection.blocked:
            # Where it fails the loop finds out why.
            delivered = send_replies(connection) and not (<Session> connection.session).closing
        PyThread_release_lock(self.sending)
        return delivered

    cdef bint has_said_more(self, uint32_t index) noexcept:
        return look_last(&self.ready[index])

    cdef int take_over(self) except -1:
        if self.epoll >= 0:
            close(self.epoll)
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0 or self.watch(self.to_loop.fd, BELL, EPOLLIN | EPOLLET):
            raise OSError(errno, os.strerror(errno))
        return 0

    cdef void leave(self) noexcept:
        # As long as they are open here, a client would not hear of their end.
        cdef uint32_t index
        NetworkLoop.leave(self)
        for index in range(self.used):
            if self.table[index].state not in (FREE, GONE):
                close(self.table[index].fd)
        self.count = 0

    cdef int watch(self, int fd, uint32_t index, uint32_t events, int operation=EPOLL_CTL_ADD) noexcept nogil:
        cdef epoll_event event
        memset(&event, 0, sizeof(event))
        event.events = events
        event.data.u32 = index
        return epoll_ctl(self.epoll, operation, fd, &event)

    # ---- in the loop's thread, without the GIL ----------------------------------------------------------------------------------------

    cdef void serve(self) noexcept nogil:
        cdef epoll_event[EVENTS] events
        cdef int count
        cdef double now = monotonic(), sweep_at = 0
        self.accept_on(now)
        while not look(&self.stopping):
            count = epoll_wait(self.epoll, events, EVENTS, self.pause(now))
            now = monotonic()
            self.attend_to(events, count, now)
            if not self.accepting and now >= self.accept_again:
                self.accept_on(now)
            if look(&self.emptying):
                self.empty(now)
            # Not before all has been read that came before `now`, unless there is no end of it.
            if now >= sweep_at and (count < EVENTS or now >= sweep_at + OVERDUE) and (self.sweeps or now < self.sweeps_until):
                self.sweep(now)
                sweep_at = now + SWEEP
        self.wind_up(events)

    cdef void attend_to(self, const epoll_event* events, int count, double now) noexcept nogil:
        cdef int i
        self.take_back(now)
        for i in range(count):
            if look(&self.stopping) and not self.ending:
                return
            if events[i].data.u32 == LISTENER:
                self.accept_some(now)
            elif events[i].data.u32 == BELL:
                hear(&self.to_loop)
            else:
                self.look_at(events[i].data.u32, events[i].events, now)
        # Last: nobody rings for a connection that had nothing to read when Python was done with it.
        self.take_back(now)

    cdef int pause(self, double now) noexcept nogil:
        # Milliseconds until something has to be done; -1: nothing.
        if look(&self.several):
            return LOOK
        if self.sweeps and self.count or not self.accepting or now < self.sweeps_until:
            return <int> (1000 * SWEEP)
        return -1

    cdef void wind_up(self, epoll_event* events) noexcept nogil:
        """Send what is ready, for as long as an end may take, and close all connections."""
        cdef double now = monotonic(), limit = now + STOP_WAIT
        cdef uint32_t index
        self.ending = True
        self.rest_accepting(limit)
        self.take_back(now)
        # What the last wait has told of room may not have been looked at.
        for index in range(self.used):
            if self.table[index].state == OPEN and self.table[index].blocked:
                self.flush(index, now)
        while now < limit and self.any_blocked():
            self.attend_to(events, epoll_wait(self.epoll, events, EVENTS, milliseconds_of(limit - now)), now)
            now = monotonic()
        self.close_all()

    cdef bint any_blocked(self) noexcept nogil:
        cdef uint32_t index
        for index in range(self.used):
            if self.table[index].state == OPEN and self.table[index].blocked:
                return True
        return False

    cdef void empty(self, double now) noexcept nogil:
        """Close all connections, once their replies are out."""
        cdef uint32_t index
        for index in range(self.used):
            if self.table[index].state != OPEN:
                self.drop(index)
                continue
            self.table[index].closing = True
            if self.flush(index, now) and not self.table[index].leaving:
                self.table[index].leaving = True
                self.leaving += 1
        show(&self.emptying, False)
        if not self.leaving:
            self.note_empty()

    cdef void accept_on(self, double now) noexcept nogil:
        cdef void* session = NULL if self.full() else self.take_session()
        if session == NULL:
            return
        self.spare[self.spare_count] = session
        self.spare_count += 1
        if self.watch(self.listener, LISTENER, EPOLLIN):
            self.note_refusal(now)
        else:
            self.accepting = True

    cdef void accept_some(self, double now) noexcept nogil:
        """Take the connections that wait."""
        cdef sockaddr_storage address
        cdef socklen_t length
        cdef void* session
        cdef uint32_t index
        cdef int fd, _, failures = 0
        # As many as a burst has; the others have their turn in between.
        for _ in range(64):
            if self.full():
                # Python is far behind in hearing of connections; until then the kernel keeps them waiting.
                self.rest_accepting(0)
                return
            session = self.take_session()
            if session == NULL:
                self.rest_accepting(0)
                return
            length = sizeof(address)
            # A fork takes this lock first: its child finds every connection in the table, and closes it.
            lock_image()
            fd = accept4(self.listener, <sockaddr*> &address, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                index = self.enter(fd, session, &address)
                unlock_image()
                self.greet(index, &address)
                continue
            unlock_image()
            self.spare[self.spare_count] = session
            self.spare_count += 1
            if errno == EAGAIN:
                break
            failures += 1
            if not is_of_one_connection(errno) or failures == MOST_FAILURES:
                # Descriptors have run out, for example: the kernel would say so again and again.
                self.note_refusal(now)
                break

    cdef bint full(self) noexcept nogil:
        # Whoever is let in is told of twice.
        cdef uint32_t told_of = self.used - self.vacant_count
        return look(&self.traces) and self.turns_put - look(&self.turns_got) + 2 * (told_of + 1) > self.turns_mask

    cdef void note_refusal(self, double now) noexcept nogil:
        self.refusal = errno
        self.refused += 1
        self.rest_accepting(now + REST)
        self.report()

    cdef void rest_accepting(self, double again) noexcept nogil:
        if self.accepting:
            epoll_ctl(self.epoll, EPOLL_CTL_DEL, self.listener, NULL)
        self.accepting = False
        self.accept_again = again

    cdef uint32_t enter(self, int fd, void* session, const sockaddr_storage* address) noexcept nogil:
        """Enter a new connection into the table; its index."""
        cdef uint32_t index
        cdef connection_t* connection
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
        show(&self.ready[index], False)
        copy_host(connection.host, address)
        return index

    cdef void greet(self, uint32_t index, const sockaddr_storage* address) noexcept nogil:
        """Let a new connection in, or have Python say whether it is."""
        cdef connection_t* connection = &self.table[index]
        cdef int on = 1
        setsockopt(connection.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
        setsockopt(connection.fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on))
        if not self.gated or lets_in_peer(address):
            self.let_in(index)
        elif self.takes_stranger(self.places - self.used + self.vacant_count):
            self.strangers += 1
            self.tell(index, ADMIT, connection.session)
        else:
            self.hang_up(index)
            self.release(index)

    cdef void let_in(self, uint32_t index) noexcept nogil:
        """A connection is served from now on."""
        cdef connection_t* connection = &self.table[index]
        if self.per_host:
            self.evict(connection.host, self.per_host)
        self.evict(NULL, self.max_connections)
        connection.state = OPEN
        # Of a burst, too, the first one is the oldest.
        connection.last_heard = monotonic()
        self.sweeps = self.sweeps or self.idle_timeout > 0 or (<Session> connection.session).framer.patience > 0
        self.count += 1
        self.accepted += 1
        self.turn(True)
        # What has come already is told.
        if self.watch(connection.fd, index, CONNECTION_EVENTS):
            self.drop(index)

    cdef void evict(self, const uint8_t* host, uint32_t most) noexcept nogil:
        """Make room for one more among `most` connections, those of `host` or all."""
        # "the oldest unused connection is closed" (Messaging on TCP/IP Implementation Guide V1.0b, connection management)
        cdef uint32_t index, oldest = LISTENER, found = 0
        cdef connection_t* connection
        if self.count < most:
            return
        for index in range(self.used):
            connection = &self.table[index]
            if connection.state != OPEN and connection.state != ASKING:
                continue
            if host != NULL and memcmp(host, connection.host, sizeof(connection.host)):
                continue
            found += 1
            if oldest == LISTENER or connection.last_heard < self.table[oldest].last_heard:
                oldest = index
        if oldest != LISTENER and found >= most:
            self.evicted += 1
            self.drop(oldest)
            self.report()

    cdef void turn(self, bint made) noexcept nogil:
        """Have Python told of a connection that was made or lost."""
        if look(&self.traces):
            self.turns[self.turns_put & self.turns_mask] = made
            show(&self.turns_put, self.turns_put + 1)
            ring(&self.to_python)

    cdef void drop(self, uint32_t index) noexcept nogil:
        """Close a connection; its place is free when Python has no part in it."""
        cdef state_t state = self.table[index].state
        if state == FREE or state == GONE:
            return
        self.hang_up(index)
        if state == OPEN:
            self.release(index)
        elif state == ASKING:
            self.tell(index, CANCEL, self.table[index].session)

    cdef void hang_up(self, uint32_t index) noexcept nogil:
        cdef connection_t* connection = &self.table[index]
        # Python may be about to send for it.
        cdef bint lent = connection.state != OPEN
        if connection.state != PENDING:
            self.count -= 1
            self.turn(False)
        if connection.leaving:
            self.leaving -= 1
            if not self.leaving:
                self.note_empty()
        if lent:
            PyThread_acquire_lock(self.sending, WAIT_LOCK)
        # A fork must neither find a descriptor here that is another one's already, nor miss one that is open.
        lock_image()
        connection.state = GONE
        close(connection.fd)
        unlock_image()
        if lent:
            PyThread_release_lock(self.sending)

    cdef void note_empty(self) noexcept nogil:
        """All have gone that were to go, whoever has come since: have those told who wait for that."""
        self.emptied += 1
        self.report()

    cdef void release(self, uint32_t index) noexcept nogil:
        """The place and the session of a connection that has gone are free."""
        cdef connection_t* connection = &self.table[index]
        connection.state = FREE
        self.give_back(connection.session)
        (<Session> connection.session).give_buffers(&self.buffers)
        self.vacant[self.vacant_count] = index
        self.vacant_count += 1

    cdef void ask(self, uint32_t index, int need) noexcept nogil:
        """Have Python do something for a connection, which stands still until then."""
        self.table[index].state = ASKING
        self.tell(index, need, self.table[index].session)

    cdef void look_at(self, uint32_t index, uint32_t events, double now) noexcept nogil:
        # Each is told once, and perhaps of a connection that has gone and left its place to another since: nothing here takes an event's
        # word for what the next system call tells.
        cdef connection_t* connection = &self.table[index]
        if events & EPOLLRDHUP:
            connection.hung_up = True
        if connection.state != OPEN:
            if events & (EPOLLERR | EPOLLHUP) and is_dead(connection.fd):
                # Nobody waits for the answer any more.
                self.drop(index)
            else:
                swap(&self.ready[index], True)
            return
        if connection.blocked and not self.flush(index, now):
            return
        if not connection.blocked and not connection.closing:
            self.read_from(index, now)
        self.take_buffers(index)

    cdef void take_buffers(self, uint32_t index) noexcept nogil:
        """Have another connection use what this one needs no more."""
        if self.table[index].state == OPEN:
            (<Session> self.table[index].session).give_buffers(&self.buffers)

    cdef void read_from(self, uint32_t index, double now) noexcept nogil:
        """Read what is there and answer it."""
        cdef connection_t* connection = &self.table[index]
        cdef uint8_t* place
        cdef int available = 0, turn = 0
        cdef bint more
        cdef ssize_t count
        if self.ending:
            return
        (<Session> connection.session).lend_buffers(&self.buffers)
        while True:
            place = (<Session> connection.session).room(&available)
            if place == NULL:
                self.drop(index)
                return
            count = recv(connection.fd, place, available, MSG_DONTWAIT)
            if count < 0 and errno == EAGAIN:
                # It was another one's end that was told here.
                connection.hung_up = False
                return
            if count < 0 and errno == EINTR:
                continue
            if count <= 0:
                self.drop(index)
                return
            connection.last_heard = now
            # Else it was all that was there, and what comes later is told.
            more = count == available or connection.hung_up
            show(&self.ready[index], more)
            if not self.go_on(index, (<Session> connection.session).take(<int> count, now), now) or not more:
                return
            turn += <int> count
            if look(&self.stopping):
                return
            if turn >= TURN:
                # The others have their turn, then this one is told of again.
                if self.watch(connection.fd, index, CONNECTION_EVENTS, EPOLL_CTL_MOD):
                    self.drop(index)
                return

    cdef bint go_on(self, uint32_t index, int fed, double now) noexcept nogil:
        """Let the session look at all its bytes and send its replies; False where the connection can't be read now."""
        cdef connection_t* connection = &self.table[index]
        cdef socklen_t length
        while fed != FED:
            if fed == OBSERVE:
                self.call_observers(<Session> connection.session)
            else:
                # Who has asked before need not wait.
                if self.flush(index, now):
                    self.ask(index, fed)
                return False
            fed = (<Session> connection.session).feed()
        (<Session> connection.session).keep()
        if (<Session> connection.session).closing and not connection.closing:
            connection.closing = True
            self.broken += 1
            length = sizeof(self.last_broken)
            if getpeername(connection.fd, <sockaddr*> &self.last_broken, &length):
                self.last_broken.ss_family = 0
            self.report()
        return self.flush(index, now) and not connection.blocked

    cdef bint flush(self, uint32_t index, double now) noexcept nogil:
        """Send replies; False where the connection has gone."""
        cdef connection_t* connection = &self.table[index]
        cdef size_t sent = connection.sent
        if not send_replies(connection):
            if errno != EAGAIN:
                self.drop(index)
                return False
            if connection.sent > sent:
                # Who takes replies is there.
                connection.last_heard = now
            connection.blocked = True
            if connection.closing and not connection.closes_at:
                connection.closes_at = now + CLOSE_WAIT
                self.sweeps_until = connection.closes_at + 2 * SWEEP
            return True
        if connection.blocked:
            connection.last_heard = now
            connection.blocked = False
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
            self.strangers -= errand.asked == ADMIT
            if connection.state != GONE and errand.need == CLOSE:
                self.hang_up(errand.index)
            if connection.state == GONE:
                self.release(errand.index)
            elif errand.need == ADMIT:
                self.let_in(errand.index)
            else:
                connection.state = OPEN
                # It was answered then; perhaps nobody has called.
                connection.last_heard = (<Session> connection.session).now
                if self.go_on(errand.index, (<Session> connection.session).feed(), now) and look(&self.ready[errand.index]):
                    self.read_from(errand.index, now)
                self.take_buffers(errand.index)

    cdef void sweep(self, double now) noexcept nogil:
        """Give up partial frames, idle connections, and those that are to be closed and do not read."""
        cdef uint32_t index
        cdef connection_t* connection
        for index in range(self.used):
            connection = &self.table[index]
            if connection.state != OPEN:
                continue
            if self.idle_timeout and now >= connection.last_heard + self.idle_timeout:
                self.drop(index)
            elif connection.closes_at and now >= connection.closes_at:
                self.drop(index)
            elif not connection.blocked and (<Session> connection.session).held:
                (<Session> connection.session).lend_buffers(&self.buffers)
                self.go_on(index, (<Session> connection.session).end_partial(now), now)
                self.take_buffers(index)

    cdef void close_all(self) noexcept nogil:
        cdef uint32_t index
        for index in range(self.used):
            self.drop(index)


cdef bint is_of_one_connection(int error) noexcept nogil:
    """Whether what `accept4` has failed with may concern one connection alone; accept(2) names most of these."""
    return error in (
        EINTR, ECONNABORTED, EPERM, EPROTO, ENOPROTOOPT, EHOSTDOWN, ENONET, EHOSTUNREACH, EOPNOTSUPP, ENETDOWN, ENETUNREACH
    )


cdef bint is_dead(int fd) noexcept nogil:
    """Whether both directions of a connection have ended: epoll may have told that of the one that had its place before."""
    cdef pollfd polled
    polled.fd, polled.events, polled.revents = fd, 0, 0
    return poll(&polled, 1, 0) == 1 and polled.revents & (POLLERR | POLLHUP)


cdef bint send_replies(connection_t* connection) noexcept nogil:
    """Send what its session has to say, by the thread that has the session; False, with `errno`, where the socket takes no more."""
    cdef const uint8_t* out = (<Session> connection.session).out
    cdef size_t length = (<Session> connection.session).out_length
    cdef ssize_t count
    while connection.sent < length:
        count = send(connection.fd, out + connection.sent, length - connection.sent, MSG_NOSIGNAL | MSG_DONTWAIT)
        if count >= 0:
            connection.sent += count
        elif errno != EINTR:
            return False
    connection.sent = 0
    (<Session> connection.session).forget_replies()
    return True
