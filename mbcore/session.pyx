"""One connection: bytes and the time in, bytes out. Holds the buffer and the loop; knows no transport and no clock.

The loop needs no GIL and stops where Python is needed, at an overridden block or context or an observer: whoever runs the loop sees to
that with the GIL and lets it go on. Where a user's code answers with a Deferred the session waits: what comes in meanwhile is kept, and
:meth:`Session.resume` goes on in order.
"""

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize

from mbcore.codec cimport read_request, response_head, response_t, write_response
from mbcore.constants cimport *
from mbcore.control cimport (
    BUS_MESSAGE, SENT, SENT_LISTEN_ONLY, SERVER_NO_RESPONSE, ModbusControlBlock, add_event, control_t, count_completed, count_error,
    count_received,
)
from mbcore.datastore.context cimport ModbusServerContext, unit_of, unit_t, units_t
from mbcore.execute cimport (
    EXECUTE_IN_PYTHON, Dialogue, dialogue_with, enter_write, execute, execute_in_python, needs_python, writes,
)
from mbcore.framer.base cimport CLOSE, DROP, FOUND, MORE, Framer, frame_t
from mbcore.lock cimport lock_image, unlock_image
from mbcore.wire cimport write_to, writer_t, written

from mbcore.errors import ConfigurationError, RequestError
from mbcore.execute import Later

# The message objects are imported where a hook or a custom function wants them: no other server pays for them.

cdef enum:
    # Of `admit`: there is an outcome; there is nothing to say.
    DONE = 4
    NOTHING = 5
    # Room for replies beyond this is given back between calls.
    OUT_KEPT = 65536


