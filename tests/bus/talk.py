"""What is said on a line, from the text of the specification alone: requests of every function code, and right answers to them.

Payloads of other units may hold frames that are valid requests for ours: what is only quoted must not be executed.
"""

from adu import crc16, response_size, words

REQUESTS_OF_OTHERS = (1, 2, 3, 3, 4, 4, 5, 6, 7, 8, 11, 12, 15, 16, 16, 17, 20, 21, 22, 23, 24, 43)
UNKNOWN = (0x41, 0x64, 0x6E)  # AP 5: user defined; how long they are only their users know
OBJECT_ID = 0x80  # 43/14: the first of the device's own objects

# crc16 of one byte is the table's entry for that byte and the start value's; with it a million frames take no time.
CRC = [crc16(bytes([byte ^ 0xFF])) ^ 0xFF for byte in range(256)]


def crc(data):
    register = 0xFFFF
    for byte in data:
        register = register >> 8 ^ CRC[(register ^ byte) & 0xFF]
    return register.to_bytes(2, "little")


def frame(pdu, unit):
    body = bytes([unit]) + pdu
    return body + crc(body)


def is_frame(data):
    return 4 <= len(data) <= 256 and crc(data[:-2]) == data[-2:]


def answer_length(request, heard):
    """Length of the response frame at the head of `heard` to the PDU `request`, None where more has to be heard or nothing tells it."""
    if len(heard) < 2:
        return None
    if heard[1] in UNKNOWN or (heard[1] == 43 and request[1] != 14):
        return None
    if request[0] in (8, 21) and heard[1] == request[0]:
        return 3 + len(request)
    try:
        return 3 + response_size(heard[1:])
    except (IndexError, AssertionError):
        return None


class Talk:
    """Makes up what others say.

    :param quoting: the share of payloads that hold one of `quotes`, frames that must be taken for what they are: data
    :param unknown: the share of requests with a function code whose length nobody but its user knows
    """

    def __init__(self, rng, quotes=(), quoting=0.0, unknown=0.0):
        self._rng, self._quotes, self._quoting, self._unknown = rng, quotes, quoting, unknown

    def payload(self, size):
        """`size` bytes, the quote at their start, at their end or anywhere."""
        rng = self._rng
        data = rng.randbytes(size)
        if self._quotes and rng.random() < self._quoting:
            quote = rng.choice(self._quotes)
            room = size - len(quote)
            if room >= 0:
                place = rng.choice((0, room, rng.randint(0, room)))
                data = data[:place] + quote + data[place + len(quote) :]
        return data

    def _size(self, most):
        # Mostly short, now and then as long as it may be.
        return self._rng.randint(1, min(most, 16)) if self._rng.random() < 0.95 else self._rng.randint(1, most)

    def request(self):
        """A request PDU for another unit."""
        rng = self._rng
        address = rng.randrange(0x10000)
        if rng.random() < self._unknown:
            if rng.random() < 0.2:
                return b"\x2b\x0d" + self.payload(self._size(60))
            return bytes([rng.choice(UNKNOWN)]) + self.payload(self._size(100))
        code = rng.choice(REQUESTS_OF_OTHERS)
        match code:
            case 1 | 2:
                return bytes([code]) + words(address, 8 * self._size(250))
            case 3 | 4:
                return bytes([code]) + words(address, self._size(125))
            case 5:
                return b"\x05" + words(address, rng.choice((0, 0xFF00)))
            case 6:
                return b"\x06" + words(address, rng.randrange(0x10000))
            case 8:
                return b"\x08\0\0" + self.payload(2 * self._size(20) if rng.random() < 0.3 else 2)
            case 15:
                data = self.payload(self._size(246))
                return b"\x0f" + words(address, 8 * len(data)) + bytes([len(data)]) + data
            case 16:
                data = self.payload(2 * self._size(123))
                return b"\x10" + words(address, len(data) // 2) + bytes([len(data)]) + data
            case 20:
                return b"\x14\x07\x06" + words(rng.randint(1, 9), rng.randrange(100), self._size(60))
            case 21:
                data = self.payload(2 * self._size(60))
                return b"\x15" + bytes([7 + len(data)]) + b"\x06" + words(rng.randint(1, 9), rng.randrange(100), len(data) // 2) + data
            case 22:
                return b"\x16" + words(address, rng.randrange(0x10000), rng.randrange(0x10000))
            case 23:
                data = self.payload(2 * self._size(121))
                return b"\x17" + words(address, self._size(125), address, len(data) // 2) + bytes([len(data)]) + data
            case 24:
                return b"\x18" + words(address)
            case 43:
                return b"\x2b\x0e\x04" + bytes([OBJECT_ID])
        return bytes([code])

    def answer(self, request):
        """A right response to `request`, an exception now and then."""
        rng, code = self._rng, request[0]
        if rng.random() < 0.05:
            return bytes([code | 0x80, rng.choice((1, 2, 3, 4, 6))])
        match code:
            case 1 | 2:
                size = (int.from_bytes(request[3:5]) + 7) // 8
                return bytes([code, size]) + self.payload(size)
            case 3 | 4 | 23:
                size = 2 * int.from_bytes(request[3:5])
                return bytes([code, size]) + self.payload(size)
            case 7:
                return b"\x07" + self.payload(1)
            case 11:
                return b"\x0b\0\0" + self.payload(2)
            case 12:
                log = self.payload(self._size(64))
                return b"\x0c" + bytes([6 + len(log)]) + b"\0\0" + words(rng.randrange(100), rng.randrange(100)) + log
            case 15 | 16:
                return request[:5]
            case 17:
                data = self.payload(self._size(60))
                return b"\x11" + bytes([2 + len(data)]) + b"\x2a\xff" + data
            case 20:
                size = 2 * int.from_bytes(request[7:9])
                return bytes([0x14, 2 + size, 1 + size, 6]) + self.payload(size)
            case 24:
                data = self.payload(2 * self._size(31))
                return b"\x18" + words(2 + len(data), len(data) // 2) + data
            case 43 if request[1] == 14:
                text = self.payload(self._size(60))
                return b"\x2b\x0e\x04\x83\0\0\x01" + bytes([OBJECT_ID, len(text)]) + text
            case 43:
                return b"\x2b\x0d" + self.payload(self._size(60))
            case _ if code in UNKNOWN:
                return bytes([code]) + self.payload(self._size(100))
        return request
