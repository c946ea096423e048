"""A master made of a bare socket: sends what it is told, however wrong, and takes answers apart by the MBAP header alone."""

import socket
import struct

PATIENCE = 10
READ_ONE = bytes.fromhex("03 0001 0001")
READ_ONE_ANSWER = bytes.fromhex("03 02 0103")


def adu(pdu, unit=1, transaction=0, protocol=0, length=None):
    """A PDU behind an MBAP header; `length` may lie."""
    return struct.pack(">HHHB", transaction, protocol, 1 + len(pdu) if length is None else length, unit) + pdu


def crc16(data):
    register = 0xFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0xA001 if register & 1 else 0)
    return register.to_bytes(2, "little")


def rtu(pdu, unit=1):
    body = bytes([unit]) + pdu
    return body + crc16(body)


class Connection:
    """How the connection of a subclass' `socket` ends. Usable as a context manager."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def is_closed(self):
        """Wait for the server to close the connection; whether it does so without a word."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def reset(self):
        """Drop the connection with a reset instead of a farewell."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Master(Connection):
    """One TCP connection."""

    def __init__(self, address, buffers=None):
        """:param buffers: bytes that the kernel keeps for the connection in each direction; None leaves it to the kernel"""
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE)
        if buffers:
            for direction in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                self.socket.setsockopt(socket.SOL_SOCKET, direction, buffers)
        self.socket.connect(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transaction = 0

    def send(self, data):
        self.socket.sendall(data)

    def receive(self):
        """The next answer: (transaction id, unit, PDU)."""
        transaction, protocol, length = struct.unpack(">HHH", self.take(6))
        assert protocol == 0
        assert 2 <= length <= 254
        body = self.take(length)
        return transaction, body[0], body[1:]

    def take(self, count):
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            assert piece, f"the connection was closed after {data.hex()}"
            data += piece
        return data

    def ask(self, pdu, unit=1):
        """One request, its answer's PDU. No stray answer may lie between them."""
        self._transaction = self._transaction % 0xFFFF + 1
        self.send(adu(pdu, unit, self._transaction))
        transaction, answering_unit, answer = self.receive()
        assert (transaction, answering_unit) == (self._transaction, unit)
        return answer

    def is_served(self):
        """Whether an ordinary request gets its ordinary answer here."""
        return self.ask(READ_ONE) == READ_ONE_ANSWER


def is_served(address):
    """Whether a newcomer gets an answer."""
    with Master(address) as master:
        return master.is_served()
