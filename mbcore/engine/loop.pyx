"""What the loops have in common: how they begin, call Python and end; and, where there are many peers, sessions and errands.

Of several processes that share a loop since a fork one has it, as long as it lives. In the others whoever calls the loop is told so, and
its connections are that process' alone.
"""

import os

from libc.errno cimport errno
from libc.stdint cimport UINT32_MAX, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from posix.unistd cimport close

from mbcore.engine.bell cimport hush, ring, unheard
from mbcore.engine.claim cimport is_claimed, make_claim, take_claim
from mbcore.engine.clock cimport monotonic
from mbcore.engine.polling cimport epoll_event, epoll_wait, milliseconds_of
from mbcore.engine.schedule cimport give_long_slices, take_short_slices
from mbcore.hosts cimport asks_about_all
from mbcore.session cimport FED, PYTHON, WAIT, Session
from mbcore.shared cimport look, show

cdef enum:
    # Sessions made ahead, each for one peer to come: before the loop begins, and from its first turn on.
    FIRST = 16
    SPARE = 128
    # Fewer than a burst of peers may want.
    FEW = 64

# How long requests that have come together are answered before the reactor has its turn and the replies go out, seconds.
cdef double TOGETHER = 0.001

# The loops that run in this process.
running = set()


cdef int share_processor() except -1:
    """Have this thread, a loop's, run when it is woken, and whoever brings it its bytes: beside threads of this program that compute."""
    cdef uint64_t usual = take_short_slices()
    if not usual:
        return 0
    try:
        threads = os.listdir("/proc/self/task")
    except OSError:
        # There is no /proc, or no descriptor to read it by: the loop serves all the same.
        return 0
    for thread in threads:
        give_long_slices(int(thread), usual)
    return 0


cdef class Loop:
    """A loop's life.

    A subclass says in `serve` what the loop does in its thread, without the GIL, until `stopping`.
    """

    def __cinit__(self, *args, **kwargs):
        self.to_loop.fd = self.to_python.fd = self.claims = -1
        self.maker = os.getpid()
        self.to_loop.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.to_python.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.claims = make_claim()
        if self.claims < 0:
            raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        self.close_descriptors()

    cdef void close_descriptors(self) noexcept:
        cdef int descriptor
        for descriptor in (self.to_loop.fd, self.to_python.fd, self.claims):
            if descriptor >= 0:
                close(descriptor)
        self.to_loop.fd = self.to_python.fd = self.claims = -1

    def fileno(self):
        """Return the descriptor that is readable when :meth:`attend` wants to be called."""
        return self.to_python.fd

    @property
    def over(self):
        """Whether the loop has ended."""
        return bool(look(&self.ended))

    @property
    def elsewhere(self):
        """Whether another process has the loop."""
        return bool(self.is_elsewhere())

    @property
    def news(self):
        """Another number than the last time where a count has changed for the log, or all connections that were to go have gone."""
        return look(&self.counted)

    def claim(self):
        """Whether this process may run the loop: of those that share it since a fork it is the first one's that asks, until that ends.

        In one that has asked too late all methods but this one raise RuntimeError from then on, and in its forks.

        :raises OSError: when the system gives no descriptor
        """
        if not self.left and not self.claimed:
            if not take_claim(self.claims):
                self.leave()
            else:
                self.claimed = True
                # Another process may have heard them.
                self.to_loop.rung = self.to_python.rung = False
                if os.getpid() != self.maker:
                    self.take_over()
        return not self.left

    def run(self):
        """Serve until :meth:`stop` is called, or what is served has gone; for a thread of its own."""
        # First: a fork of this process has a loop without a thread.
        running.add(self)
        try:
            self.claim()
            self.initialised()
            self.begun = True
            share_processor()
            with nogil:
                self.serve()
                show(&self.ended, True)
                ring(&self.to_python)
        finally:
            running.discard(self)

    def stop(self):
        """End the loop; does not wait for that.

        :raises RuntimeError: as all methods, where another process has the loop
        """
        self.initialised()
        show(&self.stopping, True)
        ring(&self.to_loop)

    def close(self):
        """Give back the descriptors of a loop that has ended or never begun; nothing is to be called any more.

        :raises RuntimeError: while it runs
        """
        self.initialised()
        if self.begun and not look(&self.ended):
            raise RuntimeError("the loop runs: stop it first, and wait for its thread")
        self.close_descriptors()

    def knock(self):
        """Whether the loop has heard the calls up to now; it is called again. One that turns hears at once, or when a reply is out."""
        cdef bint heard
        self.initialised()
        heard = not unheard(&self.to_loop)
        ring(&self.to_loop)
        return heard

    cdef int initialised(self) except -1:
        if not self.whole:
            raise TypeError("this loop was made without __init__")
        if self.is_elsewhere():
            raise RuntimeError(
                f"another process serves this server, which it shares with process {os.getpid()} since a fork: make each process a server"
                " of its own, or start the other program with subprocess"
            )
        return 0

    cdef void serve(self) noexcept nogil:
        pass

    cdef void call_observers(self, Session session) noexcept nogil:
        """The session has noted a write: have Python tell of it."""
        cdef unsigned int lost = look(&session.store.observers.lost)
        if lost != self.lost:
            self.lost = lost
            self.report()
        else:
            ring(&self.to_python)

    cdef void report(self) noexcept nogil:
        """Have Python look at the counts."""
        show(&self.counted, self.counted + 1)
        ring(&self.to_python)

    cdef bint is_elsewhere(self) noexcept:
        return self.left or not self.claimed and is_claimed(self.claims)

    cdef int take_over(self) except -1:
        """Another process has made the loop: make anew what it must not share."""
        return 0

    cdef void leave(self) noexcept:
        """Another process has the loop."""
        self.left = True


