"""The framer contract: delimit, check, wrap. Knows no store and no time.

`find` is given a buffer and says FOUND, MORE, DROP or CLOSE of its head; consumed bytes are gone. Given as many bytes as the longest ADU it
never says MORE. Nothing that a peer sends raises.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize

from mbcore.constants cimport *

from mbcore.errors import ConfigurationError, FramingError

cdef class Framer:
    """Base of the framers; each delimits and checks the frames of one transport, and wraps replies.

    All of it is compiled. For a script that takes frames apart itself, :mod:`mbcore.framer.face` has them with pymodbus' methods.
    """

    def __cinit__(self, *args, **kwargs):
        self.delimiter = b"\n"

    cdef int find(self, const uint8_t* data, int length, bint final, frame_t* frame) noexcept nogil:
        frame.consumed = length
        return DROP

    cdef int find_last(self, const uint8_t* data, int length) noexcept nogil:
        return -1

    cdef int wrap(self, const frame_t* frame, uint8_t* adu, int pdu_length) noexcept nogil:
        return 0


def build_adu(Framer framer not None, pdu, unit_id, transaction_id=0, protocol_id=0):
    """Return the ADU of ``pdu``, 1..253 bytes, as bytes.

    :param framer: a framer
    :param unit_id: 0..255; a framer that carries none leaves it out
    :param transaction_id: 0..65535; like ``protocol_id``, used on TCP only
    :raises ConfigurationError: a value is out of its range
    """
    cdef frame_t frame
    cdef uint8_t[LONGEST_ADU] adu
    cdef bytes held = bytes(memoryview(pdu))
    for what, value, high in (("unit", unit_id, 0xFF), ("transaction", transaction_id, 0xFFFF), ("protocol", protocol_id, 0xFFFF)):
        if not 0 <= value <= high:
            raise ConfigurationError(f"the {what} id {value!r} is not in 0..{high}")
    if not 1 <= len(held) <= MAX_PDU:
        raise ConfigurationError(f"a PDU has 1..253 bytes, not {len(held)}")
    memset(&frame, 0, sizeof(frame))
    frame.unit_id = unit_id
    frame.transaction_id = transaction_id
    frame.protocol_id = protocol_id
    memcpy(adu + framer.head, PyBytes_AsString(held), len(held))
    return PyBytes_FromStringAndSize(<char*> adu, framer.wrap(&frame, adu, <int> len(held)))


def build_request(framer, pdu, unit_id, transaction_id=0):
    """Return the ADU of the request ``pdu``; ``framer`` is a framer class, the rest as for :func:`build_adu`."""
    return build_adu(framer(), pdu, unit_id, transaction_id)


def first_frame(Framer framer not None, data):
    """Look in ``data`` for the first whole, undamaged frame, of a master or of a slave, of any protocol id.

    Returns (bytes before it, its bytes, unit id, transaction id, protocol id, PDU). The PDU is None where there is no frame yet: the bytes
    before it are then those that can't become one.
    """
    cdef bytes held = data if isinstance(data, bytes) else bytes(memoryview(data))
    cdef const uint8_t* at = <const uint8_t*> PyBytes_AsString(held)
    cdef Py_ssize_t length = len(held), start = 0
    cdef frame_t frame
    cdef int found
    # A script may be at either end of the line, and whose protocol it is it sees itself.
    framer.line = True
    framer.any_protocol = True
    memset(&frame, 0, sizeof(frame))
    while start < length:
        found = framer.find(at + start, <int> min(length - start, <Py_ssize_t> LONGEST_ADU), False, &frame)
        if found == FOUND:
            return start, frame.consumed, frame.unit_id, frame.transaction_id, frame.protocol_id, frame.pdu[:frame.pdu_length]
        if found == MORE:
            break
        start = length if found == CLOSE else start + frame.consumed
    return start, 0, 0, 0, 0, None


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
