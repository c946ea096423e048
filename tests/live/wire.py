"""Recorded bytes and what tshark makes of them: a tap between client and server, a capture file written without any privilege."""

import contextlib
import selectors
import socket
import struct
import subprocess
import threading
from dataclasses import dataclass

LOOPBACK = bytes([127, 0, 0, 1])
CHUNK = 16384
LINKTYPE_RAW = 101
SERVER_PORT = 502
FIN, SYN, PSH, ACK = 1, 2, 8, 16


@dataclass(frozen=True)
class Piece:
    """What one read gave: of which connection, from which side."""

    connection: int
    from_server: bool
    data: bytes


class Tap:
    """Listens, passes every connection on to `target`, and keeps what went by in `pieces`."""

    def __init__(self, target):
        self.pieces = []
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def answers(self):
        """All bytes from the server, connection by connection."""
        streams = {}
        for piece in self.pieces:
            if piece.from_server:
                streams[piece.connection] = streams.get(piece.connection, b"") + piece.data
        return list(streams.values())

    def _carry(self):
        connections = 0
        with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._woken:
                        return
                    if key.fileobj is self._listener:
                        client = stack.enter_context(self._listener.accept()[0])
                        server = stack.enter_context(socket.create_connection(self._target))
                        for end in (client, server):
                            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        selector.register(client, selectors.EVENT_READ, (connections, False, server))
                        selector.register(server, selectors.EVENT_READ, (connections, True, client))
                        connections += 1
                        continue
                    connection, from_server, other = key.data
                    data = key.fileobj.recv(CHUNK)
                    if data:
                        self.pieces.append(Piece(connection, from_server, data))
                        other.sendall(data)
                    else:
                        selector.unregister(key.fileobj)
                        with contextlib.suppress(OSError):  # the other side may have gone already
                            other.shutdown(socket.SHUT_WR)

    def close(self):
        self._wake.close()
        self._thread.join()
        self._listener.close()
        self._woken.close()


def _checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _ip(protocol, payload):
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0x4000, 64, protocol, 0, LOOPBACK, LOOPBACK)
    return header[:10] + struct.pack(">H", _checksum(header)) + header[12:] + payload


def _tcp_packets(pieces):
    """The pieces as segments, a handshake before the first of each connection."""
    expected = {}
    for piece in pieces:
        client_port = 50000 + piece.connection

        def segment(from_server, flags, data=b"", connection=piece.connection, client_port=client_port):
            ports = (SERVER_PORT, client_port) if from_server else (client_port, SERVER_PORT)
            mine, other = (connection, from_server), (connection, not from_server)
            head = struct.pack(">HHIIBBHHH", *ports, expected[mine], expected[other] if flags & ACK else 0, 5 << 4, flags, 0xFFFF, 0, 0)
            expected[mine] += len(data) + bool(flags & SYN)
            return _ip(socket.IPPROTO_TCP, head + data)

        if (piece.connection, True) not in expected:
            expected[piece.connection, False] = expected[piece.connection, True] = 1
            yield segment(False, SYN)
            yield segment(True, SYN | ACK)
            yield segment(False, ACK)
        yield segment(piece.from_server, PSH | ACK, piece.data)


def _udp_packets(pieces):
    for piece in pieces:
        client_port = 50000 + piece.connection
        ports = (SERVER_PORT, client_port) if piece.from_server else (client_port, SERVER_PORT)
        yield _ip(socket.IPPROTO_UDP, struct.pack(">HHHH", *ports, 8 + len(piece.data), 0) + piece.data)


def write_capture(path, pieces, udp=False):
    """A pcap file in which the server's port is 502, whatever it was."""
    packets = _udp_packets(pieces) if udp else _tcp_packets(pieces)
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 0x40000, LINKTYPE_RAW))
        for number, packet in enumerate(packets):
            seconds, milliseconds = divmod(number, 1000)
            file.write(struct.pack("<IIII", seconds, 1000 * milliseconds, len(packet), len(packet)) + packet)


class Dissection:
    """tshark's view of a capture; `dissector` is one of its names for Modbus (mbtcp, mbrtu, mbudp)."""

    def __init__(self, tshark, path, dissector):
        self._layer = "udp" if dissector == "mbudp" else "tcp"
        self._command = [tshark, "-r", path, "-d", f"{self._layer}.port=={SERVER_PORT},{dissector}"]
        if dissector == "mbrtu":
            self._command += ["-o", f"mbrtu.tcp.port:{SERVER_PORT}", "-o", "mbrtu.crc_verification:TRUE"]

    def show(self, only, *fields):
        """Rows of the packets that pass the display filter `only`: of each field the list of its values in that packet."""
        words = ["-Y", only, "-T", "fields", "-E", "separator=|", "-E", "aggregator=;"]
        for field in fields:
            words += ["-e", field]
        run = subprocess.run([*self._command, *words], capture_output=True, text=True, timeout=50, check=True)
        return [tuple(column.split(";") for column in line.split("|")) for line in run.stdout.splitlines()]

    def complaints(self):
        """What the dissector calls malformed, or wrong in another way, in the server's packets: (frame numbers, texts)."""
        warning = 0x600000
        wrong = f"_ws.malformed || _ws.unreassembled || _ws.expert.severity >= {warning}"
        return self.show(f"({wrong}) && {self._layer}.srcport == {SERVER_PORT}", "frame.number", "_ws.expert.message")

    def answers(self):
        """The function codes of all Modbus messages from the server, without the bit that marks an exception."""
        return self._of_answers("modbus.func_code")

    def exceptions(self):
        """The exception codes from the server."""
        return self._of_answers("modbus.exception_code")

    def _of_answers(self, field):
        rows = self.show(f"{field} && {self._layer}.srcport == {SERVER_PORT}", field)
        return [int(value) for (values,) in rows for value in values]
