"""The UDP loop: one socket, in a thread of its own, without the GIL. Each datagram carries one frame, each reply goes to its sender.

The socket is opened elsewhere. What needs Python waits for :meth:`UdpLoop.attend`, which the reactor's thread calls when
:meth:`UdpLoop.fileno` becomes readable; the datagrams behind it are answered meanwhile.
"""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free

from mbcore.engine.address cimport host_text, lets_in_peer, peer_text, sockaddr, sockaddr_storage, socklen_t
from mbcore.engine.bell cimport hush
from mbcore.engine.clock cimport monotonic
from mbcore.engine.loop cimport ADMIT, CANCEL, CLOSE, LOOK, NetworkLoop, errand_t
from mbcore.engine.polling cimport POLLIN, poll, pollfd
from mbcore.session cimport FED, OBSERVE, Session
from mbcore.shared cimport look

cdef extern from "<sys/socket.h>" nogil:
    const int MSG_DONTWAIT
    const int MSG_TRUNC
    ssize_t recvfrom(int fd, void* buffer, size_t length, int flags, sockaddr* address, socklen_t* address_length)
    ssize_t sendto(int fd, const void* buffer, size_t length, int flags, const sockaddr* address, socklen_t address_length)

cdef enum:
    # datagrams looked at before what Python is done with has its turn
    BURST = 64
    # sessions beside those that wait for Python
    OTHERS = 16
    # milliseconds until a session is asked for once more
    RETRY = 100

# A request that Python has.
ctypedef struct peer_t:
    # its Session; NULL: the place is free
    void* session
    # of a datagram that waits for its host to be let in
    int length
    sockaddr_storage address
    socklen_t address_length


