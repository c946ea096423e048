"""The figures as a Markdown page: medians with their spread, ratios, and what they say about the targets."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

from servers import LINE_TITLES, TITLES

Samples = Mapping[str, Mapping[str, Sequence[float]]]  # server -> metric -> one value per round


class Kind(NamedTuple):
    """What is compared: TCP servers, or servers of a serial line."""

    titles: Mapping[str, str]
    metrics: Mapping[str, tuple[str, int]]  # metric -> heading and digits after the point; the order of the rows
    peer: str  # whom the targets are measured by
    targets: Mapping[str, float]  # what mbcore may need at most, as a part of what the peer needs
    targets_of: str


TCP_METRICS = {
    "cpu_50x1": ("CPU 50 x 1, µs", 2),
    "cpu_50x16": ("CPU 50 x 16, µs", 2),
    "cpu_own": ("CPU own block 50 x 1, µs", 2),
    "p50_50x1": ("p50 50 x 1, µs", 0),
    "p99_50x1": ("p99 50 x 1, µs", 0),
    "p50_50x16": ("p50 50 x 16, µs", 0),
    "p99_50x16": ("p99 50 x 16, µs", 0),
    "rss_start": ("RSS at start, MB", 1),
    "rss_load": ("RSS after load, MB", 1),
    "cold_start": ("cold start, ms", 1),
    "start_cpu": ("CPU of a start, ms", 1),
    "instructions": ("instructions", 0),
}
TCP_TARGETS = {"cpu_50x1": 0.40, "cpu_50x16": 0.08, "cpu_own": 0.50, "rss_start": 1.0, "rss_load": 1.0, "cold_start": 1.0}
LINE_METRICS = {"p50": ("p50, µs", 1), "p99": ("p99, µs", 1), "cpu": ("CPU, µs", 2)}
TCP = Kind(TITLES, TCP_METRICS, "pymodbus2", TCP_TARGETS, "the Twisted path")
LINE = Kind(LINE_TITLES, LINE_METRICS, "libmodbus", {"p50": 1.30}, "the compiled loop")


def machine() -> dict[str, str]:
    """What the figures were measured on and with."""
    models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": f"{os.cpu_count()} x {models[0] if models else platform.machine()}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "twisted": version("Twisted"),
    }


def ratio(samples: Samples, metric: str, ours: str, theirs: str) -> float | None:
    """Median over the rounds of ours / theirs: both of a pair were measured within seconds of each other."""
    measured = [samples.get(name, {}).get(metric, ()) for name in (ours, theirs)]
    return median(a / b for a, b in zip(*measured, strict=True)) if all(measured) else None


def ratios(kind: Kind, samples: Samples, ours: str = "mbcore") -> dict[str, dict[str, float]]:
    """Peer -> metric -> ratio of ours to the peer's."""
    return {
        peer: {metric: value for metric in kind.metrics if (value := ratio(samples, metric, ours, peer)) is not None}
        for peer in samples
        if peer != ours and ours in samples
    }


def verdicts(kind: Kind, found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One line per target."""
    against = found.get(kind.peer, {})
    return [
        f"{kind.metrics[metric][0].split(',')[0]}: {against[metric]:.3f} of {kind.titles[kind.peer]}'s, target {limit:.2f}: "
        + ("met" if against[metric] <= limit else "NOT MET")
        for metric, limit in kind.targets.items()
        if metric in against
    ]


def cell(values: Sequence[float], digits: int) -> str:
    """`median (lowest-highest)`."""
    text = f"{median(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose source is aligned as well."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    texts = ["| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in lines]
    return [texts[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *texts[1:]]


def section(kind: Kind, samples: Samples, setting: str) -> list[str]:
    """The lines on one kind of servers."""
    used = {metric: shown for metric, shown in kind.metrics.items() if any(metric in measured for measured in samples.values())}
    measured = [
        [heading, *(cell(values[metric], digits) if metric in values else "" for values in samples.values())]
        for metric, (heading, digits) in used.items()
    ]
    found = ratios(kind, samples)
    compared = [
        [heading.split(",")[0], *(f"{found[peer][metric]:.3f}" if metric in found[peer] else "" for peer in found)]
        for metric, (heading, _) in used.items()
    ]
    lines = [setting, "", *table(["median (lowest-highest)", *(kind.titles[name] for name in samples)], measured)]
    if found:
        lines += ["", *table([f"{kind.titles['mbcore']} divided by", *(kind.titles[peer] for peer in found)], compared)]
    if judged := verdicts(kind, found):
        lines += ["", f"Targets on {kind.targets_of}:", "", *(f"- {line}" for line in judged)]
    return lines


def markdown(tcp: Samples, tcp_setting: str, line: Samples, line_setting: str) -> str:
    """The whole page."""
    above, below = section(TCP, tcp, tcp_setting), section(LINE, line, line_setting)
    return "\n".join(["# Servers side by side", "", *above, "", "## On a serial line", "", *below]) + "\n"
