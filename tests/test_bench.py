"""The benchmark's programs compile, its load generator finds nothing wrong with our server and the C server, and its page says what was
measured. No speed is asserted.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mbcore

BENCH = Path(__file__).parent / "bench"
needs_compiler = pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="no C compiler: apt install gcc")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)


def command(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What starts our server or the C server."""
    from servers import compile_c

    monkeypatch.setenv("PYTHONPATH", str(Path(mbcore.__file__).parents[1]))  # the one under test, be it installed or not
    ours = [sys.executable, "-P", str(BENCH / "server_mbcore.py")]
    return ours if server == "mbcore" else [str(compile_c("server_c.c", tmp_path))]


@pytest.mark.live
@needs_compiler
@pytest.mark.parametrize(("name", "options"), [("mbcore", []), ("mbcore", ["--own-block"]), ("c", [])])
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
    from servers import LINES, compile_c, running_line

    mbload = compile_c("mbload.c", tmp_path)
    server, *options = LINES[name]
    with running_line(name, [*command(server, tmp_path, monkeypatch), *options], tmp_path, max(os.sched_getaffinity(0))) as line:
        reach, descriptors = line.load
        load = [mbload, *reach, "--expect", "pattern", "--type", "mix", "--warmup", "0", "--duration", "60", "--requests", "160"]
        done = subprocess.run(load, stdout=subprocess.PIPE, text=True, pass_fds=descriptors)
    result = json.loads(done.stdout)
    assert done.returncode == 0, result
    assert result["requests"] == 160
    assert result["exceptions"] == 0


@pytest.mark.parametrize(
    ("p50", "judged"),
    [([13.0, 60.0, 26.0], "1.300 of libmodbus's, target 1.30: met"), ([14.0, 15.0, 26.0], "1.400 of libmodbus's, target 1.30: NOT MET")],
)
def test_turnaround_is_judged_by_the_median_of_the_rounds(p50: list[float], judged: str) -> None:
    import report

    line = {"mbcore": {"p50": p50}, "libmodbus": {"p50": [10.0, 10.0, 20.0]}}
    tcp = {"mbcore": {"p50_50x1": [100.0]}, "pymodbus2": {"p50_50x1": [400.0]}}
    page = report.markdown(tcp, "How TCP was measured.", line, "How the line was measured.")
    assert f"- p50: {judged}\n" in page
    assert "| p50 50 x 1        | 0.250          |\n" in page
