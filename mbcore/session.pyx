"""One connection or one line: bytes and the time in, bytes out. Holds the buffer and the loop; knows no transport and no clock.

The loop needs no GIL and stops where Python is needed, at an overridden block or context or an observer: whoever runs the loop sees to
that with the GIL and lets it go on.
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
from mbcore.datastore.context cimport ModbusServerContext, unit_t, units_t
from mbcore.execute cimport EXECUTE_IN_PYTHON, execute, execute_in_python, needs_python, notify, value_of, writes
from mbcore.framer.base cimport CLOSE, DROP, FOUND, LONGEST_ADU, MORE, Framer, frame_t
from mbcore.lock cimport lock_image, unlock_image
from mbcore.wire cimport write_to, writer_t, written

from mbcore.errors import ConfigurationError

# The message objects are imported where a hook or a custom function wants them: no other server pays for them.

cdef enum:
    # of `feed`: every byte has been looked at, or more are needed; of `answer`: answered, go on
    FED = 0
    # this request needs Python
    PYTHON = 1
    # a master has written, and someone wants to know
    OBSERVE = 2
    # of `admit`: there is an outcome; there is nothing to say
    DONE = 3
    NOTHING = 4
    # room for a partial frame and as much again, so that the framer always gets a whole ADU to look at
    BUFFER = 2 * LONGEST_ADU
    # room for replies beyond this is given back between calls
    OUT_KEPT = 65536

# How long a frame may pause on a serial line, seconds: USB adapters deliver up to 16 ms late, and a busy machine reads later still.
cdef double LATE = 0.05


cdef class Session:
    """Answers the requests of one connection, or of one serial line.

    :param framer: a framer class of :mod:`mbcore.framer`
    :param store: the units, a ModbusServerContext
    :param control: counters and identity, shared by all sessions of a server; None: its own
    :param serial: a serial line: unit 0 is the broadcast, and a unit that is not there is silent (SL 2.2)
    :param frame_gap: with RTU on a serial line, the silence that ends a frame, seconds (t3.5; SL 2.5.1.1)
    :param ignore_missing_slaves: elsewhere, be silent too where a unit is not there, instead of exception 0B
    :param broadcast_enable: elsewhere, let unit 0 be the broadcast: executed by every unit, never answered
    :param report: called with (sentence, exception) when a user's block, observer or hook raised
    :param decoder: a ServerDecoder: the request classes registered with it answer their function codes
    :param trace_pdu: called with (sending, pdu) for every request and response; returns the pdu to go on with
    :raises ConfigurationError: ``framer`` is no framer class
    """

    def __cinit__(self, *args, **kwargs):
        memset(&self.exchange, 0, sizeof(self.exchange))

    def __init__(
        self, framer, ModbusServerContext store not None, ModbusControlBlock control=None, *, serial=False, frame_gap=0.0,
        ignore_missing_slaves=False, broadcast_enable=False, report=None, trace_pdu=None, decoder=None,
    ):
        if not isinstance(framer, type) or not issubclass(framer, Framer):
            raise ConfigurationError(f"the framer {framer!r} is not one of mbcore's framer classes, such as ModbusSocketFramer")
        self.framer = framer()
        self.framer.line = serial
        if serial and frame_gap > 0 and not self.framer.patience_fixed:
            self.framer.gap = frame_gap
            self.framer.patience = max(frame_gap, LATE)
        self.store = store
        self.control = ModbusControlBlock() if control is None else control
        self.serial = serial
        self.ignore_missing_slaves = ignore_missing_slaves
        self.broadcast_enable = (serial or broadcast_enable) and not self.framer.anonymous
        self.report = report
        self.trace_pdu = trace_pdu
        self.traced = trace_pdu is not None
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
        free(self.buffer)
        free(self.out)

    # ---- the Python face --------------------------------------------------------------------------------------------------------------

    def receive(self, data, double now):
        """Take ``data``, however it is cut, and return the replies to all requests that it completes, in order; b"" where there is none.

        :param now: seconds of a monotonic clock
        """
        cdef bytes held = data if type(data) is bytes else bytes(memoryview(data))
        cdef const uint8_t* at = <const uint8_t*> PyBytes_AsString(held)
        cdef const uint8_t* end = at + len(held)
        cdef size_t part
        self.initialised()
        self.last = now
        self.quiet = False
        while at < end and not self.closing:
            if not self.held:
                self.run(at, end)
                at = end
            else:
                part = min(<size_t> (end - at), <size_t> (BUFFER - self.held))
                memcpy(self.buffer + self.held, at, part)
                at += part
                self.run(self.buffer, self.buffer + self.held + part)
        return self.taken()

    def deadline(self):
        """Return when :meth:`expire` wants to be called, on the clock of ``now``; None where no partial frame waits."""
        self.initialised()
        if not self.held or not self.framer.patience:
            return None
        return self.last + (self.framer.gap if self.framer.gap and not self.quiet else self.framer.patience)

    def expire(self, double now):
        """Silence has come: answer the frame that ends with it, in the end discard what is left, and return the replies."""
        cdef int start
        self.initialised()
        if self.held and self.framer.gap and not self.quiet and now >= self.last + self.framer.gap:
            # The end of a frame, wherever it began, unless the rest of it is only late: a gap never splits a complete frame.
            self.quiet = True
            start = self.framer.find_last(self.buffer, self.held)
            if start >= 0:
                if start:
                    self.count_damage()
                self.finish(start)
        if self.held and self.framer.patience and now >= self.last + self.framer.patience:
            if self.framer.gap:
                # Nothing in it was said to anyone for sure.
                self.count_damage()
                self.held = 0
            else:
                self.finish(0)
            self.in_noise = False
        return self.taken()

    cdef int finish(self, int start) except -1:
        """Take what stands in the buffer from `start` on: nothing more belongs to it."""
        self.final = True
        self.run(self.buffer + start, self.buffer + self.held)
        self.final = False
        return 0

    def datagram(self, data):
        """Take one datagram, which holds one ADU, and return its reply. One of another length is discarded, and nothing else is (TG)."""
        cdef frame_t frame
        cdef bytes held = data if type(data) is bytes else bytes(memoryview(data))
        cdef const uint8_t* at = <const uint8_t*> PyBytes_AsString(held)
        cdef Py_ssize_t length = len(held)
        self.initialised()
        memset(&frame, 0, sizeof(frame))
        self.framer.delimiter = self.control.control.delimiter
        if 0 < length <= self.framer.longest:
            if self.framer.find(at, <int> length, True, &frame) == FOUND and frame.consumed == length:
                self.final = True
                self.run(at, at + length)
                self.final = False
            elif frame.damaged:
                self.count_damage()
                self.in_noise = False
        return self.taken()

    def reset(self):
        """Forget a partial frame and replies not handed out: the line was opened anew."""
        self.held = 0
        self.out_length = 0
        self.in_noise = False
        self.closing = False

    cdef int initialised(self) except -1:
        if self.framer is None:
            raise TypeError("this session was made without __init__")
        return 0

    cdef bytes taken(self):
        cdef bytes replies
        if not self.out_length:
            return b""
        replies = PyBytes_FromStringAndSize(<char*> self.out, self.out_length)
        self.out_length = 0
        if self.out_room > OUT_KEPT:
            free(self.out)
            self.out = NULL
            self.out_room = 0
        return replies

    cdef int run(self, const uint8_t* at, const uint8_t* end) except -1:
        """Let the loop go over the bytes from `at` to `end`, seeing to Python where it stops, and keep the partial frame that is left."""
        cdef int fed
        self.at = at
        self.end = end
        while True:
            # The GIL stays: the loop takes less time than giving it away and getting it back.
            fed = self.feed()
            if fed == FED:
                break
            if fed == PYTHON:
                fed = self.answer_in_python()
            if fed == OBSERVE:
                self.tell_observers()
        if self.at < self.end and self.buffer == NULL:
            self.buffer = <uint8_t*> malloc(BUFFER)
            if self.buffer == NULL:
                raise MemoryError()
        self.held = <int> (self.end - self.at)
        if self.held:
            memmove(self.buffer, self.at, self.held)
        return 0

    # ---- the loop, without the GIL ----------------------------------------------------------------------------------------------------

    cdef int feed(self) noexcept nogil:
        """Answer the frames from `at` on, until more bytes are needed or Python is."""
        cdef frame_t* frame = &self.exchange.frame
        cdef int found, answered
        while self.at < self.end:
            self.framer.delimiter = self.control.control.delimiter
            found = self.framer.find(self.at, <int> min(self.end - self.at, <ptrdiff_t> LONGEST_ADU), self.final, frame)
            if found == MORE:
                return FED
            if found == CLOSE:
                self.closing = True
                self.at = self.end
                return FED
            self.at += frame.consumed
            if found == DROP:
                if frame.damaged:
                    self.count_damage()
                continue
            self.in_noise = False
            if self.serial:
                self.drop_reply()
            answered = self.answer()
            if answered != FED:
                return answered
        return FED

    cdef void drop_reply(self) noexcept nogil:
        # Another frame follows: whoever asked before has given up, and a reply now would collide (SL 2.4.1).
        cdef control_t* control = &self.control.control
        if self.out_length:
            self.out_length = 0
            lock_image()
            control.counters[SERVER_NO_RESPONSE] += 1
            unlock_image()

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
        return not frame.response and (
            self.store.units.by_id[frame.unit_id] != NULL or not self.serial or self.broadcast_enable and not frame.unit_id
        )

    cdef int admit(self) noexcept nogil:
        """Count the frame, pass the unit gate, decode, execute. DONE: `refused` is the outcome."""
        cdef exchange_t* exchange = &self.exchange
        cdef control_t* control = &self.control.control
        cdef const units_t* units = &self.store.units
        cdef uint8_t unit_id = exchange.frame.unit_id
        cdef unit_t* unit = units.by_id[unit_id]
        control.counters[BUS_MESSAGE] += 1
        if exchange.frame.response:
            return NOTHING
        exchange.broadcast = self.broadcast_enable and unit_id == 0
        exchange.silent = exchange.broadcast or control.listen_only
        exchange.ready = 0
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
        memset(self.executed, 0, sizeof(self.executed))
        exchange.refused = ILLEGAL_FUNCTION
        if writes(exchange.request.function_code):
            for unit_id in range(256):
                if units.by_id[unit_id] != NULL and needs_python(units.by_id[unit_id], exchange.request.function_code):
                    return PYTHON
            for unit_id in range(256):
                if units.by_id[unit_id] == NULL or units.by_id[unit_id] == units.only and unit_id != units.only_id:
                    continue
                self.note_outcome(unit_id, execute(
                    units.by_id[unit_id], &self.control.control, &exchange.request, &exchange.response, self.data_place()
                ))
        return DONE

    cdef void note_outcome(self, int unit_id, int outcome) noexcept nogil:
        # A broadcast is refused only where every unit refuses it.
        if not outcome:
            self.executed[unit_id >> 3] |= <uint8_t> (1 << (unit_id & 7))
            self.exchange.refused = 0
        elif self.exchange.refused:
            self.exchange.refused = outcome

    cdef void settle(self) noexcept nogil:
        """Count the outcome, with the image locked."""
        cdef exchange_t* exchange = &self.exchange
        cdef control_t* control = &self.control.control
        exchange.silent = exchange.silent or control.listen_only
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
        if self.store.units.observed and not exchange.refused and writes(exchange.request.function_code):
            return OBSERVE
        return FED

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
        """Go on where `admit` said PYTHON."""
        cdef exchange_t* exchange = &self.exchange
        cdef int outcome
        if exchange.custom:
            self.answer_custom()
        elif exchange.broadcast:
            for unit_id, context in self.store:
                outcome = execute_in_python(context, &exchange.request, &exchange.response, self.data_place(), self.report)
                self.note_outcome(unit_id, outcome)
        else:
            context = self.store.context_of(exchange.frame.unit_id)
            exchange.refused = execute_in_python(context, &exchange.request, &exchange.response, self.data_place(), self.report)
        lock_image()
        self.settle()
        unlock_image()
        return self.conclude()

    cdef int answer_custom(self) except -1:
        """Have the user's class answer; a broadcast goes to every unit."""
        from mbcore.messages.custom import execute_custom
        cdef exchange_t* exchange = &self.exchange
        cdef frame_t* frame = &exchange.frame
        cdef uint8_t* place = self.out + self.out_length + self.framer.head
        pdu = frame.pdu[:frame.pdu_length]
        contexts = [context for _, context in self.store] if exchange.broadcast else [self.store.context_of(frame.unit_id)]
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
        cdef exchange_t* exchange = &self.exchange
        cdef int unit_id = exchange.frame.unit_id
        if not exchange.broadcast:
            return notify(self.store, unit_id, &exchange.request, &exchange.response, self.report)
        for unit_id in range(256):
            if self.executed[unit_id >> 3] >> (unit_id & 7) & 1:
                if exchange.request.function_code == MASK_WRITE_REGISTER:
                    # Every unit has its own result.
                    exchange.response.value = value_of(self.store[unit_id], exchange.request.address, self.report)
                notify(self.store, unit_id, &exchange.request, &exchange.response, self.report)
        return 0

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
