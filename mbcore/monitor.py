"""What both sides say on a serial line: bytes and the time in, frames out. It only hears, and knows no port.

A frame is as long as its function says, as a request or as a response; the checksum decides. Where both fit, what was asked last decides.
"""

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from mbcore.checksum import crc16
from mbcore.codec import decode_request, decode_response, request_length, response_length
from mbcore.constants import DiagnosticCode, FunctionCode, Limit
from mbcore.errors import ConfigurationError, FramingError, RequestError
from mbcore.framer import Framer, ModbusAsciiFramer, ModbusBinaryFramer, ModbusRtuFramer
from mbcore.framer.base import first_frame

SHORTEST_RTU = 4  # unit id, function code, CRC
AROUND_PDU = 3
LATE = 0.020  # USB adapters deliver what belongs together that late, seconds
PATIENCE = {ModbusRtuFramer: 0.05, ModbusAsciiFramer: 1.0, ModbusBinaryFramer: 0.5}  # for the rest of a frame, seconds
KNOWN = frozenset(FunctionCode)
ECHOED = (5, 6, 21, 22)  # an answer repeats its request


@dataclass(frozen=True, slots=True)
class Frame:
    """A request, a response, or bytes that are neither. Times are seconds of the clock that :class:`Monitor` was given."""

    kind: Literal["request", "response", "bad"]
    #: when its first byte began
    start: float
    #: when its last byte was there
    end: float
    #: the silence before it; None before the first
    gap: float | None
    #: the bytes of the line
    raw: bytes
    unit: int | None = None
    pdu: bytes = b""
    #: as :func:`mbcore.codec.decode_request` and ``decode_response`` name them; None where the PDU is not valid
    fields: dict[str, Any] | None = None
    #: why it is not: the exception code that the request deserves
    refused: int | None = None
    #: of a response: the request that it answers
    request: "Frame | None" = None

    @property
    def response_time(self) -> float | None:
        """Seconds from the request's last byte to the response's first; None where nothing was asked."""
        return max(0.0, self.start - self.request.end) if self.request else None


@dataclass(slots=True)
class Tally:
    """What happened between the master and one unit."""

    requests: int = 0
    answers: int = 0
    exceptions: int = 0
    #: requests that nothing followed in time
    unanswered: int = 0
    #: requests that only a damaged frame followed
    damaged: int = 0
    #: responses to nothing that was heard
    unasked: int = 0
    #: response times: how many, their sum, the least and the greatest, seconds
    timed: int = 0
    total_time: float = 0.0
    shortest: float = 0.0
    longest: float = 0.0

    @property
    def mean(self) -> float:
        """The mean response time in seconds, 0 where there was none."""
        return self.total_time / self.timed if self.timed else 0.0

    def note(self, seconds: float) -> None:
        self.shortest = min(self.shortest, seconds) if self.timed else seconds
        self.longest = max(self.longest, seconds)
        self.total_time += seconds
        self.timed += 1


class _Found(NamedTuple):
    """A whole frame at the head of what is not skipped."""

    size: int
    unit: int
    pdu: bytes
    reply: bool


class _Chunk(NamedTuple):
    """What came at once: counted from the first byte of all."""

    first: int
    end: int
    start_time: float
    end_time: float


