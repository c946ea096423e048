"""The framer contract: delimit, check, wrap. Knows no store and no time.

`find` is given a buffer and says FOUND, MORE, DROP or CLOSE of its head; consumed bytes are gone. Given as many bytes as the longest ADU it
never says MORE. Nothing that a peer sends raises.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize

from mbcore.constants cimport *

from mbcore.errors import ConfigurationError, FramingError

# What a script may leave untaken, bytes.
cdef enum:
    MAX_PENDING = 65536


cdef class Framer:
    """Base of the framers; each delimits and checks the frames of one transport, and wraps replies.

    The methods below are pymodbus' own, for a script that takes frames apart itself; a server does not use them.

    :param decoder: what :meth:`processIncomingPacket` decodes with, a ServerDecoder or ClientDecoder
    :param client: accepted for pymodbus' callers, not used
    """

    def __init__(self, decoder=None, client=None):
        self.delimiter = b"\n"
        self.decoder = decoder
        self.pending = b""

    cdef int find(self, const uint8_t* data, int length, bint final, frame_t* frame) noexcept nogil:
        frame.consumed = length
        return DROP

    cdef int find_last(self, const uint8_t* data, int length) noexcept nogil:
        return -1

    cdef int wrap(self, const frame_t* frame, uint8_t* adu, int pdu_length) noexcept nogil:
        return 0

    def addToFrame(self, message):
        """Put ``message``, bytes off the wire, behind what is there; beyond 64 KiB the oldest bytes are lost."""
        self.pending = (self.pending + bytes(memoryview(message)))[-MAX_PENDING:]
        self.pdu = None

    def checkFrame(self):
        """Return whether a whole, undamaged frame is there; what stands before it is dropped."""
        cdef int found, length
        # A script may be at either end of the line, and whose protocol it is it sees itself.
        self.line = True
        self.any_protocol = True
        while self.pdu is None and self.pending:
            length = min(len(self.pending), LONGEST_ADU)
            found = self.find(<const uint8_t*> PyBytes_AsString(self.pending), length, False, &self.frame)
            if found == FOUND:
                self.pdu = self.frame.pdu[:self.frame.pdu_length]
            elif found == DROP:
                self.pending = self.pending[self.frame.consumed:]
            elif found == CLOSE:
                self.pending = b""
            else:
                break
        return self.pdu is not None

    def isFrameReady(self):
        """Return whether a frame is there; the same as :meth:`checkFrame`."""
        return self.checkFrame()

    def advanceFrame(self):
        """Drop the frame that :meth:`checkFrame` found."""
        if self.pdu is not None:
            self.pending = self.pending[self.frame.consumed:]
            self.pdu = None

    def getFrame(self):
        """Return the PDU of the frame that :meth:`checkFrame` found, b"" where there is none."""
        return self.pdu or b""

    def getRawFrame(self):
        """Return all bytes that were added and not yet dropped."""
        return self.pending

    def resetFrame(self):
        """Drop all bytes."""
        self.pending = b""
        self.pdu = None

    def populateResult(self, result):
        """Set ``unit_id``, ``transaction_id`` and ``protocol_id`` of the message ``result`` from the frame's head."""
        result.unit_id = self.frame.unit_id
        result.transaction_id = self.frame.transaction_id
        result.protocol_id = self.frame.protocol_id

    def processIncomingPacket(self, data, callback, unit=(), single=False, **kwargs):
        """Add ``data`` and call ``callback(message)`` for every frame of one of the units.

        :param unit: a unit id or a list of them; where 0 or 255 is among them, or ``single`` is true, every unit's
        :raises ConfigurationError: the framer was made without a decoder
        """
        if self.decoder is None:
            raise ConfigurationError("this framer has no decoder: make it with decoder=ServerDecoder() or ClientDecoder()")
        units = list(unit) if isinstance(unit, (list, tuple, set, frozenset)) else [unit]
        everyone = single or not units or 0 in units or 0xFF in units
        self.addToFrame(data)
        while self.checkFrame():
            if everyone or self.anonymous or self.frame.unit_id in units:
                message = self.decoder.decode(self.pdu)
                if message is not None:
                    self.populateResult(message)
                    self.advanceFrame()
                    callback(message)
                    continue
            self.advanceFrame()

    def buildPacket(self, message):
        """Return the ADU around ``message``, an object with function_code, encode(), unit_id and transaction_id."""
        cdef frame_t frame
        cdef bytes held = bytes([message.function_code]) + message.encode()
        memset(&frame, 0, sizeof(frame))
        frame.unit_id = message.unit_id
        frame.transaction_id = message.transaction_id
        frame.protocol_id = message.protocol_id
        return wrapped(self, &frame, held)


cdef bytes wrapped(Framer framer, frame_t* frame, bytes pdu):
    cdef uint8_t[LONGEST_ADU] adu
    if not 1 <= len(pdu) <= MAX_PDU:
        raise ConfigurationError(f"a PDU has 1..253 bytes, not {len(pdu)}")
    memcpy(adu + framer.head, PyBytes_AsString(pdu), len(pdu))
    return PyBytes_FromStringAndSize(<char*> adu, framer.wrap(frame, adu, <int> len(pdu)))


def build_request(framer, pdu, unit_id, transaction_id=0):
    """Return the ADU of the request ``pdu`` as bytes.

    :param framer: a framer class
    :param unit_id: 0..255; a framer that carries none leaves it out
    :param transaction_id: 0..65535; used on TCP only
    :raises ConfigurationError: a value is out of its range
    """
    cdef Framer instance = framer()
    cdef frame_t frame
    if not 0 <= unit_id <= 0xFF:
        raise ConfigurationError(f"the unit id {unit_id!r} is not in 0..255")
    if not 0 <= transaction_id <= 0xFFFF:
        raise ConfigurationError(f"the transaction id {transaction_id!r} is not in 0..65535")
    memset(&frame, 0, sizeof(frame))
    frame.unit_id = unit_id
    frame.transaction_id = transaction_id
    return wrapped(instance, &frame, bytes(memoryview(pdu)))


def parse_response(framer, data):
    """Take the response ADU at the head of ``data`` apart: (unit id, transaction id, PDU, bytes consumed).

    None where more bytes are needed. What stands before the frame on a noisy line counts as consumed.

    :param framer: a framer class
    :raises FramingError: these bytes are no frame
    """
    cdef Framer instance = framer()
    cdef frame_t frame
    cdef bytes held = bytes(memoryview(data))
    cdef const uint8_t* at = <const uint8_t*> PyBytes_AsString(held)
    cdef int found, skipped = 0, length = <int> min(len(held), instance.longest + 1)
    instance.client = True
    if not held:
        return None
    memset(&frame, 0, sizeof(frame))
    found = instance.find(at, length, False, &frame)
    while found == DROP and not frame.damaged and skipped + frame.consumed < length:
        skipped += frame.consumed
        found = instance.find(at + skipped, length - skipped, False, &frame)
    if found == MORE:
        return None
    if found != FOUND:
        raise FramingError(f"{held[:32].hex(' ')} is no frame")
    return frame.unit_id, frame.transaction_id, frame.pdu[:frame.pdu_length], skipped + frame.consumed
