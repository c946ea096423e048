"""One serial line, which other units share: whose frame it is, where it ends, when a reply may go out. Knows no port and no clock.

On RTU only lengths, the CRC and silence tell frames apart, and bytes come late: a USB adapter delivers every 16 ms, a UART with a FIFO
every 8 or 16 characters. A silence of t3.5 that is seen here may be in the midst of a frame. So a frame counts at once where a frame may
begin; anywhere else only a longer silence shows that it is no piece of another unit's payload. The rules stand in docs/shared-line.md.
Source: Modbus over Serial Line V1.02, 2.4 and 2.5.
"""

from libc.math cimport INFINITY
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc
from libc.string cimport memcmp, memcpy

from cpython.bytes cimport PyBytes_AsString

from mbcore.control cimport BUS_MESSAGE, SERVER_NO_RESPONSE, ModbusControlBlock, control_t
from mbcore.datastore.context cimport ModbusServerContext
from mbcore.framer.base cimport CLOSE, DROP, MORE, frame_t
from mbcore.lock cimport lock_image, unlock_image
from mbcore.session cimport FED, WAIT, Session

from mbcore.errors import ConfigurationError

cdef enum:
    # `stage`: bytes have just come; t3.5 of silence has passed, but bytes may be late; the silence is certain
    SPEAKING = 0
    PAUSED = 1
    SILENT = 2
    # as many bytes can't be a frame: a transceiver makes them when it turns around
    STRAY = 3
    # of echo=
    ECHO_NONE = 0
    ECHO_AUTO = 1
    ECHO_DROP = 2
    # so many replies that equal their requests, come back one after the other, are echoes; so many times more where that was wrong
    SUSPICIOUS = 16
    WARIER = 4
    # the same where characters take no time, and so many of the first wait there for who speaks next
    QUICK = 1024
    HELD_BACK = 3
    # so many replies that don't come back are enough to think that none will
    UNHEARD = 3

# How late bytes are delivered at most, in seconds for USB (16 ms) and in characters for a FIFO; after that much silence nothing more
# belongs to them.
cdef double LATE = 0.02
cdef double FIFO = 16
# t3.5, in characters
cdef double GAP = 3.5
# How long a frame may pause and still go on, in such times: a busy machine reads later still.
cdef double PATIENCE = 2.5
# t3.5 above 19200 Bd, seconds (2.5.1.1)
cdef double FAST_GAP = 0.00175

_ECHO = {"none": ECHO_NONE, "auto": ECHO_AUTO, "drop": ECHO_DROP}