class Monitor:
    """Takes a line apart. Nothing that comes in raises.

    :param framer: ModbusRtuFramer, ModbusAsciiFramer or ModbusBinaryFramer
    :param character_time: seconds that a character takes, to tell when each byte of a chunk came; 0: when the chunk came
    :param frame_gap: seconds of silence that part two RTU frames (t3.5)
    :param timeout: seconds after which a request counts as not answered
    :raises ConfigurationError: another framer, which serial lines don't have
    """

    def __init__(
        self, framer: type[Framer] = ModbusRtuFramer, *, character_time: float = 0.0, frame_gap: float = 0.00175, timeout: float = 1.0
    ) -> None:
        if framer not in PATIENCE:
            raise ConfigurationError(f"{framer!r} frames no serial line; use ModbusRtuFramer, ModbusAsciiFramer or ModbusBinaryFramer")
        #: unit id -> its :class:`Tally`
        self.units: dict[int, Tally] = {}
        self.damaged_frames = 0
        self.discarded_bytes = 0
        self._framer = None if framer is ModbusRtuFramer else framer()
        self._character_time = character_time
        self._frame_gap = frame_gap
        self._timeout = timeout
        self._patience = max(PATIENCE[framer], frame_gap)
        self._settled = max(LATE, frame_gap)
        self._buffer = bytearray()
        # How many bytes at the buffer's head are no frame's.
        self._skipped = 0
        # How many bytes came before the buffer's first.
        self._origin = 0
        self._chunks: list[_Chunk] = []
        # Where t3.5 or more of silence was, counted from the first byte of all, and how long it was.
        self._silences: dict[int, float] = {}
        self._partial = False
        self._last: Frame | None = None
        self._asked: Frame | None = None
        # Whether bytes that are no frame came since.
        self._disturbed = False

    def receive(self, data: bytes, now: float) -> list[Frame]:
        """Take what came in until ``now`` and return the frames that are whole by it."""
        if not data:
            return []
        first = self._origin + len(self._buffer)
        heard = self._chunks[-1].end_time if self._chunks else self._last.end if self._last else -float("inf")
        start = max(heard, now - len(data) * self._character_time)
        if start - heard >= self._frame_gap:
            self._silences[first] = start - heard
        if not self._buffer:
            self._give_up(start)
        self._chunks.append(_Chunk(first, first + len(data), start, max(now, start)))
        self._buffer += data
        return self._take(final=False)

    def deadline(self) -> float | None:
        """When :meth:`expire` is to be called, None: not before more bytes have come."""
        if self._buffer:
            whole = self._skipped == len(self._buffer) or not self._partial
            return self._chunks[-1].end_time + (self._settled if whole else self._patience)
        return self._asked.end + self._timeout if self._asked else None

    def expire(self, now: float) -> list[Frame]:
        """Say that nothing came in until ``now``; returns the frames that silence has ended."""
        due = self.deadline()
        if due is None or now < due:
            return []
        frames = self._take(final=True)
        self._give_up(now)
        return frames

    def finish(self) -> list[Frame]:
        """Nothing more will come: return what is left."""
        return self._take(final=True)

    # ---- frames out of bytes ----

    def _take(self, final: bool) -> list[Frame]:
        frames = []
        while self._buffer:
            found = self._find_rtu(final) if self._framer is None else self._find_delimited(self._framer)
            if final and not found:
                self._skipped = len(self._buffer)
            if self._skipped and (found or final or self._skipped > Limit.MAX_ADU_ASCII):
                frames.append(self._bad())
            if not found:
                break
            frames.append(self._good(found))
        return frames

    def _find_delimited(self, framer: Framer) -> _Found | None:
        held = bytes(self._buffer[self._skipped :])
        before, size, unit_id, _, _, pdu = first_frame(framer, held)
        self._skipped += before
        self._partial = True
        if pdu is None:
            return None
        lengths = (len(pdu), -1)
        reply = self._is_reply(unit_id, pdu, request_length(pdu) in lengths, response_length(pdu) in lengths)
        return _Found(size, unit_id, pdu, reply)

    def _find_rtu(self, final: bool) -> _Found | None:
        start = self._skipped
        size, reply = self._rtu_at(start, final)
        if size <= 0:
            self._partial = not size
            end = len(self._buffer) if final or self._goes_on_after(start) else len(self._buffer) - 2 * Limit.MAX_ADU_RTU
            while size <= 0 and self._skipped < end:
                self._skipped += 1
                if self._skipped < len(self._buffer):
                    size, reply = self._rtu_at(self._skipped, final)
        if size <= 0:
            return None
        at = self._skipped
        return _Found(size, self._buffer[at], bytes(self._buffer[at + 1 : at + size - 2]), reply)

    def _goes_on_after(self, start: int) -> bool:
        """Whether a frame stands behind a silence that can't be one inside of the frame at `start`."""
        enough = LATE if self._partial else self._frame_gap
        return any(self._told_at(at, False)[0] > 0 for at in self._silent_places(start)[-8:] if self._silences[self._origin + at] >= enough)

    def _silent_places(self, start: int) -> list[int]:
        """Where in the buffer, behind `start` and not too far for a frame, a silence was."""
        return [at - self._origin for at in self._silences if start < at - self._origin <= start + Limit.MAX_ADU_RTU]

    def _rtu_at(self, start: int, final: bool) -> tuple[int, bool]:
        """The frame that begins there: (length, whether it is a response). The length is 0 where it needs more bytes, -1 for none."""
        size, reply = self._told_at(start, final)
        # Where more of what was asked for has to come, no request can stand in its beginning.
        if size > 0 or reply or (start and self._origin + start not in self._silences):
            return size, reply
        if untold := self._untold_at(start, final):
            return untold, self._is_reply(self._buffer[start], bytes(self._buffer[start + 1 : start + untold - 2]), True, True)
        return size, reply

    def _told_at(self, start: int, final: bool) -> tuple[int, bool]:
        """As `_rtu_at`, by what the function says of its length. (0, True): a response that was asked for needs more bytes."""
        head = bytes(self._buffer[start : start + Limit.MAX_ADU_RTU])
        unit, pdu = head[0], head[1:]
        sizes: dict[bool, int] = {}
        waiting = not pdu
        for reply in (True, False) if pdu else ():
            said = (response_length if reply else request_length)(pdu)
            size = AROUND_PDU + (said or Limit.MAX_PDU)
            if said == -1:
                continue
            if said is None or len(head) < size <= Limit.MAX_ADU_RTU:
                if reply and not final and self._answers(unit, pdu):
                    return 0, True
                waiting = True
            elif size <= Limit.MAX_ADU_RTU and not crc16(head[:size]):
                sizes[reply] = size
        if sizes and (pdu[0] & 0x7F in KNOWN or not start or self._origin + start in self._silences):
            reply = self._is_reply(unit, pdu, False in sizes, True in sizes)
            return sizes[reply], reply
        return 0 if waiting and not final else -1, False

    def _untold_at(self, start: int, final: bool) -> int:
        """The length of the frame there whose function does not say it, or not this one: silence ends it, and the checksum is right."""
        ends = self._silent_places(start) + [len(self._buffer)] * final
        for end in ends:
            if SHORTEST_RTU <= end - start <= Limit.MAX_ADU_RTU and not crc16(self._buffer[start:end]):
                return end - start
        return _first_size(bytes(self._buffer[: ends[0]])) if ends and not start else 0

    # ---- who speaks ----

    def _is_reply(self, unit: int, pdu: bytes, as_request: bool, as_response: bool) -> bool:
        """Whether it is a response, where its length and form fit the one, the other, both or neither."""
        if pdu[0] & 0x80:
            return True
        return as_response if as_request != as_response else not self._disturbed and self._answers(unit, pdu)

    def _answers(self, unit: int, pdu: bytes) -> bool:
        """Whether this, or the beginning of it, is what the last request asks for."""
        asked = self._asked
        if not asked or unit != asked.unit or pdu[0] & 0x7F != asked.pdu[0]:
            return False
        quantity = asked.fields.get("quantity", 0) if asked.fields else 0
        match pdu[0]:
            case FunctionCode.READ_COILS | FunctionCode.READ_DISCRETE_INPUTS:
                return pdu[1:2] in (b"", bytes([(quantity + 7) // 8]))
            case FunctionCode.READ_HOLDING_REGISTERS | FunctionCode.READ_INPUT_REGISTERS | FunctionCode.READ_WRITE_MULTIPLE_REGISTERS:
                return pdu[1:2] in (b"", bytes([2 * quantity]))
            case FunctionCode.DIAGNOSTICS:
                return asked.pdu.startswith(pdu[1:3], 1)
            case FunctionCode.WRITE_MULTIPLE_COILS | FunctionCode.WRITE_MULTIPLE_REGISTERS:
                return asked.pdu.startswith(pdu[1:5], 1)
            case code if code in ECHOED:
                return pdu.startswith(asked.pdu) or asked.pdu.startswith(pdu)
        return True

    def _good(self, found: _Found) -> Frame:
        start, end, gap, raw = self._cut(found.size)
        tally = self.units.setdefault(found.unit, Tally())
        frame = Frame("response" if found.reply else "request", start, end, gap, raw, found.unit, found.pdu, *_decoded(found))
        if found.reply:
            frame = self._heard_response(frame, tally)
        else:
            self._close()
            tally.requests += 1
            self._asked = frame if found.unit and not _silencing(frame) else None
        self._last = frame
        return frame

    def _heard_response(self, frame: Frame, tally: Tally) -> Frame:
        asked = self._asked
        if not asked or asked.unit != frame.unit or asked.pdu[0] != frame.pdu[0] & 0x7F:
            tally.unasked += 1
            return frame
        self._asked = None
        self._disturbed = False
        if frame.pdu[0] & 0x80:
            tally.exceptions += 1
        else:
            tally.answers += 1
        fields = frame.fields
        if fields and "bits" in fields and asked.fields:
            # As many as were asked for; the bytes hold a few more.
            fields = fields | {"bits": fields["bits"][: asked.fields["quantity"]]}
        frame = replace(frame, fields=fields, request=asked)
        tally.note(frame.response_time or 0.0)
        return frame

    def _bad(self) -> Frame:
        start, end, gap, raw = self._cut(self._skipped)
        self._skipped = 0
        self.discarded_bytes += len(raw)
        if len(raw) >= SHORTEST_RTU:
            self.damaged_frames += 1
            self._disturbed = True
        self._last = Frame("bad", start, end, gap, raw)
        return self._last

    def _give_up(self, now: float) -> None:
        """Wait no longer than the time-out for an answer."""
        if self._asked and now >= self._asked.end + self._timeout:
            self._close()

    def _close(self) -> None:
        """No answer has come to what was asked, or none was to come."""
        if self._asked and self._asked.unit is not None:
            tally = self.units[self._asked.unit]
            if self._disturbed:
                tally.damaged += 1
            else:
                tally.unanswered += 1
        self._asked = None
        self._disturbed = False

    # ---- when ----

    def _cut(self, size: int) -> tuple[float, float, float | None, bytes]:
        """Take so many bytes off the buffer: (start, end, silence before, bytes)."""
        start, end = self._began(self._origin), self._ended(self._origin + size - 1)
        raw = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._origin += size
        while self._chunks and self._chunks[0].end <= self._origin:
            self._chunks.pop(0)
        self._silences = {at: seconds for at, seconds in self._silences.items() if at > self._origin}
        return start, end, max(0.0, start - self._last.end) if self._last else None, raw

    def _chunk_of(self, byte: int) -> _Chunk:
        return self._chunks[bisect_right(self._chunks, byte, key=lambda chunk: chunk.end)]

    def _began(self, byte: int) -> float:
        return max(self._chunk_of(byte).start_time, self._ended(byte) - self._character_time)

    def _ended(self, byte: int) -> float:
        chunk = self._chunk_of(byte)
        return max(chunk.start_time, chunk.end_time - (chunk.end - 1 - byte) * self._character_time)


def _first_size(data: bytes) -> int:
    """The length of the first of the frames that `data` is made of, by nothing but their checksums; 0 where it is not."""
    longest: int = Limit.MAX_ADU_RTU
    for size in range(SHORTEST_RTU, min(len(data), longest) + 1):
        if not crc16(data[:size]) and (size == len(data) or _first_size(data[size:])):
            return size
    return 0


def _silencing(frame: Frame) -> bool:
    """Whether it is a request that no unit answers (AP 6.8, 04)."""
    return frame.pdu[:1] == b"\x08" and (frame.fields or {}).get("sub_function") == DiagnosticCode.FORCE_LISTEN_ONLY_MODE


def _decoded(found: _Found) -> tuple[dict[str, Any] | None, int | None]:
    try:
        return (decode_response(found.pdu) if found.reply else decode_request(found.pdu)), None
    except RequestError as error:
        return None, error.exception_code
    except FramingError:
        return None, None