def after_fork_in_child():
    """In the child: the loops that run are the parent's."""
    cdef Loop loop
    for loop in running:
        loop.leave()
    running.clear()


os.register_at_fork(after_in_child=after_fork_in_child)


cdef class Errands:
    """A ring of errands from one thread to another, which has room for all there can be at a time."""

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


cdef class NetworkLoop(Loop):
    """A loop with many peers. Each that is served has a session, made ahead by Python and lent to one after the other.

    What needs Python is an errand: of a peer a request, its cancellation, and whether its host is let in; of a session its end.
    """

    cdef int set_up(self, new_session, admit) except -1:
        if self.asked is not None:
            raise TypeError("a loop is made once")
        self.new_session = new_session
        self.admit = admit
        self.gated = admit is not None
        self.sessions = set()
        self.waiting = {}
        self.changed = []
        self.peer = UINT32_MAX
        # Of a place a request, its cancellation, and one for the next peer, which may come before the cancellation is read; and the end
        # of its session.
        self.asked = Errands(4 * self.places)
        self.done = Errands(self.places)
        self.made = Errands(SPARE)
        self.spare = <void**> calloc(self.places, sizeof(void*))
        if self.spare == NULL:
            raise MemoryError()
        self.make_sessions(FIRST)
        return 0

    def __dealloc__(self):
        free(self.spare)

    # ---- from the thread that attends -------------------------------------------------------------------------------------------------

    def attend(self):
        """Do what the loop wants of Python, as far as it is asked by now.

        Returns the sessions that have begun to wait for a user's code, or need not wait any more, as ``session.waiting`` tells. For the
        former :meth:`resume` wants to be called by ``session.wake``, and :meth:`give_up` at ``session.deadline()``. When the loop has ended
        observers are told of the last writes, and nothing else is done.
        """
        cdef errand_t errand
        cdef unsigned int _, count, outer = self.several
        self.initialised()
        # Of several processes the one that runs the loop hears it, even if none does yet.
        if self.claimed:
            hush(&self.to_python)
        try:
            self.tell_all()
            # What is asked later rings again: the reactor has its turn in between.
            count = self.asked.count()
            self.same_peer = False
            if count > 1:
                # The loop takes back what is done, however long the next one takes.
                show(&self.several, True)
                ring(&self.to_loop)
            for _ in range(count):
                # In a fork, which a user's code has made, the rest is the parent's.
                if self.left or not self.asked.get(&errand):
                    break  # or it has stopped the loop, which has done the rest
                if errand.need < ADMIT:
                    # A request.
                    self.same_peer = errand.index == self.peer
                    self.peer = errand.index
                self.run_errand(errand)
            if look(&self.wants_sessions) and not look(&self.stopping):
                self.make_sessions(SPARE)
        except BaseException:
            # What is left is done the next time.
            ring(&self.to_python)
            raise
        finally:
            show(&self.several, outer)
            self.call()
        changed, self.changed = self.changed, []
        if changed:
            # Who waits for a user's code asks no more.
            self.same_peer = False
        return changed

    def linger(self, int epoll, double most):
        """Wait as the reactor would, and say whether :meth:`attend`, and nothing else, wants to be called.

        Not where the last request was of another peer than the one before, or observers alone were told: while the reactor has its turn
        more of them come together, and that takes less.

        :param epoll: by which the reactor waits for its descriptors; none is taken from it, for it is level-triggered
        :param most: seconds, a part of a millisecond is one
        """
        cdef epoll_event[2] ready
        cdef int count
        if not self.same_peer or self.left or most <= 0 or look(&self.stopping) or look(&self.ended):
            return False
        with nogil:
            count = epoll_wait(epoll, ready, 2, milliseconds_of(most))
        return count == 1 and ready[0].data.fd == self.to_python.fd

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
            return self.answer(errand)
        finally:
            self.call()

    def give_up(self, Session session not None):
        """A user's code has not answered in time; whether the session waits for another answer."""
        self.initialised()
        if session in self.waiting and session.awaited is not None:
            try:
                session.give_up()
            finally:
                self.resume(session)
        return session in self.waiting

    def renew(self):
        """Make new sessions for the peers to come: those made ahead are out of date. May be called in any thread."""
        self.initialised()
        show(&self.edition, self.edition + 1)
        ring(&self.to_loop)

    cdef int tell_all(self) except -1:
        """Tell of what has happened, whoever hears of it."""
        return self.first.tell_observers()

    cdef object host_of(self, uint32_t index):
        """The address of a peer; None where it has gone."""
        return None

    cdef int run_errand(self, errand_t errand) except -1:
        cdef Session session = <Session> errand.session
        if errand.need == RETIRE:
            self.sessions.discard(session)
        elif errand.need == CANCEL:
            if session in self.waiting:
                errand.index = self.waiting.pop(session)
                self.changed.append(session)
                try:
                    session.reset()
                finally:
                    self.hand_back(errand)
        elif look(&self.ended):
            pass
        elif errand.need == ADMIT:
            errand.need = CLOSE
            try:
                host = self.host_of(errand.index)
                if host is not None and self.admit(host):
                    errand.need = ADMIT
            finally:
                self.hand_back(errand)
        elif self.answer(errand):
            self.changed.append(session)
        return 0

    cdef bint answer(self, errand_t errand) except -1:
        """Let a session do what it has stopped for; whether a user's code answers later."""
        cdef Session session = <Session> errand.session
        cdef double begun = monotonic()
        cdef int fed = errand.need
        cdef bint partly = False
        session.now = begun
        try:
            # What has come together is answered together.
            while fed != FED:
                if session.attend(fed) == WAIT:
                    if look(&self.ended):
                        # A user's code has stopped the loop and answers later: nobody waits for that.
                        session.reset()
                        return False
                    # Who has asked before need not wait.
                    self.deliver(errand.index)
                    self.waiting[session] = errand.index
                    return True
                session.now = monotonic()
                # Observers would hold up the replies to what was asked before, and nobody goes on where the loop has ended.
                partly = session.store.units.observed or session.now >= begun + TOGETHER or look(&self.ended) or self.left
                fed = FED if partly else session.feed()
        except BaseException:
            # A user's code wants to end the program: its connection ends.
            errand.need = CLOSE
            self.deliver(errand.index)
            try:
                session.reset()
            finally:
                self.hand_back(errand)
            raise
        # Of several replies each would bring the next request, and the loop a turn for each: it has them together.
        if partly or look(&self.several) or not self.deliver(errand.index):
            self.hand_back(errand)
        else:
            self.done.put(errand)
            # The loop need not know before it has something to do anyway, unless the peer has said more meanwhile.
            self.owes_call = self.owes_call or self.has_said_more(errand.index)
        return False

    cdef void hand_back(self, errand_t errand) noexcept:
        self.done.put(errand)
        self.owes_call = True

    cdef void call(self) noexcept:
        """Wake the loop for what was handed back."""
        if self.owes_call:
            self.owes_call = False
            ring(&self.to_loop)

    cdef bint deliver(self, uint32_t index) noexcept:
        """Send a peer's replies; False where the loop has to."""
        return False

    cdef bint has_said_more(self, uint32_t index) noexcept:
        """Of a peer whose session the loop may have again: whether there is something to read, or its end."""
        return True

    cdef int make_sessions(self, unsigned int most) except -1:
        cdef errand_t errand
        cdef Session session
        memset(&errand, 0, sizeof(errand))
        # First: the loop may take them all, and want more, before this is done.
        show(&self.wants_sessions, False)
        while self.made.count() < most and <uint32_t> len(self.sessions) < self.places:
            # Before it is made: what it is made of may change meanwhile.
            edition = look(&self.edition)
            session = self.new_session()
            session.initialised()
            session.edition = edition
            self.sessions.add(session)
            self.first = session
            errand.session = <void*> session
            self.made.put(errand)
        ring(&self.to_loop)
        return 0

    # ---- in the loop's thread, without the GIL ----------------------------------------------------------------------------------------

    cdef void want_sessions(self) noexcept nogil:
        if not look(&self.wants_sessions):
            show(&self.wants_sessions, True)
            ring(&self.to_python)

    cdef uint32_t sessions_left(self) noexcept nogil:
        return self.spare_count + self.made.count()

    cdef bint takes_stranger(self, uint32_t places_left) noexcept nogil:
        """Whether one more peer may wait for Python to let it in: where others need not, as much is left for them."""
        if self.strangers < min(places_left, self.sessions_left()) or asks_about_all():
            return True
        self.turned_away += 1
        self.report()
        return False

    cdef void* take_session(self) noexcept nogil:
        """A session for a new peer; NULL until Python has made more."""
        cdef errand_t errand
        cdef void* session
        if self.sessions_left() <= FEW:
            # Before Python is held up, perhaps.
            self.want_sessions()
        while True:
            if self.spare_count:
                self.spare_count -= 1
                session = self.spare[self.spare_count]
            elif self.made.get(&errand):
                session = errand.session
            else:
                # Those that there were are out of date.
                self.want_sessions()
                return NULL
            if (<Session> session).edition == look(&self.edition):
                return session
            self.tell(0, RETIRE, session)

    cdef void give_back(self, void* session) noexcept nogil:
        """A peer needs its session no more."""
        (<Session> session).clear()
        self.spare[self.spare_count] = session
        self.spare_count += 1

    cdef void tell(self, uint32_t index, int need, void* session) noexcept nogil:
        cdef errand_t errand
        errand.index = index
        errand.asked = errand.need = need
        errand.session = session
        self.asked.put(errand)
        ring(&self.to_python)
