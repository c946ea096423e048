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

    :param decoder: accepted for pymodbus' callers, not used: lengths come from the codec
    :param client: likewise
    """

    def __init__(self, decoder=None, client=None):
        self.delimiter = b"\n"

    cdef int find(self, const uint8_t* data, int length, bint final, frame_t* frame) noexcept nogil:
        frame.consumed = length
        return DROP

    cdef int find_last(self, const uint8_t* data, int length) noexcept nogil:
        return -1

    cdef int wrap(self, const frame_t* frame, uint8_t* adu, int pdu_length) noexcept nogil:
        return 0


def build_request(framer, pdu, unit_id, transaction_id=0):
    """Return the ADU of the request ``pdu`` as bytes.

    :param framer: a framer class
    :param unit_id: 0..255; a framer that carries none leaves it out
    :param transaction_id: 0..65535; used on TCP only
    :raises ConfigurationError: a value is out of its range
    """
    cdef Framer instance = framer()
    cdef frame_t frame
    cdef uint8_t[LONGEST_ADU] adu
    cdef bytes held = bytes(pdu)
    if not 1 <= len(held) <= MAX_PDU:
        raise ConfigurationError(f"a PDU has 1..253 bytes, not {len(held)}")
    if not 0 <= unit_id <= 0xFF:
        raise ConfigurationError(f"the unit id {unit_id!r} is not in 0..255")
    if not 0 <= transaction_id <= 0xFFFF:
        raise ConfigurationError(f"the transaction id {transaction_id!r} is not in 0..65535")
    memset(&frame, 0, sizeof(frame))
    frame.unit_id = unit_id
    frame.transaction_id = transaction_id
    memcpy(adu + instance.head, PyBytes_AsString(held), len(held))
    return PyBytes_FromStringAndSize(<char*> adu, instance.wrap(&frame, adu, <int> len(held)))


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
