"""The figures as a Markdown page: medians, ratios, and what they say about the targets."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

from cases import CROWDS, LINE_TITLES, PLAIN, PYTHON, TITLES, UNABLE

PICTURE = "benchmarks.svg"
Samples = Mapping[str, Mapping[str, Sequence[float]]]  # server -> metric -> one value per round


class Run(NamedTuple):
    """What was measured, and how."""

    machine: Mapping[str, str]
    date: str
    rounds: int
    seconds: float
    starts: int
    cores: tuple[int, int]  # the servers', the load generator's
    tcp: Samples
    line: Samples


class Table(NamedTuple):
    """A table of the page: a row per server, a column per metric."""

    heading: str
    columns: Mapping[str, tuple[str, int]]  # metric -> heading and digits after the point
    text: str = ""
    line: bool = False
    spread: bool = True


class Target(NamedTuple):
    """What mbcore wants to reach."""

    what: str
    metric: str
    most: float
    peer: str = ""  # `most` of whose figure; empty: `most` in the metric's own unit
    more: bool = False  # `most` more than the peer, in the metric's own unit
    unit: str = ""
    ours: str = "mbcore"
    line: bool = False


BUSY_COLUMNS = {
    "p50_sleep": ("sleeping: p50", 2),
    "p99_sleep": ("sleeping: p99", 2),
    "p50_compute": ("computing: p50", 2),
    "p99_compute": ("computing: p99", 2),
}
LOADS = {**PLAIN, **CROWDS}
TABLES = (
    Table(
        "CPU time per request",
        {f"cpu_{name}": (load.heading, 2) for name, load in LOADS.items()} | {"instructions": ("instructions", 0)},
        "Microseconds, user and system: connections x requests in flight on each. Median of the rounds (lowest-highest).",
    ),
    Table(
        "Latency under these loads",
        {f"{rank}_{name}": (f"{load.heading} {rank}", 0) for name, load in LOADS.items() for rank in ("p50", "p99")},
        "Microseconds, from a request's sending to its answer, while the load generator asks as fast as it is answered.",
        spread=False,
    ),
    Table(
        "Start and memory",
        {
            "cold_start": ("cold start, ms", 0),
            "start_cpu": ("CPU of it, ms", 0),
            "rss_start": ("RSS at start, MB", 1),
            "rss_load": ("RSS after load, MB", 1),
            "idle": ("idle connection, KB", 2),
        },
        "Cold start: from the start of the process to the first answer. Idle connection: resident memory that each of 2000 connections"
        " takes which have asked once; the kernel's is not counted.",
    ),
    Table(
        "Where Python takes part in every request",
        {f"cpu_{name}": (case.heading, 1) for group in PYTHON.values() for name, case in group.items()},
        "CPU time per request, microseconds. Own block: FC3 from a data block whose `getValues` is the user's. Observer: FC16 of which a"
        " function hears (of pymodbus 2.5.3 a data block whose `setValues` is the user's).",
    ),
    Table(
        "Beside a busy application, TCP",
        BUSY_COLUMNS,
        "Latency in milliseconds of 10 connections that each ask 10 ms after an answer, while the same process runs `time.sleep(0.5)` in"
        " the reactor again and again, or a pure Python loop in a thread, on the server's core.",
    ),
    Table("Beside a busy application, serial line", BUSY_COLUMNS, "The same on a pseudo-terminal.", line=True),
    Table(
        "On a serial line",
        {"p50": ("p50, µs", 1), "p99": ("p99, µs", 1), "cpu": ("CPU, µs", 2)},
        "RTU at 115200 Bd over a pseudo-terminal whose other end is the load generator's, one request at a time, from the first byte"
        " written to the last one read. Reply delay 0 (pymodbus and libmodbus have none); pymodbus 2.5.3: its Twisted server, timeout=0.",
        line=True,
    ),
)
TARGETS = (
    Target("CPU 50 x 1", "cpu_50x1", 1.15, "c"),
    Target("CPU 50 x 1", "cpu_50x1", 1.0, "libmodbus"),
    Target("CPU 50 x 1", "cpu_50x1", 0.15, "pymodbus2"),
    Target("CPU 50 x 16", "cpu_50x16", 1.3, "c"),
    Target("CPU 500 x 1", "cpu_500x1", 1.2, "c"),
    Target("CPU 2000 x 1", "cpu_2000x1", 1.2, "c"),
    Target("idle connection", "idle", 4, unit="KB"),
    Target("p99, the reactor sleeps, TCP", "p99_sleep", 2, unit="ms"),
    Target("p99, a thread computes, TCP", "p99_compute", 2, unit="ms"),
    Target("p99, the reactor sleeps, line", "p99_sleep", 2, unit="ms", line=True),
    Target("p99, a thread computes, line", "p99_compute", 2, unit="ms", line=True),
    Target("CPU own block 50 x 1", "cpu_own_50x1", 0.3, "pymodbus2"),
    Target("CPU own block 50 x 16", "cpu_own_50x16", 0.5, "pymodbus2"),
    Target("CPU own block 1 x 1", "cpu_own_1x1", 0.65, "pymodbus2"),
    Target("CPU observer 50 x 1", "cpu_observer_50x1", 0.3, "pymodbus2"),
    Target("CPU observer 50 x 16", "cpu_observer_50x16", 0.5, "pymodbus2"),
    Target("CPU observer 1 x 1", "cpu_observer_1x1", 0.65, "pymodbus2"),
    Target("cold start", "cold_start", 1.1, "twisted"),
    Target("RSS at start", "rss_start", 4, "twisted", more=True, unit="MB"),
    Target("RSS after load", "rss_load", 4, "twisted", more=True, unit="MB"),
    Target("line p50", "p50", 1.3, "libmodbus", line=True),
    Target("on Twisted: CPU 50 x 1", "cpu_50x1", 0.4, "pymodbus2", ours="mbcore_twisted"),
    Target("on Twisted: CPU 50 x 16", "cpu_50x16", 0.08, "pymodbus2", ours="mbcore_twisted"),
    Target("on Twisted: CPU own block 50 x 1", "cpu_own_50x1", 0.5, "pymodbus2", ours="mbcore_twisted"),
)


def machine() -> dict[str, str]:
    """What the figures were measured on and with."""
    models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": f"{os.cpu_count()} x {models[0] if models else platform.machine()}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "twisted": version("Twisted"),
    }


def paired(samples: Samples, metric: str, ours: str, theirs: str) -> list[tuple[float, float]]:
    """Our figures and theirs, round by round: both of a pair were measured within seconds of each other."""
    return list(zip(*(samples.get(name, {}).get(metric, ()) for name in (ours, theirs)), strict=False))


def ratio(samples: Samples, metric: str, ours: str, theirs: str) -> float | None:
    """Median over the rounds of ours / theirs."""
    pairs = paired(samples, metric, ours, theirs)
    return median(a / b for a, b in pairs) if pairs else None


def verdicts(run: Run) -> list[tuple[str, str, str, bool]]:
    """Of each target that was measured: what it is about, what was reached, what was wanted, whether that is met."""
    judged = []
    for target in TARGETS:
        samples, titles = (run.line, LINE_TITLES) if target.line else (run.tcp, TITLES)
        pairs = paired(samples, target.metric, target.ours, target.peer)
        if not target.peer:
            values, said = samples.get(target.ours, {}).get(target.metric, ()), f"{{:.2f}} {target.unit}"
        elif target.more:
            values, said = [a - b for a, b in pairs], f"{{:.1f}} {target.unit} above {titles[target.peer]}"
        else:
            values, said = [a / b for a, b in pairs], f"{{:.3f}} of {titles[target.peer]}'s"
        if values:
            reached = median(values)
            judged.append((target.what, said.format(reached), f"{target.most:g} {target.unit}".strip(), reached <= target.most))
    return judged


def cell(values: Sequence[float], digits: int, spread: bool) -> str:
    """`median (lowest-highest)`."""
    if not values:
        return ""
    text = f"{median(values):.{digits}f}"
    return f"{text} ({min(values):.{digits}f}-{max(values):.{digits}f})" if spread and len(values) > 1 else text


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose source is aligned as well."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    texts = ["| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in lines]
    return [texts[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *texts[1:]]


def section(run: Run, table: Table) -> list[str]:
    """A heading, what is meant, and the table; nothing where nothing was measured."""
    samples, titles = (run.line, LINE_TITLES) if table.line else (run.tcp, TITLES)
    columns = {metric: shown for metric, shown in table.columns.items() if any(metric in taken for taken in samples.values())}
    rows = [
        [titles[name], *(cell(taken.get(metric, ()), digits, table.spread) for metric, (_, digits) in columns.items())]
        for name, taken in samples.items()
        if any(metric in taken for metric in columns)
    ]
    if not rows:
        return []
    return [f"## {table.heading}", "", table.text, "", *aligned(["", *(heading for heading, _ in columns.values())], rows), ""]


def compared(run: Run) -> list[str]:
    """mbcore's CPU time as a part of the others'."""
    peers = [name for name in run.tcp if name != "mbcore" and "mbcore" in run.tcp]
    found = [[ratio(run.tcp, f"cpu_{name}", "mbcore", peer) for name in LOADS] for peer in peers]
    rows = [
        [TITLES[peer], *("" if value is None else f"{value:.3f}" for value in values)] for peer, values in zip(peers, found, strict=True)
    ]
    heading = ["mbcore's CPU time divided by that of", *(load.heading for load in LOADS.values())]
    return [*aligned(heading, rows), ""] if rows else []


def setting(run: Run) -> str:
    """When, where and how it was measured."""
    machine = run.machine
    return (
        f"{run.date}, {machine['cpu']}, {machine['system']}, Python {machine['python']}, Twisted {machine['twisted']}."
        f" Rounds over all servers: {run.rounds} of {run.seconds:g} s per load, cold starts: {run.starts}; servers on core {run.cores[0]},"
        f" load on core {run.cores[1]}. FC3 of 10 registers unless said, every answer checked. Compare within this page only: ratios are"
        " medians over the rounds of figures measured within seconds of each other, bare times are this machine's on that day."
    )


HOW = """\
`make bench` measures this and writes it to `build/bench/`, with `ARGS=--instructions` also the instructions per request, which valgrind
counts; `--publish` writes this page and its picture as well, and `--help` names what shortens it. mbcore, bare Twisted (the same bytes
for every request: Twisted's own floor) and pymodbus 2.5.3 run in one virtual environment, the other Python servers in one of their own,
each started as its documentation starts it; the C server is a minimal one with a real store (`tests/bench/server_c.c`). On a shared
machine the spread tells how much a figure is worth."""


def markdown(run: Run) -> str:
    """The whole page."""
    picture = f"![CPU time per request, and latency beside a busy application]({PICTURE})"
    lines = ["# Servers side by side", "", picture, "", setting(run), ""]
    first, *others = (section(run, table) for table in TABLES)
    lines += [*first, *compared(run)]
    for other in others:
        lines += other
    rows = [[what, reached, wanted, "met" if met else "**missed**"] for what, reached, wanted, met in verdicts(run)]
    if rows:
        lines += ["## Targets", "", *aligned(["mbcore", "reached", "at most", ""], rows), ""]
    notes = [f"- {why}." for (name, _), why in UNABLE.items() if why and name in run.tcp]
    return "\n".join([*lines, "## How", "", HOW, "", *notes]).rstrip() + "\n"
