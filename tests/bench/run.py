"""`make bench`: Modbus servers side by side in one interleaved run, TCP and serial line, each pinned to one core and the load to another.

Every answer is checked; a wrong one makes the run fail (exit status 1), a figure never does: the targets are printed, not enforced.
CPU time is the server process's own, user and system, per request. Results go to build/bench/result.md and result.json.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -P does not put it there

import report
from servers import HERE, LINE_TITLES, LINES, NAMES, TITLES, BenchError, Running, RunningLine, build, compile_c, run, running, running_line

CACHE = HERE.parents[1] / "build" / "bench"
CASES = {"50x1": (50, 1), "50x16": (50, 16)}  # connections x requests in flight on each, FC3 x 10 registers
OWN_BLOCKS = ("mbcore", "pymodbus2")  # those that can read from a user's data block, in the case "own"; it is 50x1 otherwise


class Bench:
    """One run: where it is pinned, and what it has measured so far."""

    def __init__(self, commands: dict[str, list[str]], mbload: Path, seconds: float, warm_up: float) -> None:
        self.commands, self.mbload, self.seconds, self.warm_up = commands, mbload, seconds, warm_up
        cores = sorted(os.sched_getaffinity(0))
        self.load_core, self.server_core = cores[0], cores[-1]
        self.samples: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in commands}
        self.lines = {name: [*commands[server], *options] for name, (server, *options) in LINES.items() if server in commands}
        self.line_samples: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in self.lines}

    def load(self, title: str, server: Running | RunningLine, *options: str) -> dict[str, float]:
        """Puts load on a server; BenchError when an answer was wrong, late or an exception."""
        reach, descriptors = server.load
        command = [str(self.mbload), *reach, "--pid", str(server.pid), "--expect", "pattern", *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, pass_fds=descriptors)
        result = json.loads(done.stdout) if done.stdout else {}
        if done.returncode or result["exceptions"]:
            wrong = {key: result[key] for key in ("requests", "error_kinds", "exception_codes") if key in result}
            raise BenchError(f"{title} answered wrong ({' '.join(options)}): {wrong}")
        return result

    def check(self, name: str) -> None:
        """Reads and writes of every function code that mbload mixes; also makes Python write its .pyc files."""
        for command in (self.commands[name], self.own_block(name)):
            if command:
                with running(name, command, CACHE, self.server_core) as server:
                    self.load(TITLES[name], server, "--type", "mix", "--warmup", "0", "--requests", "1600")

    def check_line(self, name: str) -> None:
        """The same on a serial line."""
        with running_line(name, self.lines[name], CACHE, self.server_core) as server:
            self.load(LINE_TITLES[name], server, "--type", "mix", "--warmup", "0", "--requests", "320")

    def start(self, name: str) -> None:
        """One more cold start."""
        with running(name, self.commands[name], CACHE, self.server_core) as server:
            self.samples[name]["cold_start"].append(server.cold_start * 1e3)
            self.samples[name]["start_cpu"].append(server.start_cpu * 1e3)

    def measure(self, name: str) -> str:
        """A fresh server under each case's load; says what it measured."""
        took = self.samples[name]
        with running(name, self.commands[name], CACHE, self.server_core) as server:
            took["rss_start"].append(server.rss() / 1024)
            said = [self.measure_case(name, server, case, *CASES[case]) for case in CASES]
            took["rss_load"].append(server.rss() / 1024)
        if command := self.own_block(name):
            with running(name, command, CACHE, self.server_core) as server:
                said.append(self.measure_case(name, server, "own", *CASES["50x1"]))
        return "   ".join(said)

    def measure_case(self, name: str, server: Running, case: str, connections: int, depth: int) -> str:
        """A server under one case's load; says what it measured."""
        took = self.samples[name]
        result = self.load(
            TITLES[name], server, "--conns", str(connections), "--depth", str(depth),
            "--warmup", str(self.warm_up), "--duration", str(self.seconds),
        )  # fmt: skip
        took[f"cpu_{case}"].append(result["server_cpu_s"] / result["requests"] * 1e6)
        took[f"p50_{case}"].append(result["p50_us"])
        took[f"p99_{case}"].append(result["p99_us"])
        return f"{case} {took[f'cpu_{case}'][-1]:6.2f} µs/request"

    def measure_line(self, name: str, seconds: float) -> str:
        """A fresh server on a serial line under load; says what it measured."""
        took = self.line_samples[name]
        with running_line(name, self.lines[name], CACHE, self.server_core) as server:
            warm_up = min(self.warm_up, seconds)
            result = self.load(LINE_TITLES[name], server, "--warmup", str(warm_up), "--duration", str(seconds))
        took["p50"].append(result["p50_us"])
        took["p99"].append(result["p99_us"])
        took["cpu"].append(result["server_cpu_s"] / result["requests"] * 1e6)
        return f"p50 {result['p50_us']:6.1f} µs   p99 {result['p99_us']:6.1f} µs"

    def own_block(self, name: str) -> list[str]:
        """The command of a server whose holding registers are a user's data block; empty where there is none."""
        return [*self.commands[name], "--own-block"] if name in OWN_BLOCKS else []

    def count_instructions(self, name: str, requests: int = 2000) -> None:
        """Instructions in user space per request, one connection, one request in flight."""
        profile = CACHE / f"callgrind.{name}"
        for old in CACHE.glob(f"{profile.name}*"):
            old.unlink()
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", *self.commands[name]]
        with running(name, command, CACHE, self.server_core, patience=180) as server:
            self.load(TITLES[name], server, "--warmup", "0", "--requests", "500", "--timeout", "30", "--duration", "300")
            run(["callgrind_control", "-z", str(server.pid)], "callgrind can't be set to zero:")
            self.load(TITLES[name], server, "--warmup", "0", "--requests", str(requests), "--timeout", "30", "--duration", "300")
            run(["callgrind_control", "-d", str(server.pid)], "callgrind gives no profile:")
            lines = Path(f"{profile}.1").read_text().splitlines()
        total = next(int(line.split()[1]) for line in lines if line.startswith("summary:"))
        self.samples[name]["instructions"].append(total / requests)


