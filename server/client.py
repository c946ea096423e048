"""A small blocking client, for a first test of a server: one request at a time. Frames are mbcore.framer's, messages mbcore.codec's.

    with connect_tcp("127.0.0.1", 5020) as client:
        client.write("hr", 100, [12, 34], unit_id=1)
        print(client.read("hr", 100, 2, unit_id=1))

Tables are ``co`` (coils), ``di`` (discrete inputs), ``hr`` (holding registers) and ``ir`` (input registers); addresses count from 0.
"""

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from mbcore.codec import decode_response, encode_request
from mbcore.constants import ExceptionCode, FunctionCode, Limit
from mbcore.errors import ConfigurationError, FramingError, LineError, RequestError
from mbcore.framer import ModbusRtuFramer, ModbusSocketFramer, build_request, parse_response

from .port import open_port

READ = {
    "co": FunctionCode.READ_COILS,
    "di": FunctionCode.READ_DISCRETE_INPUTS,
    "hr": FunctionCode.READ_HOLDING_REGISTERS,
    "ir": FunctionCode.READ_INPUT_REGISTERS,
}
_CHUNK = 65536
_SLICE = 0.05  # seconds to wait on a serial line at a time


class Link(Protocol):
    """Bytes to and from one server."""

    #: Whether unit 0 speaks to every unit of the line, which none of them answers.
    broadcasts: bool

    def send(self, data: bytes) -> None:
        """Send all of ``data``."""

    def receive(self, timeout: float) -> bytes:
        """The bytes that arrive first within ``timeout`` seconds, or in less; b"" when none do."""

    def close(self) -> None:
        """Close the connection or the line."""


class Client:
    """Requests over one link, each of which waits for its answer.

    :param timeout: how long one answer may take, in seconds
    """

    def __init__(self, link: Link, framer: type, timeout: float = 1.0) -> None:
        self._link = link
        self._framer = framer
        self._timeout = timeout
        self._transaction_id = 0

    def read(self, table: str, address: int, quantity: int = 1, *, unit_id: int = 1) -> list[int]:
        """Values from ``address`` on: 0 and 1 from ``co`` and ``di``, 0..65535 from ``hr`` and ``ir``."""
        if table not in READ:
            raise ConfigurationError(f"{table!r} is no table; use one of {', '.join(READ)}")
        limit = Limit.MAX_READ_BITS if table in ("co", "di") else Limit.MAX_READ_REGISTERS
        if not 1 <= quantity <= limit:
            raise ConfigurationError(f"one request reads 1..{limit} addresses of {table}, not {quantity}; ask more than once")
        if self._is_broadcast(unit_id):
            raise ConfigurationError("unit 0 is every unit of a serial line, and none answers: give the unit to read from")
        answer = self.request(unit_id, READ[table], address=address, quantity=quantity)
        values: list[int] = answer["bits"] if table in ("co", "di") else answer["registers"]
        return [int(value) for value in values[:quantity]]

    def write(self, table: str, address: int, values: Sequence[int], *, unit_id: int = 1) -> None:
        """Write ``values`` to ``co`` or ``hr`` from ``address`` on; a single one by function code 05 or 06, more by 15 or 16."""
        if table == "co" and len(values) == 1:
            self.request(unit_id, FunctionCode.WRITE_SINGLE_COIL, address=address, value=bool(values[0]))
        elif table == "co":
            self.request(unit_id, FunctionCode.WRITE_MULTIPLE_COILS, address=address, bits=[bool(value) for value in values])
        elif table == "hr" and len(values) == 1:
            self.request(unit_id, FunctionCode.WRITE_SINGLE_REGISTER, address=address, value=values[0])
        elif table == "hr":
            self.request(unit_id, FunctionCode.WRITE_MULTIPLE_REGISTERS, address=address, registers=list(values))
        else:
            raise ConfigurationError(f"{table!r} can't be written; use co (coils) or hr (holding registers)")

    def request(self, unit_id: int, function_code: int, **fields: Any) -> dict[str, Any]:
        """Send one request and return the fields of its answer (see mbcore.codec); none for a broadcast.

        :raises RequestError: for an exception response
        :raises TimeoutError: without an answer
        :raises LineError: when the connection or the line breaks
        :raises FramingError: when the answer is no Modbus
        :raises ConfigurationError: for a field that no request can carry
        """
        self._transaction_id = self._transaction_id % 0xFFFF + 1
        pdu = encode_request(function_code, **fields)
        self._link.send(build_request(self._framer, pdu, unit_id, self._transaction_id))
        if self._is_broadcast(unit_id):
            return {}
        answer = decode_response(self._answer(unit_id))
        code = answer.get("exception_code")
        if code is not None:
            raise RequestError(code, f"unit {unit_id} refuses: {_exception_name(code)}")
        return answer

    def _is_broadcast(self, unit_id: int) -> bool:
        return unit_id == 0 and self._link.broadcasts

    def _answer(self, unit_id: int) -> bytes:
        received = b""
        deadline = time.monotonic() + self._timeout
        while (left := deadline - time.monotonic()) > 0:
            received += self._link.receive(left)
            while found := self._parse(received):
                answering_unit, transaction_id, pdu, consumed = found
                received = received[consumed:]
                # An answer that came too late for an earlier request is not ours. Framers without a unit or a transaction say 0.
                if answering_unit in (0, unit_id) and transaction_id in (0, self._transaction_id):
                    return pdu
        raise TimeoutError(f"unit {unit_id} did not answer within {self._timeout:g} s")

    def _parse(self, received: bytes) -> tuple[int, int, bytes, int] | None:
        try:
            return parse_response(self._framer, received)
        except FramingError as error:
            raise FramingError(f"the answer is no Modbus in this framing: {error}") from error

    def close(self) -> None:
        """Close the connection or the line."""
        self._link.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def connect_tcp(
    host: str, port: int = 502, *, framer: type = ModbusSocketFramer, timeout: float = 1.0, tls: ssl.SSLContext | None = None
) -> Client:
    """A client over TCP, or over TLS with what :func:`client_tls` makes; :class:`LineError` when there is no connection."""
    peer = f"{host}:{port}"
    with _naming(peer):
        connection = socket.create_connection((host, port), timeout)
        if tls is not None:
            connection = tls.wrap_socket(connection, server_hostname=host)  # closes it on failure
    return Client(_StreamLink(connection, peer), framer, timeout)


