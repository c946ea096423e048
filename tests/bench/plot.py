"""The page's picture: horizontal bars as SVG, legible on a light and on a dark page. Measures nothing."""

import math
from html import escape
from statistics import median
from typing import NamedTuple

from cases import TITLES
from report import Run

WIDTH, LEFT, RIGHT, BAR, STEP = 860, 170, 200, 18, 26
STYLE = """
  .card { fill: #ffffff; stroke: #d0d7de } text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
  .title { font-size: 15px; font-weight: 600 } .note { fill: #59636e; font-size: 12px } .ours { fill: #1a7f5a } .theirs { fill: #9aa5b1 }
  .axis { stroke: #d0d7de }
  @media (prefers-color-scheme: dark) {
    .card { fill: #0d1117; stroke: #3d444d } text { fill: #f0f6fc } .note { fill: #9198a1 } .axis { stroke: #3d444d }
    .ours { fill: #3fb883 } .theirs { fill: #626d79 }
  }
"""


class Bar(NamedTuple):
    """One bar of the picture."""

    label: str
    value: float
    said: str
    ours: bool


def cpu_bars(run: Run, case: str) -> list[Bar]:
    """CPU time per request, the lowest first, each as a multiple of the C server's."""
    values = {name: median(taken[f"cpu_{case}"]) for name, taken in run.tcp.items() if taken.get(f"cpu_{case}")}
    floor = values.get("c")
    return [
        Bar(TITLES[name], value, f"{value:.2f} µs" + (f"   {value / floor:.1f} x C" if floor else ""), name.startswith("mbcore"))
        for name, value in sorted(values.items(), key=lambda item: item[1])
    ]


def busy_bars(run: Run) -> list[Bar]:
    """99 of 100 answers came within this many milliseconds, while the application was busy."""
    return [
        Bar(TITLES[name], value, f"{value:.{0 if value >= 100 else 2}f} ms   {doing}", name.startswith("mbcore"))
        for metric, doing in (("p99_sleep", "reactor sleeps"), ("p99_compute", "thread computes"))
        for name, taken in run.tcp.items()
        if taken.get(metric) and (value := median(taken[metric]))
    ]


def panel(top: int, title: str, note: str, bars: list[Bar], logarithmic: bool = False) -> tuple[list[str], int]:
    """A title and its bars, and where the next panel begins."""
    span = WIDTH - LEFT - RIGHT
    least = 10.0 ** math.floor(math.log10(min(bar.value for bar in bars))) if logarithmic else 0
    most = max(bar.value for bar in bars)

    def length(value: float) -> float:
        part = math.log10(value / least) / math.log10(most / least) if logarithmic else value / most
        return max(span * part, 2)

    lines = [
        f'<text class="title" x="24" y="{top}">{escape(title)}</text>',
        f'<text class="note" x="24" y="{top + 19}">{escape(note)}</text>',
    ]
    y = top + 34
    for bar in bars:
        kind = "ours" if bar.ours else "theirs"
        lines += [
            f'<text x="{LEFT - 10}" y="{y + 14}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{length(bar.value):.1f}" height="{BAR}" rx="2"/>',
            f'<text x="{LEFT + length(bar.value) + 8:.1f}" y="{y + 14}" xml:space="preserve">{escape(bar.said)}</text>',
        ]
        y += STEP
    lines.append(f'<line class="axis" x1="{LEFT}" y1="{top + 30}" x2="{LEFT}" y2="{y - 4}"/>')
    return lines, y + 32


def svg(run: Run) -> str:
    """The picture, with the panels of what was measured."""
    lines: list[str] = []
    top = 40
    for title, note, bars, logarithmic in (
        ("CPU time per request, 50 connections", "one request in flight on each, reading 10 registers", cpu_bars(run, "50x1"), False),
        ("... with 16 requests in flight on each", "logarithmic", cpu_bars(run, "50x16"), True),
        ("99 of 100 answers come within", "10 masters that poll a busy application, all on one core; logarithmic", busy_bars(run), True),
    ):
        if bars:
            more, top = panel(top, title, note, bars, logarithmic)
            lines += more
    where = f"{run.date}, {run.machine['cpu']}, Python {run.machine['python']}"
    lines.append(f'<text class="note" x="24" y="{top - 8}">{escape(where)}</text>')
    height = top + 12
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
            f"<title>Modbus servers side by side</title>\n<style>{STYLE}</style>",
            f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
            *lines,
            "</svg>\n",
        ]
    )