def say(text: str) -> None:
    """Progress; the page itself goes to standard output."""
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="run.py", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test of half a minute: are all answers right?")
    parser.add_argument("--rounds", type=int, default=7, help="rounds over all servers (7)")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured time per server, case and round (2)")
    parser.add_argument("--starts", type=int, default=15, help="cold starts of each server (15)")
    parser.add_argument("--servers", default=",".join(NAMES), help=f"which ones, separated by commas ({','.join(NAMES)})")
    parser.add_argument("--instructions", action="store_true", help="instructions per request too, by valgrind (slow)")
    chosen = parser.parse_args()
    chosen.servers = list(dict.fromkeys(chosen.servers.split(",")))
    if unknown := set(chosen.servers) - set(NAMES):
        parser.error(f"unknown server {', '.join(sorted(unknown))}: there are {', '.join(NAMES)}")
    chosen.line_seconds = chosen.seconds
    if chosen.quick:
        chosen.rounds, chosen.seconds, chosen.line_seconds, chosen.starts = 1, 0.5, 0.1, 3
    if chosen.rounds < 1 or chosen.starts < 1 or chosen.seconds <= 0:
        parser.error("--rounds, --starts and --seconds must be above zero")
    if chosen.instructions and not shutil.which("valgrind"):
        parser.error("valgrind is missing: sudo apt install valgrind")
    return chosen


def main() -> None:
    """Builds, measures, reports."""
    chosen = arguments()
    if sys.platform != "linux":
        raise BenchError("The benchmark needs Linux: it pins processes to cores and reads /proc.")
    CACHE.mkdir(parents=True, exist_ok=True)
    say("building the servers")
    mbload = compile_c("mbload.c", CACHE)
    bench = Bench(build(chosen.servers, CACHE), mbload, chosen.seconds, warm_up=min(0.5, chosen.seconds))
    os.sched_setaffinity(0, {bench.load_core})
    for name in bench.commands:
        bench.check(name)
        say(f"{TITLES[name]}: answers are right")
    for name in bench.lines:
        bench.check_line(name)
        say(f"{LINE_TITLES[name]}: answers on a serial line are right")
    for number in range(1, chosen.starts + 1):
        say(f"cold start {number} of {chosen.starts}")
        for name in bench.commands:
            bench.start(name)
    for number in range(1, chosen.rounds + 1):
        for name in bench.commands:
            say(f"round {number} of {chosen.rounds}   {TITLES[name]:15} {bench.measure(name)}")
        for name in bench.lines:
            say(f"round {number} of {chosen.rounds}   line, {LINE_TITLES[name]:21} {bench.measure_line(name, chosen.line_seconds)}")
    if chosen.instructions:
        for name in bench.commands:
            say(f"counting instructions of {TITLES[name]}")
            bench.count_instructions(name)

    machine = report.machine()
    setting = (
        "FC3 x 10 registers, connections x requests in flight; own block: a data block whose getValues is Python's. "
        f"Rounds: {chosen.rounds} of {chosen.seconds:g} s, "
        f"cold starts: {chosen.starts}; servers on core {bench.server_core}, load on core {bench.load_core}. "
        f"{machine['cpu']}, {machine['system']}, Python {machine['python']}, Twisted {machine['twisted']}, {time.strftime('%Y-%m-%d')}."
    )
    line_setting = (
        "RTU at 115200 Bd over a pseudo-terminal whose other end is the load generator's: FC3 x 10 registers, one request at a time, "
        "from the first byte written to the last one read. Reply delay 0 (pymodbus and libmodbus have none); pymodbus 2.5.3: its Twisted "
        f"server, timeout=0. Rounds: {chosen.rounds} of {chosen.line_seconds:g} s between those of TCP, on the same cores."
    )
    page = report.markdown(bench.samples, setting, bench.line_samples, line_setting)
    (CACHE / "result.md").write_text(page)
    figures = {
        "machine": machine,
        "setting": setting,
        "samples": bench.samples,
        "ratios": report.ratios(report.TCP, bench.samples),
        "line_setting": line_setting,
        "line_samples": bench.line_samples,
        "line_ratios": report.ratios(report.LINE, bench.line_samples),
    }
    (CACHE / "result.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(page)


if __name__ == "__main__":
    for ending in (signal.SIGTERM, signal.SIGHUP):  # leave by the `finally` that stops the servers
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    try:
        main()
    except BenchError as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
