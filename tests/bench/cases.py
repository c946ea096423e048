"""What is measured: the servers' names, the loads they are put under, and who can't bear which. Runs nothing."""

from typing import NamedTuple

# In the order of the tables; the first one is what the others are compared with.
TITLES = {
    "mbcore": "mbcore",
    "mbcore_twisted": "mbcore on Twisted",
    "pymodbus2": "pymodbus 2.5.3",
    "pymodbus3": "pymodbus 3.16.1",
    "umodbus": "uModbus 1.0.4",
    "libmodbus": "libmodbus",
    "twisted": "bare Twisted",
    "c": "C, epoll",
}
NAMES = tuple(TITLES)
LINE_TITLES = {name: TITLES[name] for name in ("mbcore", "mbcore_twisted", "pymodbus2", "libmodbus")} | {"c": "C, poll"}

# The functions that a server is checked with before it is measured; the others have all that mbload mixes.
FUNCTIONS = {
    "umodbus": ("fc1", "fc2", "fc3", "fc4", "fc5", "fc6", "fc15", "fc16"),  # no 23
    "twisted": ("fc3",),  # no Modbus at all
}
# Those that let Python answer or hear of a request, and serve beside a busy application.
WITH_PYTHON = ("mbcore", "mbcore_twisted", "pymodbus2")


class Case(NamedTuple):
    """One load on a server."""

    heading: str
    connections: int
    depth: int = 1  # requests in flight on each connection
    options: tuple[str, ...] = ()  # further ones of mbload


# Masters that poll: each asks 10 ms after it was answered.
POLLED = ("--gap", "0.01")
WRITES = ("--type", "fc16")
SEVERAL = {"1x1": (1, 1), "50x1": (50, 1), "50x16": (50, 16)}

PLAIN = {name: Case(name.replace("x", " x "), *load) for name, load in SEVERAL.items()}
CROWDS = {f"{count}x1": Case(f"{count} x 1", count) for count in (500, 2000)}
# What a server is started with -> its loads.
PYTHON = {
    "--own-block": {f"own_{name}": Case(f"own block {case.heading}", *SEVERAL[name]) for name, case in PLAIN.items()},
    "--observer": {f"observer_{name}": Case(f"observer {case.heading}", *SEVERAL[name], WRITES) for name, case in PLAIN.items()},
}
BUSY = {
    "sleep": Case("the reactor sleeps", 10, 1, POLLED),
    "compute": Case("a thread computes", 10, 1, POLLED),
}
# Connections that were asked once and are silent then.
IDLE = 2000

# (server, case) -> why it is not measured.
UNABLE = {
    ("pymodbus3", "50x16"): "pymodbus 3.16.1 loses requests when several are in flight on a connection",
    ("libmodbus", "2000x1"): "libmodbus' way to serve many clients is select, which watches 1024 descriptors",
    ("libmodbus", "idle"): "",
}
