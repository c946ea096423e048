"""The benchmark's programs compile, and its load generator finds nothing wrong with our server and the C server. No speed is asserted."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mbcore

BENCH = Path(__file__).parent / "bench"
pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="no C compiler: apt install gcc"),
]


@pytest.mark.parametrize(("name", "options"), [("mbcore", []), ("mbcore", ["--own-block"]), ("c", [])])
def test_every_answer_under_load_is_right(name: str, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    from servers import compile_c, running

    mbload = compile_c("mbload.c", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(mbcore.__file__).parents[1]))  # the one under test, be it installed or not
    ours = [sys.executable, "-P", str(BENCH / "server_mbcore.py")]
    command = ours if name == "mbcore" else [str(compile_c("server_c.c", tmp_path))]
    with running(name, [*command, *options], tmp_path, max(os.sched_getaffinity(0))) as server:
        load = [mbload, "--port", str(server.port), "--expect", "pattern", "--conns", "20", "--depth", "4", "--type", "mix"]
        done = subprocess.run([*load, "--warmup", "0", "--duration", "0.3"], stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout)
    assert done.returncode == 0, result
    assert result["requests"] > 0
    assert result["exceptions"] == result["unanswered"] == result["out_of_order"] == 0