def connect_udp(host: str, port: int = 502, *, framer: type = ModbusSocketFramer, timeout: float = 1.0) -> Client:
    """A client over UDP."""
    peer = f"{host}:{port}"
    with _naming(peer):
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        datagrams = socket.socket(family, kind, protocol)
        datagrams.connect(address)
    return Client(_DatagramLink(datagrams, peer), framer, timeout)


def connect_serial(
    device: str,
    *,
    framer: type = ModbusRtuFramer,
    timeout: float = 1.0,
    baudrate: int = 19200,
    bytesize: int = 8,
    parity: str = "E",
    stopbits: int = 1,
) -> Client:
    """A client on the serial line ``device``; :class:`LineError` when it can't be opened."""
    line = open_port(device, baudrate=baudrate, bytesize=bytesize, parity=parity, stopbits=stopbits, timeout=_SLICE)
    return Client(_SerialLink(line, device), framer, timeout)


def client_tls(
    cafile: str | None = None, certfile: str | None = None, keyfile: str | None = None, *, insecure: bool = False
) -> ssl.SSLContext:
    """The TLS settings of a client; :class:`ConfigurationError` names a file that can't be used.

    :param cafile: PEM file with the authorities that vouch for the server; None: those of the system
    :param certfile: PEM file with the client's own certificate, and ``keyfile`` with its key, for a server that demands one
    :param insecure: accept any certificate under any name
    """
    context = ssl.create_default_context()
    # Certificates of devices are often too plain for what Python 3.13 and later demand of authorities on the web.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    files = cafile
    try:
        if cafile:
            context.load_verify_locations(cafile)
        if certfile:
            files = f"{certfile} and {keyfile}" if keyfile else certfile
            context.load_cert_chain(certfile, keyfile, password="")
    except OSError as error:
        raise ConfigurationError(f"{files} can't be used: {_reason(error)}") from error
    return context


class _StreamLink:
    broadcasts = False

    def __init__(self, connection: socket.socket, peer: str) -> None:
        self._socket = connection
        self._peer = peer

    def send(self, data: bytes) -> None:
        with _naming(self._peer):
            self._socket.sendall(data)

    def receive(self, timeout: float) -> bytes:
        data = self._receive(timeout)
        if data == b"":
            raise LineError(f"{self._peer} closed the connection without an answer")
        return data or b""

    def close(self) -> None:
        self._socket.close()

    def _receive(self, timeout: float) -> bytes | None:
        self._socket.settimeout(timeout)
        with _naming(self._peer):
            try:
                return self._socket.recv(_CHUNK)
            except TimeoutError:
                return None


class _DatagramLink(_StreamLink):
    def receive(self, timeout: float) -> bytes:
        return self._receive(timeout) or b""


class _SerialLink:
    broadcasts = True

    def __init__(self, line: Any, device: str) -> None:
        self._line = line
        self._device = device

    def send(self, data: bytes) -> None:
        with _naming(self._device):
            # What an earlier request's late answer or the line's noise left behind would be taken for this one's answer.
            self._line.reset_input_buffer()
            self._line.write(data)
            self._line.flush()

    def receive(self, timeout: float) -> bytes:
        # Another timeout than the one it was opened with would make pyserial set up the whole line again.
        with _naming(self._device):
            data: bytes = self._line.read(1)
            data += self._line.read(self._line.in_waiting)
            return data

    def close(self) -> None:
        self._line.close()


@contextlib.contextmanager
def _naming(peer: str) -> Iterator[None]:
    """Says which connection or line it was that failed."""
    try:
        yield
    except OSError as error:
        raise LineError(f"{peer}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, socket.gaierror):
        return "there is no such host"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused; is the server running, and on this port?"
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _exception_name(code: int) -> str:
    name = ExceptionCode(code).name.replace("_", " ").lower() if code in set(ExceptionCode) else "an exception of its own"
    return f"exception {code:02X}, {name}"