cdef class UdpLoop(NetworkLoop):
    """Answers the datagrams of one socket.

    :param fd: the descriptor of a bound socket; it stays the caller's to close
    :param new_session: called without arguments in the thread that calls :meth:`attend`; returns a session for a request to come
    :param max_waiting: requests that may wait for Python at most, and half as many that wait to be let in; further ones are dropped
    :param admit: called as ``new_session`` is, with the sender's address, where a table of hosts does not have it: whether it is let in
    """

    cdef int fd
    cdef peer_t* table
    # indices of the table that were never used, and of those that were, which are free
    cdef uint32_t used
    cdef uint32_t* vacant
    cdef uint32_t vacant_count
    cdef uint32_t max_waiting
    # of the next datagram; NULL: Python has to make more first
    cdef void* session
    #: Requests that were dropped because too many waited; replies that could not be sent, and the last error number.
    cdef readonly unsigned int dropped
    cdef readonly unsigned int undelivered
    cdef readonly int refusal
    cdef sockaddr_storage last_undelivered

    def __init__(self, int fd, new_session, uint32_t max_waiting, *, admit=None):
        if self.table != NULL:
            raise TypeError("a loop is made once")
        self.fd = fd
        self.max_waiting = max_waiting
        self.places = max_waiting + OTHERS
        self.table = <peer_t*> calloc(max_waiting, sizeof(peer_t))
        self.vacant = <uint32_t*> calloc(max_waiting, sizeof(uint32_t))
        if self.table == NULL or self.vacant == NULL:
            raise MemoryError()
        self.set_up(new_session, admit)
        self.whole = True

    def __dealloc__(self):
        free(self.table)
        free(self.vacant)

    @property
    def undelivered_peer(self):
        """The host and port to which a reply could not be sent last."""
        return peer_text(&self.last_undelivered)

    cdef object host_of(self, uint32_t index):
        return host_text(&self.table[index].address)

    # ---- in the loop's thread, without the GIL ----------------------------------------------------------------------------------------

    cdef void serve(self) noexcept nogil:
        cdef pollfd[2] polled
        while not look(&self.stopping):
            self.choose_session()
            polled[0].fd, polled[0].events, polled[0].revents = -1 if self.session == NULL else self.fd, POLLIN, 0
            polled[1].fd, polled[1].events, polled[1].revents = self.to_loop.fd, POLLIN, 0
            if poll(polled, 2, self.pause()) < 0:
                continue
            if polled[1].revents:
                hush(&self.to_loop)
            self.take_back()
            if polled[0].revents:
                self.receive()
        self.take_back()
        self.cancel_all()

    cdef int pause(self) noexcept nogil:
        # Milliseconds until something has to be done; -1: nothing.
        if look(&self.several):
            return LOOK
        # Where Python could not make a session it is asked again.
        return RETRY if self.session == NULL else -1

    cdef void choose_session(self) noexcept nogil:
        """Have a session for the next datagram that is up to date."""
        if self.session != NULL:
            if (<Session> self.session).edition == look(&self.edition):
                return
            self.give_back(self.session)
        self.session = self.take_session()

    cdef void receive(self) noexcept nogil:
        """Answer the datagrams that are there."""
        cdef peer_t peer
        cdef uint8_t* place
        cdef ssize_t count
        cdef int available = 0, fed, _
        for _ in range(BURST):
            if self.session == NULL or (<Session> self.session).edition != look(&self.edition):
                return
            place = (<Session> self.session).room(&available)
            if place == NULL:
                return
            peer.address_length = sizeof(peer.address)
            # The length of the datagram, whether it has room or not.
            count = recvfrom(self.fd, place, available, MSG_DONTWAIT | MSG_TRUNC, <sockaddr*> &peer.address, &peer.address_length)
            if count < 0:
                return
            peer.session, peer.length = self.session, <int> count
            if self.gated and not lets_in_peer(&peer.address):
                self.keep(&peer, ADMIT)
                continue
            fed = self.go_on(&peer, (<Session> peer.session).take_datagram(peer.length, monotonic()))
            if fed != FED:
                self.keep(&peer, fed)

    cdef int go_on(self, peer_t* peer, int fed) noexcept nogil:
        """Let the session finish and send its reply; FED, or what Python is needed for."""
        while fed == OBSERVE:
            self.call_observers(<Session> peer.session)
            fed = (<Session> peer.session).feed()
        if fed == FED:
            (<Session> peer.session).keep()
            self.send(peer)
        return fed

    cdef void send(self, const peer_t* peer) noexcept nogil:
        cdef size_t length = (<Session> peer.session).out_length
        cdef const uint8_t* out = (<Session> peer.session).out
        if length and sendto(self.fd, out, length, MSG_DONTWAIT, <const sockaddr*> &peer.address, peer.address_length) < 0:
            # Anyone can forge an address that nothing can be sent to.
            self.refusal = errno
            self.last_undelivered = peer.address
            self.undelivered += 1
            self.report()
        (<Session> peer.session).forget_replies()

    cdef void keep(self, const peer_t* peer, int need) noexcept nogil:
        """Have Python do something for a request; the next datagrams get another session."""
        cdef uint32_t index = self.used
        if need == ADMIT and not self.takes_stranger(self.max_waiting - self.used + self.vacant_count):
            (<Session> self.session).clear()
            return
        if not self.sessions_left():
            # Python is held up: what does not need it goes on.
            self.want_sessions()
            self.drop()
            return
        if self.vacant_count:
            self.vacant_count -= 1
            index = self.vacant[self.vacant_count]
        elif self.used < self.max_waiting:
            self.used += 1
        else:
            self.drop()
            return
        self.strangers += need == ADMIT
        self.table[index] = peer[0]
        self.session = NULL
        self.choose_session()
        self.tell(index, need, peer.session)

    cdef void drop(self) noexcept nogil:
        """Too many wait for Python already."""
        self.dropped += 1
        self.report()
        (<Session> self.session).clear()

    cdef void take_back(self) noexcept nogil:
        """Go on with requests that Python is done with."""
        cdef errand_t errand
        cdef peer_t* peer
        cdef int fed
        while self.done.get(&errand):
            peer = &self.table[errand.index]
            fed = FED
            self.strangers -= errand.asked == ADMIT
            if errand.need == ADMIT:
                fed = self.go_on(peer, (<Session> peer.session).take_datagram(peer.length, monotonic()))
            elif errand.need != CLOSE:
                fed = self.go_on(peer, (<Session> peer.session).feed())
            if fed != FED:
                self.tell(errand.index, fed, peer.session)
                continue
            self.give_back(peer.session)
            peer.session = NULL
            self.vacant[self.vacant_count] = errand.index
            self.vacant_count += 1

    cdef void cancel_all(self) noexcept nogil:
        cdef uint32_t index
        for index in range(self.used):
            if self.table[index].session != NULL:
                self.tell(index, CANCEL, self.table[index].session)
