"""Ports of this machine that are nobody else's while a test needs them."""

import contextlib
import socket

HOST = "127.0.0.1"


@contextlib.contextmanager
def reserved_port():
    """A TCP port for a server that is told it: bound and not listening, it goes only to who sets SO_REUSEADDR and asks for it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((HOST, 0))
        yield holder.getsockname()[1]


@contextlib.contextmanager
def refusing_port(kind):
    """A port where clients are refused, and nobody listens meanwhile; `kind` is SOCK_STREAM or SOCK_DGRAM."""
    with socket.socket(type=kind) as holder:
        holder.bind((HOST, 0))
        if kind == socket.SOCK_DGRAM:
            # Connected to itself, it takes nobody else's datagrams.
            holder.connect(holder.getsockname())
        yield holder.getsockname()[1]
