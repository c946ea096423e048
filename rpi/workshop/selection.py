"""Which files of the suite rpi/test-wheels runs where it is not told: each of them is in one of these lists, by a pattern."""

from fnmatch import fnmatch

# What differs from processor to processor: the compiled modules, and bytes on their way through sockets and terminals, by the compiled
# loops and by Twisted.
RUN = [
    "answers_later", "checksum", "codec", "conformance_*", "context", "control", "custom_functions", "device", "engine_*", "events",
    "framer*", "fuzz", "hosts", "line", "line_marks", "live_line", "messages*", "observers", "payload", "server_line", "server_serial",
    "server_tcp", "server_udp", "session", "store", "store_model", "user_blocks",
]  # fmt: skip
# Python that is the same everywhere; many of these start hundreds of processes, of which each takes seconds there.
LEFT = [
    "bench", "bus*", "cli", "client", "console", "demo", "house", "live_[!l]*", "migrate", "pymodbus_faces", "remote_context", "rpi_*",
    "server_[!lstu]*", "server_loop", "server_settings", "server_start", "sniff", "storm", "tls",
]  # fmt: skip
# Not there at all: libcst has no wheel for 32 bits.
LACKING = ["migrate"]


def matching(patterns: list[str], names: list[str]) -> list[str]:
    """Those of the names that a pattern matches."""
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