cdef class LineSession(Session):
    """Answers the requests that come over one serial line; unit 0 is the broadcast, and a unit that is not there is silent (2.2).

    The parameters are those of :class:`mbcore.session.Session`, and

    :param units: the unit ids that this line answers, 1..247; None: all that the store has
    :param frame_gap: RTU: the silence that ends a frame, seconds (t3.5; 2.5.1.1)
    :param reply_delay: seconds from the end of a request to its reply at least; 0: at once
    :param reply_deadline: seconds from the end of a request after which it isn't answered any more; 0: always answered
    :param echo: "drop": the adapter hears what it sends; "none": it does not; "auto": found out
    :param character_time: seconds that a character takes at most: how long a reply is on its way, and its echo
    :param paced: whether it takes that long at least; a pseudo-terminal takes no time
    :raises ConfigurationError: ``framer`` is no framer class, or ``echo`` is another word
    """

    def __init__(
        self, framer, ModbusServerContext store not None, ModbusControlBlock control=None, *, units=None, double frame_gap=FAST_GAP,
        double reply_delay=0.0, double reply_deadline=0.0, echo="none", double character_time=0.0,
        paced=True, **options,
    ):
        options["broadcast_enable"] = True
        Session.__init__(self, framer, store, control, **options)
        if echo not in _ECHO:
            raise ConfigurationError(f"echo is {echo!r}: give one of {', '.join(_ECHO)}")
        self.serial = True
        self.framer.line = True
        self.late = LATE
        if self.framer.by_silence:
            self.gap = frame_gap
            self.late = max(LATE, frame_gap * FIFO / GAP)
            self.framer.patience = PATIENCE * self.late
        elif not self.framer.patience:
            self.framer.patience = PATIENCE * LATE
        self.reply_delay = reply_delay
        self.reply_deadline = reply_deadline
        if reply_deadline:
            # An answer that says that there is none has to be in time too.
            self.answer_timeout = min(self.answer_timeout, reply_deadline / 2)
        self.echo = self.echo_asked = _ECHO[echo]
        self.character_time = character_time
        self.paced = paced and character_time > 0
        self.suspicious = SUSPICIOUS if self.paced else QUICK
        self.boundary = True
        if units is not None:
            self.choose(units)
        if not self.has_buffer():
            raise MemoryError()

    cdef int choose(self, object units) except -1:
        self.answered = <uint8_t*> calloc(256, 1)
        if self.answered == NULL:
            raise MemoryError()
        for unit_id in units:
            if not 0 <= unit_id <= 0xFF:
                raise ConfigurationError(f"the unit id {unit_id!r} is not in 0..255")
            self.answered[<uint8_t> unit_id] = True
        return 0

    # ---- the Python face --------------------------------------------------------------------------------------------------------------

    def line_counters(self):
        """Return what has happened on the line: name -> how often."""
        return {
            "crc_errors": self.counters.crc_errors,
            "discarded_bytes": self.counters.discarded_bytes,
            "foreign_frames": self.counters.foreign_frames,
            "suppressed_replies": self.counters.suppressed_replies,
            "echoes": self.counters.echoes,
            "collisions": self.counters.collisions,
        }

    def deadline(self):
        """Return when :meth:`expire` wants to be called, on the clock of ``now``: a reply is due then, or a silence is certain; or None."""
        self.initialised()
        if self.asked is not None:
            return Session.deadline(self)
        cdef double then = self.next_time()
        return None if then < 0 else then

    def expire(self, double now):
        """Time has passed: answer what the silence has ended, discard what it has cut off; return the reply that is due."""
        self.initialised()
        if self.asked is not None:
            return Session.expire(self, now)
        self.now = now
        self.drive(self.tick(now))
        return self.taken(now)

    def reset(self):
        """Forget what was under way: the line was opened anew, perhaps in the middle of a frame."""
        Session.reset(self)
        self.boundary = False
        # A silence is one between bytes that were heard.
        self.last = INFINITY
        self.sent_length = self.spoken_length = self.matched = 0
        self.doubt = self.doubted = False
        self.unheard = self.suspects = 0
        self.suspicious = SUSPICIOUS if self.paced else QUICK
        self.guessed = self.held_back = False
        self.echo = self.echo_asked

    cdef int absorb(self, bytes data) except -1:
        cdef const uint8_t* at = <const uint8_t*> PyBytes_AsString(data)
        cdef Py_ssize_t length = len(data), start, part
        for start in range(0, length, CHUNK):
            part = min(length - start, CHUNK)
            if self.drive(self.begin(at + start, <int> part, self.now)) == WAIT:
                self.kept = data
                self.backlog += at[start + part:length]
                break
        return 0

    cdef bytes taken(self, double now):
        if not self.reply_ready(now):
            return b""
        self.reply_sent(now)
        # Its bytes are still there.
        self.out_length = self.sent_length
        return Session.taken(self, now)

    # ---- bytes and silence, without the GIL -------------------------------------------------------------------------------------------

    cdef int begin(self, const uint8_t* data, int length, double now) noexcept nogil:
        """Take CHUNK bytes at most; FED, or what the loop has stopped for."""
        cdef int heard
        if not self.held and now >= self.last + self.late:
            self.boundary = True
        self.last = now
        self.heard_since += length
        self.stage = SPEAKING
        heard = self.hear(data, length, now)
        memcpy(self.buffer + self.held, data + heard, length - heard)
        self.at, self.end = self.buffer, self.buffer + self.held + length - heard
        return self.feed()

    cdef double next_time(self) noexcept nogil:
        """When `tick` wants to be called; below 0: not before bytes come."""
        if self.held and not self.gap:
            return self.last + self.framer.patience
        elif self.held:
            return self.last + (self.gap if self.stage == SPEAKING else self.late if self.stage == PAUSED else self.framer.patience)
        elif self.matched:
            return self.last + self.late
        elif self.out_length:
            return self.last + self.reply_delay
        return -1

    cdef int tick(self, double now) noexcept nogil:
        """The time `next_time` has come; FED, or what the loop has stopped for. The end of what it has taken is kept by the caller."""
        self.at, self.end = self.buffer, self.buffer + self.held
        if self.matched and now >= self.last + self.late:
            self.give_back()
            self.end = self.buffer + self.held
            return self.feed()
        if not self.held:
            return FED
        if not self.gap:
            if now >= self.last + self.framer.patience:
                self.final = True
                return self.feed()
            return FED
        if self.stage == SPEAKING and now >= self.last + self.gap:
            self.stage = PAUSED
            if self.out_length and self.held <= STRAY:
                self.discard(self.held)
                return FED
        if self.stage == PAUSED and now >= self.last + self.late:
            return self.end_of_frame()
        if now >= self.last + self.framer.patience:
            # Nothing in it was said to anyone for sure.
            self.count_damage()
            self.discard(self.held)
            self.in_noise = False
        return FED

    cdef int end_of_frame(self) noexcept nogil:
        """The end of a frame, wherever it began: the one that ends with the silence counts, or with zeros that a transceiver makes."""
        cdef int end = self.held, start = self.framer.find_last(self.buffer, end)
        self.stage = SILENT
        self.held_back = False
        while start < 0 and end > 0 and self.held - end < STRAY and self.buffer[end - 1] == 0:
            end -= 1
            start = self.framer.find_last(self.buffer, end)
        if start < 0:
            if self.out_length:
                # The request whose reply waits was followed by noise.
                self.count_damage()
                self.discard(self.held)
            return FED
        if start:
            self.count_damage()
            self.counters.discarded_bytes += start
            self.at += start
        self.counters.discarded_bytes += self.held - end
        self.end = self.buffer + end
        self.final = True
        return self.feed()

    cdef void discard(self, int length) noexcept nogil:
        # The whole buffer: what comes after a silence may begin a frame.
        self.counters.discarded_bytes += length
        self.at = self.end = self.buffer
        self.held = 0
        self.boundary = True

    cdef int feed(self) noexcept nogil:
        """Answer the frames from `at` on, until more bytes are needed or Python is."""
        cdef frame_t* frame = &self.exchange.frame
        cdef int found, answered
        while self.at < self.end:
            self.framer.delimiter = self.control.control.delimiter
            found = self.framer.find(self.at, <int> min(self.end - self.at, <ptrdiff_t> LONGEST_ADU), self.final, frame)
            if found == MORE:
                break
            if found == CLOSE:
                self.closing = True
                self.at = self.end
                break
            if found == DROP:
                self.at += frame.consumed
                self.counters.discarded_bytes += frame.consumed
                self.boundary = False
                self.count_dropped()
                continue
            if self.gap and not self.boundary and not self.final and self.is_mine():
                # In the midst of other bytes: a piece of another unit's payload, unless silence follows.
                if self.only_zeros(self.at + frame.consumed):
                    break
                self.at += frame.consumed
                if self.held_back:
                    self.held_back = False
                    self.boundary = True
                    self.echo = ECHO_DROP
                    self.counters.echoes += 1
                else:
                    self.counters.discarded_bytes += frame.consumed
                continue
            self.at += frame.consumed
            self.in_noise = False
            if self.is_own(self.at - frame.consumed, frame.consumed):
                continue
            self.drop_reply()
            if not self.is_mine():
                self.pass_over()
                continue
            self.asked_at = self.last
            if self.echo != ECHO_NONE:
                self.learn(self.at - frame.consumed, frame.consumed)
                self.request_length = frame.consumed
                memcpy(self.request, self.at - frame.consumed, frame.consumed)
            answered = self.answer()
            if answered != FED:
                return answered
        if self.final:
            # The silence has ended a run of noise too.
            self.final = self.in_noise = False
            self.boundary = True
        return FED

    cdef bint only_zeros(self, const uint8_t* at) noexcept nogil:
        # What a transceiver makes when it turns round, or nothing.
        if self.end - at > STRAY:
            return False
        while at < self.end and at[0] == 0:
            at += 1
        return at == self.end

    cdef bint is_mine(self) noexcept nogil:
        cdef const frame_t* frame = &self.exchange.frame
        cdef bint there
        if frame.response:
            return False
        if frame.unit_id == 0:
            return True
        lock_image()
        there = self.store.units.by_id[frame.unit_id] != NULL
        unlock_image()
        return there and (self.answered == NULL or self.answered[frame.unit_id])

    cdef void pass_over(self) noexcept nogil:
        """Another unit's request or response."""
        cdef control_t* control = &self.control.control
        self.counters.foreign_frames += 1
        lock_image()
        control.counters[BUS_MESSAGE] += 1
        unlock_image()

    cdef void count_damage(self) noexcept nogil:
        if not self.in_noise:
            self.counters.crc_errors += 1
        Session.count_damage(self)

    # ---- the reply --------------------------------------------------------------------------------------------------------------------

    cdef void drop_reply(self) noexcept nogil:
        # Another frame follows: whoever asked before has given up, and a reply now would collide (2.4.1).
        if self.out_length:
            self.out_length = 0
            self.count_unsent()

    cdef void count_unsent(self) noexcept nogil:
        """A reply does not go out, or not all of it."""
        cdef control_t* control = &self.control.control
        lock_image()
        control.counters[SERVER_NO_RESPONSE] += 1
        unlock_image()
        self.counters.suppressed_replies += 1

    cdef size_t reply_ready(self, double now) noexcept nogil:
        """How many bytes of a reply may be sent now; 0 while someone else speaks, too early, or too late."""
        if not self.out_length or self.held or self.matched or now < self.last + self.reply_delay:
            return 0
        if self.reply_deadline and now > self.asked_at + self.reply_deadline:
            self.drop_reply()
        return self.out_length

    cdef void reply_sent(self, double now) noexcept nogil:
        """The reply is on its way, and may be heard."""
        self.sent_length = self.spoken_length = <int> self.out_length
        self.out_length = 0
        if self.echo != ECHO_NONE:
            memcpy(self.sent, self.out, self.sent_length)
            self.matched = 0
            self.heard_since = 0
            self.sent_at = now
            self.too_early = now + self.sent_length * self.character_time / 2
            self.ambiguous = self.sent_length == self.request_length and not memcmp(self.sent, self.request, self.sent_length)

    # ---- what is sent is heard, on some adapters --------------------------------------------------------------------------------------

    cdef int hear(self, const uint8_t* data, int length, double now) noexcept nogil:
        """Take what is the own transmission come back; how many bytes of `data` are."""
        cdef int heard = 0
        if self.echo == ECHO_NONE or not self.sent_length:
            return 0
        if not self.matched and now > self.sent_at + self.sent_length * self.character_time + self.echo_time():
            # Silence followed: nothing has come back.
            self.count_unheard()
            self.sent_length = 0
            return 0
        while heard < length and self.matched < self.sent_length and data[heard] == self.sent[self.matched]:
            heard += 1
            self.matched += 1
        if self.matched == self.sent_length:
            if self.is_echo(now):
                self.sent_length = self.matched = 0
            else:
                self.give_back()
                self.boundary = self.boundary and not self.held_back
        elif heard < length:
            if self.matched and self.echo == ECHO_DROP:
                self.counters.collisions += 1
            self.give_back()
        return heard

    cdef double echo_time(self) noexcept nogil:
        # Who echoes for sure may be read even later, by a busy machine.
        return PATIENCE * self.late if self.echo == ECHO_DROP else self.late

    cdef bint is_echo(self, double now) noexcept nogil:
        """Whether what has come back is our reply, and not a master that asks again: the reply may equal its request."""
        cdef double sending = self.spoken_length * self.character_time
        cdef double passed = now - self.sent_at - sending
        cdef bint heard = True
        self.doubt = False
        if not self.ambiguous:
            self.echo = ECHO_DROP
            self.guessed = False
        elif self.paced and passed < sending / 2:
            # No master could have asked again yet.
            pass
        elif self.echo == ECHO_DROP or self.unheard or passed >= self.late:
            heard = self.echo == ECHO_DROP and passed < self.echo_time()
        elif self.paced and not self.doubted:
            # Nothing is known. If it was no echo the master asks once more, later than an echo comes.
            self.doubt = True
        else:
            # A reply that goes round and round, or a master that is as quick.
            self.suspects += 1
            heard = self.suspects >= self.suspicious
            if heard:
                self.echo = ECHO_DROP
                self.guessed = True
            # Who asks waits for the answer: where someone goes on at once, nobody has asked.
            self.held_back = self.gap and not heard and self.suspects <= HELD_BACK
        if heard:
            self.counters.echoes += 1
            self.guessed_at = now
        if heard and not self.doubt:
            self.unheard = 0
        if not self.doubt:
            self.spoken_length = 0
        return heard

    cdef bint is_own(self, const uint8_t* adu, int length) noexcept nogil:
        """Whether a frame, which may stand among noise, is what was sent last."""
        cdef bint doubt = self.doubt
        cdef Py_ssize_t before = self.heard_since - (self.end - adu)
        self.doubt = False
        if self.echo == ECHO_NONE or not self.spoken_length:
            return False
        if length != self.spoken_length or memcmp(adu, self.sent, length):
            if not before:
                # Someone else's is the first that is heard.
                self.count_unheard()
            self.spoken_length = 0
            return False
        if doubt:
            # The same once more: perhaps it was the master who asked.
            self.doubted = True
            self.spoken_length = 0
            return False
        # Behind as many bytes as it has, those were it, damaged.
        return before < (length + 1) // 2 and self.is_echo(self.last)

    cdef void give_back(self) noexcept nogil:
        """What came was no echo."""
        memcpy(self.buffer + self.held, self.sent, self.matched)
        self.held += self.matched
        self.sent_length = self.matched = 0

    cdef void learn(self, const uint8_t* adu, int length) noexcept nogil:
        """A request has come. The same once more, after a pause: perhaps the master waited for the answer to what was taken for an echo."""
        if self.last < self.too_early:
            # Nor do characters take their time here: a virtual port, or USB all the way.
            self.paced = False
        if self.guessed and self.last > self.guessed_at + self.late:
            if length == self.request_length and not memcmp(adu, self.request, length):
                self.be_warier()
        self.guessed_at = INFINITY

    cdef void be_warier(self) noexcept nogil:
        self.guessed = False
        self.echo = ECHO_AUTO
        self.suspects = 0
        self.suspicious = min(WARIER * self.suspicious, 1 << 24)

    cdef void count_unheard(self) noexcept nogil:
        """A reply has not come back."""
        if self.guessed:
            self.be_warier()
        self.unheard += 1
        self.suspects = 0
        if self.echo_asked == ECHO_AUTO and self.unheard >= UNHEARD:
            self.echo = ECHO_AUTO
