"""The benchmark's programs compile, its load generator finds nothing wrong with our server and the C server, and its page says what was
measured. No speed is asserted.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest
from live import programs

import mbcore

if TYPE_CHECKING:
    import report

BENCH = Path(__file__).parent / "bench"
needs_compiler = pytest.mark.usefixtures("compiler")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)


@pytest.fixture
def compiler() -> str:
    return programs.need(os.environ.get("CC", "cc"), "build-essential")


def command(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What starts our server or the C server."""
    from servers import compile_c

    monkeypatch.setenv("PYTHONPATH", str(Path(mbcore.__file__).parents[1]))  # the one under test, be it installed or not
    ours = [sys.executable, "-P", str(BENCH / "server_mbcore.py")]
    if server == "c":
        return [str(compile_c("server_c.c", tmp_path))]
    return [*ours, "--twisted"] if server == "mbcore_twisted" else ours


@pytest.mark.live
@needs_compiler
@pytest.mark.parametrize(
    ("name", "options"),
    [("mbcore", []), ("mbcore", ["--own-block"]), ("mbcore", ["--observer"]), ("mbcore_twisted", []), ("c", [])],
)
def test_every_answer_under_load_is_right(name: str, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from servers import compile_c, running

    mbload = compile_c("mbload.c", tmp_path)
    with running(name, [*command(name, tmp_path, monkeypatch), *options], tmp_path, max(os.sched_getaffinity(0))) as server:
        load = [mbload, "--port", str(server.port), "--expect", "pattern", "--conns", "20", "--depth", "4", "--type", "mix"]
        done = subprocess.run([*load, "--warmup", "0", "--duration", "0.3"], stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout)
    assert done.returncode == 0, result
    assert result["requests"] > 0
    assert result["exceptions"] == result["unanswered"] == result["out_of_order"] == 0


@pytest.mark.live
@needs_compiler
@pytest.mark.parametrize("name", ["mbcore", "mbcore_twisted", "c"])
def test_every_answer_on_a_line_is_right(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from servers import compile_c, running_line

    mbload = compile_c("mbload.c", tmp_path)
    with running_line(name, command(name, tmp_path, monkeypatch), tmp_path, max(os.sched_getaffinity(0))) as line:
        reach, descriptors = line.load
        load = [mbload, *reach, "--expect", "pattern", "--type", "mix", "--warmup", "0", "--duration", "60", "--requests", "160"]
        done = subprocess.run(load, stdout=subprocess.PIPE, text=True, pass_fds=descriptors)
    result = json.loads(done.stdout)
    assert done.returncode == 0, result
    assert result["requests"] == 160
    assert result["exceptions"] == 0


@pytest.mark.live
@needs_compiler
@pytest.mark.parametrize("busy", ["sleep", "compute"])
def test_masters_that_poll_a_busy_application_are_answered(busy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cases import POLLED
    from servers import compile_c, running

    mbload = compile_c("mbload.c", tmp_path)
    ours = [*command("mbcore", tmp_path, monkeypatch), "--busy", busy]
    with running("mbcore", ours, tmp_path, max(os.sched_getaffinity(0))) as server:
        load = [mbload, "--port", str(server.port), "--expect", "pattern", "--conns", "4", *POLLED, "--timeout", "30"]
        done = subprocess.run([*load, "--warmup", "0", "--duration", "60", "--requests", "100"], stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout)
    assert done.returncode == 0, result
    assert result["requests"] == 100


@pytest.mark.live
@needs_compiler
def test_silent_connections_are_counted_by_what_they_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from servers import running

    with running("c", command("c", tmp_path, monkeypatch), tmp_path, max(os.sched_getaffinity(0))) as server:
        # 12 KB are allocated for each, of which the pages count that were touched.
        assert 1 < server.idle_memory(200) < 16


def run_of(tcp: dict[str, dict[str, list[float]]], line: dict[str, dict[str, list[float]]]) -> "report.Run":
    import report

    machine = {"cpu": "2 x a <fast> one", "system": "Linux", "python": "3", "twisted": "26"}
    return report.Run(machine, "2026-01-01", rounds=3, seconds=1, starts=1, cores=(1, 0), tcp=tcp, line=line)


@pytest.mark.parametrize(
    ("metric", "values", "peer", "verdict"),
    [
        # Of each round's own ratio the median, not the ratio of the medians.
        ("cpu_50x1", {"mbcore": [2.2, 9.0, 1.1], "c": [2.0, 3.0, 1.0]}, "c", ("1.100 of C, epoll's", "1.15", True)),
        ("cpu_50x1", {"mbcore": [2.4, 9.0, 1.2], "c": [2.0, 3.0, 1.0]}, "c", ("1.200 of C, epoll's", "1.15", False)),
        ("rss_start", {"mbcore": [34.0], "twisted": [30.0]}, "twisted", ("4.0 MB above bare Twisted", "4 MB", True)),
        ("rss_start", {"mbcore": [34.1], "twisted": [30.0]}, "twisted", ("4.1 MB above bare Twisted", "4 MB", False)),
        ("idle", {"mbcore": [4.0]}, "", ("4.00 KB", "4 KB", True)),
        ("p99_sleep", {"mbcore": [1.0, 2.5, 3.0]}, "", ("2.50 ms", "2 ms", False)),
    ],
)
def test_targets_are_judged(metric: str, values: dict[str, list[float]], peer: str, verdict: tuple[str, str, bool]) -> None:
    import report

    assert [target for target in report.TARGETS if (target.metric, target.peer, target.line) == (metric, peer, False)]
    run = run_of({name: {metric: measured} for name, measured in values.items()}, {})
    assert [judged[1:] for judged in report.verdicts(run)] == [verdict]
    assert f"| {'met' if verdict[2] else '**missed**'} " in report.markdown(run)


def test_the_line_is_judged_by_its_own_figures() -> None:
    import report

    line = {"mbcore": {"p50": [13.0, 60.0, 26.0]}, "libmodbus": {"p50": [10.0, 10.0, 20.0]}}
    page = report.markdown(run_of({}, line))
    assert "| line p50 | 1.300 of libmodbus's | 1.3     | met |\n" in page
    assert "## CPU" not in page


def test_every_metric_of_a_target_and_of_the_picture_is_measured_and_shown() -> None:
    import report
    from cases import BUSY, CROWDS, PLAIN, PYTHON

    loads = [*PLAIN, *CROWDS, *PYTHON["--own-block"], *PYTHON["--observer"]]
    measured = {f"{kind}_{load}" for load in loads for kind in ("cpu", "p50", "p99")}
    measured |= {f"{rank}_{case}" for case in BUSY for rank in ("p50", "p99")}
    measured |= {"rss_start", "rss_load", "idle", "cold_start", "start_cpu", "instructions", "p50", "p99", "cpu"}
    assert {column for table in report.TABLES for column in table.columns} <= measured
    assert {target.metric for target in report.TARGETS} <= {column for table in report.TABLES for column in table.columns}


def test_the_picture_shows_who_was_measured() -> None:
    import plot

    tcp = {
        "mbcore": {"cpu_50x1": [3.0, 4.0, 5.0], "p99_sleep": [0.2]},
        "c": {"cpu_50x1": [4.0, 4.0, 2.0]},
        "pymodbus2": {"cpu_50x1": [40.0], "p99_sleep": [500.0]},
    }
    root = ElementTree.fromstring(plot.svg(run_of(tcp, {})))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "4.00 µs   1.0 x C" in texts
    assert "40.00 µs   10.0 x C" in texts
    assert "500 ms   reactor sleeps" in texts
    widths = [float(bar.get("width", 0)) for bar in root.iter("{http://www.w3.org/2000/svg}rect") if bar.get("class") in ("ours", "theirs")]
    assert widths[0] == pytest.approx(widths[2] / 10)


def test_a_run_that_measured_nothing_has_a_picture_and_a_page() -> None:
    import plot
    import report

    assert "Targets" not in report.markdown(run_of({}, {}))
    ElementTree.fromstring(plot.svg(run_of({}, {})))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--servers", "mbcore,none"], "unknown server none"),
        (["--publish", "--quick"], "--publish is for a whole run: leave out --quick and --servers"),
        (["--publish", "--servers", "mbcore"], "--publish is for a whole run: leave out --quick and --servers"),
        (["--rounds", "0"], "--rounds, --starts and --seconds must be above zero"),
    ],
)
def test_what_is_asked_wrong_is_said(arguments: list[str], sentence: str) -> None:
    done = subprocess.run([sys.executable, BENCH / "run.py", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert sentence in done.stderr