cdef class Session:
    """Answers the requests of one connection.

    :param framer: a framer class of :mod:`mbcore.framer`
    :param store: the units, a ModbusServerContext
    :param control: counters and identity, shared by all sessions of a server; None: its own
    :param ignore_missing_slaves: be silent where a unit is not there, instead of exception 0B
    :param broadcast_enable: let unit 0 be the broadcast: executed by every unit, never answered
    :param report: called with (sentence, exception) when a user's block, observer or hook raised
    :param decoder: a ServerDecoder: the request classes registered with it answer their function codes
    :param trace_pdu: called with (sending, pdu) for every request and response; returns the pdu to go on with
    :param answer_timeout: seconds that a user's Deferred may take; then the master is answered 0B
    :raises ConfigurationError: ``framer`` is no framer class
    """

    def __cinit__(self, *args, **kwargs):
        memset(&self.exchange, 0, sizeof(self.exchange))

    def __init__(
        self, framer, ModbusServerContext store not None, ModbusControlBlock control=None, *, ignore_missing_slaves=False,
        broadcast_enable=False, report=None, trace_pdu=None, decoder=None, double answer_timeout=3.0,
    ):
        if not isinstance(framer, type) or not issubclass(framer, Framer):
            raise ConfigurationError(f"the framer {framer!r} is not one of mbcore's framer classes, such as ModbusSocketFramer")
        self.framer = framer()
        self.store = store
        self.control = ModbusControlBlock() if control is None else control
        self.ignore_missing_slaves = ignore_missing_slaves
        self.broadcast_enable = broadcast_enable and not self.framer.anonymous
        self.report = report
        self.trace_pdu = trace_pdu
        self.traced = trace_pdu is not None
        self.answer_timeout = answer_timeout
        self.backlog = b""
        if decoder is not None and decoder.custom:
            self.declare(decoder)

    cdef int declare(self, object decoder) except -1:
        """Note the function codes that a user's classes answer; on RTU their declared sizes delimit the frames."""
        cdef int function_code
        self.custom = <custom_t*> calloc(1, sizeof(custom_t))
        if self.custom == NULL:
            raise MemoryError()
        for function_code, cls in decoder.custom.items():
            self.custom.known[function_code] = True
            self.custom.frame_size[function_code] = getattr(cls, "_rtu_frame_size", None) or 0
            self.custom.count_position[function_code] = getattr(cls, "_rtu_byte_count_pos", None) or 0
        self.decoder = decoder
        self.framer.custom = self.custom
        return 0

    def __dealloc__(self):
        free(self.custom)
        free(self.answered)
        free(self.buffer)
        free(self.out)

    # ---- the Python face --------------------------------------------------------------------------------------------------------------

    @property
    def waiting(self):
        """Whether a user's code still owes the answer to a request; read no more from this peer until :meth:`resume` was called."""
        return self.asked is not None

    def receive(self, data, double now):
        """Take ``data``, however it is cut, and return the replies to all requests that it completes, in order; b"" where there is none.

        :param now: seconds of a monotonic clock
        """
        cdef bytes held = data if type(data) is bytes else bytes(memoryview(data))
        self.initialised()
        self.now = now
        if self.asked is not None:
            self.backlog += held
        else:
            self.absorb(held)
        return self.taken(now)

    def resume(self, double now):
        """Go on after a user's code has answered, and return the replies; b"" where it still has not."""
        self.initialised()
        self.now = now
        if self.asked is not None and self.awaited is None:
            if self.attend(PYTHON) != WAIT:
                data, self.backlog = self.backlog, b""
                if data:
                    self.absorb(data)
        return self.taken(now)

    def deadline(self):
        """Return when :meth:`expire` wants to be called, on the clock of ``now``; None where nothing is waited for."""
        self.initialised()
        if self.awaited is not None:
            return self.awaited_since + self.answer_timeout
        if not self.held or not self.framer.patience:
            return None
        return self.last + self.framer.patience

    def expire(self, double now):
        """Time has passed: give up a user's answer, answer the frame that ends with the silence or discard it; return the replies."""
        self.initialised()
        self.now = now
        if self.awaited is not None:
            if now >= self.awaited_since + self.answer_timeout:
                self.give_up()
                return self.resume(now)
        else:
            self.drive(self.end_partial(now))
        return self.taken(now)

    def datagram(self, data, double now=0.0):
        """Take one datagram, which holds one ADU, and return its reply. One of another length is discarded, and nothing else is (TG)."""
        cdef bytes held = data if type(data) is bytes else bytes(memoryview(data))
        self.initialised()
        self.now = now
        if self.is_one_frame(<const uint8_t*> PyBytes_AsString(held), len(held)):
            self.final = True
            self.absorb(held)
            self.final = False
        return self.taken(now)

    def reset(self):
        """Forget a partial frame, an answer that is waited for and replies not handed out: the line was opened anew."""
        awaited = self.awaited
        self.asked = None
        self.backlog = b""
        self.clear()
        if awaited is not None:
            # Last: a user's canceller may raise.
            (<Awaited> awaited).close(None)

    cdef int initialised(self) except -1:
        if self.framer is None:
            raise TypeError("this session was made without __init__")
        return 0

    cdef int give_up(self) except -1:
        """Wait no longer for the user's answer."""
        self.awaited.close(RequestError(GATEWAY_TARGET_DEVICE_FAILED_TO_RESPOND, "a data block did not answer in time"))
        return 0

    cdef int absorb(self, bytes data) except -1:
        """Answer what `data` completes; what stands behind a request whose answer comes later goes to the backlog."""
        cdef const uint8_t* at = <const uint8_t*> PyBytes_AsString(data)
        cdef const uint8_t* end = at + len(data)
        cdef size_t part
        self.last = self.now
        while at < end and not self.closing:
            if not self.held:
                self.at, self.end = at, end
                at = end
            else:
                part = min(<size_t> (end - at), <size_t> (BUFFER - self.held))
                memcpy(self.buffer + self.held, at, part)
                at += part
                self.at, self.end = self.buffer, self.buffer + self.held + part
            if self.drive(self.feed()) == WAIT:
                self.kept = data
                self.backlog += at[:end - at]
                break
        return 0

    cdef bytes taken(self, double now):
        cdef bytes replies
        if not self.out_length:
            return b""
        replies = PyBytes_FromStringAndSize(<char*> self.out, self.out_length)
        self.forget_replies()
        return replies

    cdef int drive(self, int fed) except -1:
        """See to Python where the loop has stopped, and let it go on until its bytes are used up, or an answer has to be waited for."""
        # The GIL stays all the while: the loop takes less time than giving it away and getting it back.
        while fed != FED:
            if self.attend(fed) == WAIT:
                self.backlog = self.at[:self.end - self.at]
                self.held = 0
                self.final = False
                return WAIT
            fed = self.feed()
        if self.at < self.end and not self.has_buffer():
            raise MemoryError()
        self.keep()
        return FED

    cdef int attend(self, int fed) except -1:
        """Do with the GIL what the loop has stopped for; WAIT where the answer comes later."""
        while True:
            try:
                if fed == PYTHON:
                    fed = self.answer_in_python()
            finally:
                # Of a broadcast some units may have executed it, whatever another one does.
                if self.exchange.observed:
                    self.tell_observers()
            if fed != WAIT:
                return FED
            if self.awaited is not None:
                self.awaited.suspended = True
                return WAIT
            # An observer has had it answered.
            fed = PYTHON

    cdef void keep(self) noexcept nogil:
        # The partial frame that is left. A silence ends a run of noise too.
        if self.final:
            self.final = self.in_noise = False
        self.held = <int> (self.end - self.at)
        if self.held:
            memmove(self.buffer, self.at, self.held)

    cdef bint has_buffer(self) noexcept nogil:
        # It is made when it is first needed; without memory there is none.
        if self.buffer == NULL:
            self.buffer = <uint8_t*> malloc(BUFFER)
        return self.buffer != NULL

    cdef void forget_replies(self) noexcept nogil:
        self.out_length = 0
        if self.out_room > OUT_KEPT:
            free(self.out)
            self.out = NULL
            self.out_room = 0

    cdef void clear(self) noexcept nogil:
        """Be as new, but for an answer that is waited for."""
        self.held = 0
        free(self.out)
        self.out = NULL
        self.out_room = self.out_length = 0
        self.in_noise = False
        self.final = False
        self.closing = False

    cdef bint is_one_frame(self, const uint8_t* at, Py_ssize_t length) noexcept nogil:
        """Whether a datagram is one frame, no more and no less; a damaged one is counted."""
        cdef frame_t frame
        memset(&frame, 0, sizeof(frame))
        self.framer.delimiter = self.control.control.delimiter
        if not 0 < length <= self.framer.longest:
            return False
        if self.framer.find(at, <int> length, True, &frame) == FOUND and frame.consumed == length:
            return True
        if frame.damaged:
            self.count_damage()
            self.in_noise = False
        return False

    cdef int end_partial(self, double now) noexcept nogil:
        """No more will come of the partial frame, if `patience` is over; FED, or what the loop has stopped for."""
        self.at, self.end = self.buffer, self.buffer + self.held
        if not self.held or not self.framer.patience or now < self.last + self.framer.patience:
            return FED
        self.final = True
        return self.feed()

    # ---- for a loop that owns its descriptors, without the GIL ------------------------------------------------------------------------

    cdef uint8_t* room(self, int* available) noexcept nogil:
        """Where the next bytes belong, and how many of them at most; NULL where there is no memory."""
        if not self.has_buffer():
            return NULL
        available[0] = BUFFER - self.held
        return self.buffer + self.held

    cdef int take(self, int length, double now) noexcept nogil:
        """`length` bytes were put where `room` said; FED, or what the loop has stopped for."""
        self.now = self.last = now
        self.at, self.end = self.buffer, self.buffer + self.held + length
        return self.feed()

    cdef int take_datagram(self, int length, double now) noexcept nogil:
        """As `take`, where the bytes are a datagram."""
        self.now = self.last = now
        self.at = self.end = self.buffer
        if self.is_one_frame(self.buffer, length):
            self.final = True
            self.end += length
        return self.feed()

    cdef void lend_buffers(self, buffers_t* buffers) noexcept nogil:
        """Use `buffers` where the session has none of its own."""
        if self.buffer == NULL:
            self.buffer, buffers.buffer = buffers.buffer, NULL
        if self.out == NULL:
            self.out, self.out_room = buffers.out, buffers.out_room
            buffers.out, buffers.out_room = NULL, 0

    cdef void give_buffers(self, buffers_t* buffers) noexcept nogil:
        """Keep no buffer with nothing in it; `buffers` gets what it lacks."""
        if not self.held:
            if buffers.buffer == NULL:
                buffers.buffer, self.buffer = self.buffer, NULL
            free(self.buffer)
            self.buffer = NULL
        if not self.out_length:
            if buffers.out == NULL:
                buffers.out, buffers.out_room = self.out, self.out_room
            else:
                free(self.out)
            self.out, self.out_room = NULL, 0

    # ---- the loop, without the GIL ----------------------------------------------------------------------------------------------------

    cdef int feed(self) noexcept nogil:
        """Answer the frames from `at` on, until more bytes are needed or Python is."""
        cdef frame_t* frame = &self.exchange.frame
        cdef int found, answered
        while self.at < self.end:
            self.framer.delimiter = self.control.control.delimiter
            found = self.framer.find(self.at, <int> min(self.end - self.at, <ptrdiff_t> LONGEST_ADU), self.final, frame)
            if found == MORE:
                if self.in_noise and self.skip_noise():
                    continue
                return FED
            if found == CLOSE:
                self.closing = True
                self.at = self.end
                return FED
            self.at += frame.consumed
            if found == DROP:
                self.count_dropped()
                continue
            self.in_noise = False
            answered = self.answer()
            if answered != FED:
                return answered
        return FED

    cdef bint skip_noise(self) noexcept nogil:
        """Go to the frame that ends with the last byte, where one does: what seems to be a longer one is noise as well."""
        cdef int start = self.framer.find_last(self.at, <int> min(self.end - self.at, <ptrdiff_t> LONGEST_ADU))
        if start > 0:
            self.at += start
        return start > 0

    cdef void count_dropped(self) noexcept nogil:
        # A frame that is damaged but whole is no part of a run.
        cdef const frame_t* frame = &self.exchange.frame
        if frame.damaged:
            self.in_noise = self.in_noise and not frame.delimited
            self.count_damage()
            self.in_noise = not frame.delimited

    cdef void count_damage(self) noexcept nogil:
        # A run of bytes that are dropped one after the other is one error.
        if not self.in_noise:
            self.in_noise = True
            lock_image()
            count_error(&self.control.control)
            unlock_image()

    cdef int answer(self) noexcept nogil:
        """Answer the frame, or say that Python must."""
        cdef int admitted
        if not self.reserve():
            return FED
        if self.traced and self.is_ours():
            self.trace_request()
        lock_image()
        admitted = self.admit()
        if admitted == DONE:
            self.settle()
        unlock_image()
        if admitted == DONE:
            return self.conclude()
        return PYTHON if admitted == PYTHON else FED

    cdef bint is_ours(self) noexcept nogil:
        cdef const frame_t* frame = &self.exchange.frame
        return self.store.units.by_id[frame.unit_id] != NULL or not self.serial or self.broadcast_enable and not frame.unit_id

    cdef int admit(self) noexcept nogil:
        """Count the frame, pass the unit gate, decode, execute. DONE: `refused` is the outcome."""
        cdef exchange_t* exchange = &self.exchange
        cdef control_t* control = &self.control.control
        cdef const units_t* units = &self.store.units
        cdef uint8_t unit_id = exchange.frame.unit_id
        cdef unit_t* unit = units.by_id[unit_id]
        control.counters[BUS_MESSAGE] += 1
        exchange.broadcast = self.broadcast_enable and unit_id == 0
        exchange.silent = exchange.broadcast or control.listen_only
        exchange.ready = 0
        exchange.observed = False
        memset(&exchange.response, 0, sizeof(response_t))
        if unit == NULL and not self.serial and (unit_id == 0 or unit_id == 255):
            # The device itself (TG 4.4.2), where it is clear which one that is.
            unit = units.only
        if unit == NULL and not exchange.broadcast:
            if self.serial or self.ignore_missing_slaves or control.listen_only:
                return NOTHING
            exchange.response.function_code = exchange.frame.pdu[0]
            exchange.refused = GATEWAY_TARGET_DEVICE_FAILED_TO_RESPOND
            return DONE
        count_received(control, exchange.broadcast)
        exchange.custom = self.custom != NULL and self.custom.known[exchange.frame.pdu[0]]
        if exchange.custom:
            memset(&exchange.request, 0, sizeof(exchange.request))
            exchange.request.function_code = exchange.frame.pdu[0]
            exchange.refused = 0
        else:
            exchange.refused = read_request(exchange.frame.pdu, exchange.frame.pdu_length, &exchange.request)
        exchange.response.function_code = exchange.request.function_code
        if control.listen_only and (
            exchange.refused or exchange.request.function_code != DIAGNOSTICS
            or exchange.request.sub_function != RESTART_COMMUNICATIONS_OPTION
        ):
            # Watched and counted, not acted on (AP 6.8.1, sub-function 4).
            control.counters[SERVER_NO_RESPONSE] += 1
            add_event(control, SENT | SENT_LISTEN_ONLY)
            return NOTHING
        if exchange.refused:
            return DONE
        if exchange.custom:
            return PYTHON
        if exchange.broadcast:
            return self.execute_everywhere()
        exchange.refused = execute(unit, control, &exchange.request, &exchange.response, self.data_place())
        return PYTHON if exchange.refused == EXECUTE_IN_PYTHON else DONE

    cdef uint8_t* data_place(self) noexcept nogil:
        # Where the data of the response will stand: its values are written there at once.
        return self.out + self.out_length + self.framer.head + response_head(self.exchange.request.function_code)

    cdef int execute_everywhere(self) noexcept nogil:
        """A broadcast, for every unit (SL 2.1: broadcasts are writes)."""
        cdef exchange_t* exchange = &self.exchange
        cdef const units_t* units = &self.store.units
        cdef int unit_id
        exchange.refused = ILLEGAL_FUNCTION
        if writes(exchange.request.function_code):
            for unit_id in range(256):
                if units.by_id[unit_id] != NULL and needs_python(units.by_id[unit_id], exchange.request.function_code):
                    return PYTHON
            for unit_id in range(256):
                if units.by_id[unit_id] == NULL or units.by_id[unit_id] == units.only and unit_id != units.only_id:
                    continue
                if not self.store.single and self.answered != NULL and not self.answered[unit_id]:
                    continue
                self.execute_one(unit_id, units.by_id[unit_id])
        return DONE

    cdef int execute_one(self, int unit_id, unit_t* unit) noexcept nogil:
        """A broadcast, for a unit; EXECUTE_IN_PYTHON where that is not done."""
        cdef int outcome = execute(unit, &self.control.control, &self.exchange.request, &self.exchange.response, self.data_place())
        if outcome != EXECUTE_IN_PYTHON:
            self.note_outcome(unit_id, outcome)
        return outcome

    cdef void note_outcome(self, int unit_id, int outcome) noexcept nogil:
        # A broadcast is refused only where every unit refuses it.
        if not outcome:
            self.exchange.refused = 0
            self.note_write(unit_id)
        elif self.exchange.refused:
            self.exchange.refused = outcome

    cdef void note_write(self, int unit_id) noexcept nogil:
        """Note for the observers what a unit has executed, if it has written."""
        cdef exchange_t* exchange = &self.exchange
        cdef const units_t* units = &self.store.units
        # The only unit has several ids.
        cdef int owner = unit_id if units.only == NULL else units.only_id
        if units.observed and writes(exchange.request.function_code) and not exchange.custom:
            enter_write(self.store.observers, unit_id, owner, &exchange.request, &exchange.response)
            exchange.observed = True

    cdef void settle(self) noexcept nogil:
        """Count the outcome, and note a write for the observers, with the image locked."""
        cdef exchange_t* exchange = &self.exchange
        cdef control_t* control = &self.control.control
        exchange.silent = exchange.silent or control.listen_only
        if not exchange.refused and not exchange.broadcast:
            self.note_write(exchange.frame.unit_id)
        # What has just been cleared stays so; of a restart the log tells the rest too.
        if not exchange.refused and exchange.request.function_code == DIAGNOSTICS:
            if exchange.request.sub_function == RESTART_COMMUNICATIONS_OPTION:
                return
            if exchange.request.sub_function == CLEAR_COUNTERS_AND_DIAGNOSTIC_REGISTER:
                add_event(control, SENT)
                return
        count_completed(control, exchange.response.function_code, <uint8_t> exchange.refused, not exchange.silent)

    cdef int conclude(self) noexcept nogil:
        """Put the reply behind the others; say OBSERVE where someone wants to know of the write."""
        cdef exchange_t* exchange = &self.exchange
        cdef uint8_t* adu = self.out + self.out_length
        cdef writer_t writer = write_to(adu + self.framer.head, MAX_PDU)
        cdef int length
        if not exchange.silent:
            exchange.response.exception_code = <uint8_t> exchange.refused
            if not exchange.ready:
                write_response(&exchange.response, &writer)
            if writer.failed:
                # No response of ours is that long; if one were, the master is told rather than sent a part of it.
                writer = write_to(adu + self.framer.head, MAX_PDU)
                exchange.response.exception_code = SERVER_DEVICE_FAILURE
                write_response(&exchange.response, &writer)
            length = exchange.ready or <int> written(&writer)
            if self.traced:
                length = self.trace_response(writer.start, length)
            self.out_length += self.framer.wrap(&exchange.frame, adu, length)
        return OBSERVE if exchange.observed else FED

    cdef bint reserve(self) noexcept nogil:
        """Room for one more reply, whatever it is; without memory the master hears nothing and asks again."""
        cdef size_t room = 2 * self.out_room + LONGEST_ADU
        cdef uint8_t* out
        if self.out_room - self.out_length >= LONGEST_ADU:
            return True
        out = <uint8_t*> realloc(self.out, room)
        if out == NULL:
            return False
        self.out = out
        self.out_room = room
        return True

    # ---- with the GIL -----------------------------------------------------------------------------------------------------------------

    cdef int answer_in_python(self) except -1:
        """Go on where `admit` said PYTHON, or where an answer was waited for."""
        # Replies may have been taken since it was asked, and their memory given back.
        if not self.reserve():
            raise MemoryError()
        if self.asked is None:
            self.begin_asking()
        if self.ask_on() == WAIT:
            return WAIT
        self.asked = None
        lock_image()
        self.settle()
        unlock_image()
        return self.conclude()

    cdef int begin_asking(self) except -1:
        """Find who is to be asked; where nobody is, the outcome."""
        cdef exchange_t* exchange = &self.exchange
        cdef list asked = []
        context = None if exchange.broadcast else self.store.context_of(exchange.frame.unit_id)
        if context is None and not exchange.broadcast:
            # The application has taken it out since it was asked.
            exchange.refused = GATEWAY_TARGET_DEVICE_FAILED_TO_RESPOND
            exchange.silent = exchange.silent or self.serial or self.ignore_missing_slaves
        elif exchange.custom:
            self.answer_custom()
        elif exchange.broadcast:
            asked = [dialogue_with(context, unit_id) for unit_id, context in self.addressees()]
        else:
            asked.append(dialogue_with(context))
        self.asked = asked
        return 0

    cdef list addressees(self):
        """Whom a broadcast is for."""
        everyone = self.answered == NULL or self.store.single
        return [(unit_id, context) for unit_id, context in self.store if everyone or self.answered[<uint8_t> unit_id]]

    cdef int ask_on(self) except -1:
        """Ask who is still to be asked, in turn; WAIT where one answers later."""
        cdef exchange_t* exchange = &self.exchange
        cdef Dialogue dialogue
        cdef unit_t* unit
        cdef int outcome
        while self.asked:
            dialogue = self.asked[0]
            # Replies may have been taken since the last time.
            if not self.reserve():
                raise MemoryError()
            exchange.response.data = self.data_place()
            if exchange.broadcast:
                # Among units that are Python's there may be others.
                unit = unit_of(dialogue.context)
                lock_image()
                outcome = self.execute_one(dialogue.unit_id, unit)
                unlock_image()
                if outcome != EXECUTE_IN_PYTHON:
                    del self.asked[0]
                    continue
            try:
                outcome = execute_in_python(dialogue, &exchange.request, &exchange.response, self.data_place(), self.report)
            except Later as later:
                self.awaited = Awaited(self, dialogue, later.deferred)
                later.deferred.addCallbacks(self.awaited.answered, self.awaited.failed)
                if self.awaited is None:
                    continue  # it had been answered already
                self.awaited_since = self.now
                return WAIT
            del self.asked[0]
            if exchange.broadcast:
                lock_image()
                self.note_outcome(dialogue.unit_id, outcome)
                unlock_image()
            else:
                exchange.refused = outcome
        return FED

    cdef int answer_custom(self) except -1:
        """Have the user's class answer; a broadcast goes to every unit."""
        from mbcore.messages.custom import execute_custom
        cdef exchange_t* exchange = &self.exchange
        cdef frame_t* frame = &exchange.frame
        cdef uint8_t* place = self.out + self.out_length + self.framer.head
        # Of a broadcast without an addressee, too.
        answer = b""
        pdu = frame.pdu[:frame.pdu_length]
        contexts = [context for _, context in self.addressees()] if exchange.broadcast else [self.store.context_of(frame.unit_id)]
        for context in contexts:
            answer = execute_custom(self.decoder, pdu, context, self.control, frame.unit_id, frame.transaction_id, self.report)
        if not answer:
            exchange.silent = True
            return 0
        memcpy(place, PyBytes_AsString(answer), len(answer))
        exchange.ready = <int> len(answer)
        if answer[0] & 0x80:
            exchange.refused = answer[1] if len(answer) > 1 else SERVER_DEVICE_FAILURE
        return 0

    cdef int tell_observers(self) except -1:
        """Tell of all that masters have written by now, in this server and in others of the same context."""
        return self.store.observers.tell(self.report)

    cdef void trace_request(self) noexcept with gil:
        """Let the user's hook see the request, and go on with what it returns."""
        from mbcore.messages import trace
        cdef frame_t* frame = &self.exchange.frame
        pdu = trace(self.trace_pdu, False, frame.pdu[:frame.pdu_length], frame.unit_id, frame.transaction_id, self.report)
        if len(pdu) <= MAX_PDU:
            frame.pdu = self.traced_pdu
            frame.pdu_length = len(pdu)
            memcpy(self.traced_pdu, PyBytes_AsString(pdu), len(pdu))

    cdef int trace_response(self, uint8_t* place, int length) noexcept with gil:
        """Let the user's hook see the response, and go on with what it returns; the new length."""
        from mbcore.messages import trace
        cdef frame_t* frame = &self.exchange.frame
        pdu = trace(self.trace_pdu, True, place[:length], frame.unit_id, frame.transaction_id, self.report)
        memcpy(place, PyBytes_AsString(pdu), len(pdu))
        return len(pdu)


cdef class Awaited:
    """The answer that a user's code has promised."""

    def __init__(self, Session session, Dialogue dialogue, deferred):
        self.session = session
        self.dialogue = dialogue
        self.deferred = deferred

    cdef int close(self, object error) except -1:
        """Wait no longer: `error` is the answer. The user's code is told by a cancellation."""
        self.over = True
        self.dialogue.error = error
        self.session.awaited = None
        if hasattr(self.deferred, "cancel"):
            try:
                self.deferred.cancel()
            except BaseException as failure:
                # A user's code must not hold up whoever gives it up.
                if self.session.report is not None:
                    self.session.report("the canceller of a data block's Deferred failed", failure)
        return 0

    def answered(self, answer):
        """It is ``answer``."""
        if not self.over:
            self.dialogue.known.append(answer)
            self.go_on()

    def failed(self, failure):
        """It is an exception, ``failure.value``."""
        if not self.over:
            self.dialogue.error = failure.value
            self.go_on()

    def go_on(self):
        """Let the session go on."""
        self.over = True
        self.session.awaited = None
        if self.suspended and self.session.wake is not None:
            self.session.wake()
