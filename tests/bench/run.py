"""`make bench`: Modbus servers side by side in one interleaved run, TCP and serial line, each pinned to one core and the load to another.

Every answer is checked; a wrong one makes the run fail (exit status 1), a figure never does: the targets are printed, not enforced.
CPU time is the server process's own, user and system, per request. The page, its picture and all samples go to build/bench; with
--publish the page and the picture to docs/ as well.
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

import plot
import report
from cases import BUSY, CROWDS, FUNCTIONS, IDLE, LINE_TITLES, NAMES, PLAIN, PYTHON, TITLES, UNABLE, WITH_PYTHON, Case
from servers import HERE, BenchError, Running, RunningLine, build, compile_c, raise_limit, run, running, running_line

CACHE = HERE.parents[1] / "build" / "bench"
DOCS = HERE.parents[1] / "docs"
BUSY_SECONDS = 2.0  # at least: a server on a reactor that sleeps answers once a second


class Bench:
    """One run: where it is pinned, and what it has measured so far."""

    def __init__(self, commands: dict[str, list[str]], mbload: Path, seconds: float, quick: bool = False) -> None:
        self.commands, self.mbload, self.seconds, self.warm_up = commands, mbload, seconds, min(0.3, seconds / 2)
        self.busy_seconds = seconds if seconds < 1 else max(seconds, BUSY_SECONDS)
        cores = sorted(os.sched_getaffinity(0))
        self.load_core, self.server_core = cores[0], cores[-1]
        self.samples: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in commands}
        self.lines = [name for name in LINE_TITLES if name in commands]
        self.line_samples: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in self.lines}
        # A smoke test leaves out peers that take long.
        self.crowded = [name for name in commands if not quick or name in ("mbcore", "c")]
        self.with_python = [name for name in commands if name in (WITH_PYTHON[:2] if quick else WITH_PYTHON)]
        self.busy = [name for name in commands if name in (WITH_PYTHON[:1] if quick else WITH_PYTHON)]

    def load(self, title: str, server: Running | RunningLine, *options: str) -> dict[str, float]:
        """Puts load on a server; BenchError when an answer was wrong, late or an exception."""
        reach, descriptors = server.load
        command = [str(self.mbload), *reach, "--pid", str(server.pid), "--expect", "pattern", "--timeout", "30", *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, pass_fds=descriptors)
        result = json.loads(done.stdout) if done.stdout else {}
        if done.returncode or result["exceptions"]:
            wrong = {key: result[key] for key in ("requests", "error_kinds", "exception_codes") if key in result}
            raise BenchError(f"{title} answered wrong ({' '.join(options)}): {wrong}")
        return result

    def check(self, name: str) -> None:
        """Reads and writes of every function code that the server has; also makes Python write its .pyc files."""
        for options in ([], *([option] for option in PYTHON if name in WITH_PYTHON)):
            with running(name, [*self.commands[name], *options], CACHE, self.server_core) as server:
                for function in FUNCTIONS.get(name, ("mix",)):
                    self.load(TITLES[name], server, "--type", function, "--warmup", "0", "--requests", "1600")

    def check_line(self, name: str) -> None:
        """The same on a serial line."""
        with running_line(name, self.commands[name], CACHE, self.server_core) as server:
            self.load(LINE_TITLES[name], server, "--type", "mix", "--warmup", "0", "--requests", "320")

    def start(self, name: str) -> None:
        """One more cold start."""
        with running(name, self.commands[name], CACHE, self.server_core) as server:
            self.samples[name]["cold_start"].append(server.cold_start * 1e3)
            self.samples[name]["start_cpu"].append(server.start_cpu * 1e3)

    def measure(self, name: str) -> str:
        """A fresh server under the load of several clients; says what it measured."""
        took = self.samples[name]
        with running(name, self.commands[name], CACHE, self.server_core) as server:
            took["rss_start"].append(server.rss() / 1024)
            said = self.measure_cases(name, server, PLAIN)
            took["rss_load"].append(server.rss() / 1024)
        return said

    def measure_crowds(self, name: str) -> str:
        """A fresh server with many connections, silent ones first."""
        said = ""
        with running(name, self.commands[name], CACHE, self.server_core) as server:
            if (name, "idle") not in UNABLE:
                self.samples[name]["idle"].append(server.idle_memory(IDLE))
                said = f"   idle {self.samples[name]['idle'][-1]:.2f} KB"
            return self.measure_cases(name, server, CROWDS) + said

    def measure_python(self, name: str, option: str) -> str:
        """A fresh server whose every request Python answers or hears of."""
        with running(name, [*self.commands[name], option], CACHE, self.server_core) as server:
            return self.measure_cases(name, server, PYTHON[option])

    def measure_cases(self, name: str, server: Running, cases: dict[str, Case]) -> str:
        """A server under several loads, one after the other."""
        took, said = self.samples[name], []
        for case, load in cases.items():
            if (name, case) in UNABLE:
                continue
            result = self.load(
                TITLES[name], server, "--conns", str(load.connections), "--depth", str(load.depth), *load.options,
                # A burst of connections does not fit into everyone's backlog.
                "--connect-gap", "0.0002" if load.connections > 50 else "0",
                "--warmup", str(self.warm_up), "--duration", str(self.seconds),
            )  # fmt: skip
            took[f"cpu_{case}"].append(result["server_cpu_s"] / result["requests"] * 1e6)
            took[f"p50_{case}"].append(result["p50_us"])
            took[f"p99_{case}"].append(result["p99_us"])
            said.append(f"{load.heading} {took[f'cpu_{case}'][-1]:.2f} µs")
        return "   ".join(said)

    def measure_busy(self, name: str, case: str) -> str:
        """A fresh server whose application is busy, over TCP and on a serial line."""
        command, load = [*self.commands[name], "--busy", case], BUSY[case]
        timing = ("--warmup", "0.5", "--duration", str(self.busy_seconds))
        with running(name, command, CACHE, self.server_core) as server:
            result = self.load(TITLES[name], server, "--conns", str(load.connections), *load.options, *timing)
        with running_line(name, command, CACHE, self.server_core) as line:
            on_line = self.load(LINE_TITLES[name], line, *load.options, *timing)
        for samples, taken in ((self.samples, result), (self.line_samples, on_line)):
            samples[name][f"p50_{case}"].append(taken["p50_us"] / 1e3)
            samples[name][f"p99_{case}"].append(taken["p99_us"] / 1e3)
        return f"{load.heading}: p99 {result['p99_us'] / 1e3:.2f} ms, on a line {on_line['p99_us'] / 1e3:.2f} ms"

    def measure_line(self, name: str) -> str:
        """A fresh server on a serial line under load; says what it measured."""
        took = self.line_samples[name]
        with running_line(name, self.commands[name], CACHE, self.server_core) as server:
            result = self.load(LINE_TITLES[name], server, "--warmup", str(self.warm_up), "--duration", str(self.seconds))
        took["p50"].append(result["p50_us"])
        took["p99"].append(result["p99_us"])
        took["cpu"].append(result["server_cpu_s"] / result["requests"] * 1e6)
        return f"p50 {result['p50_us']:.1f} µs   p99 {result['p99_us']:.1f} µs"

    def round(self, say: "Progress") -> None:
        """Every server once under every load; those that are compared follow one another."""
        for name in self.commands:
            say(TITLES[name], self.measure(name))
        for name in self.crowded:
            say(TITLES[name], self.measure_crowds(name))
        for option in PYTHON:
            for name in self.with_python:
                say(TITLES[name], self.measure_python(name, option))
        for case in BUSY:
            for name in self.busy:
                say(TITLES[name], self.measure_busy(name, case))
        for name in self.lines:
            say(LINE_TITLES[name], f"line {self.measure_line(name)}")

    def count_instructions(self, name: str, requests: int = 2000) -> None:
        """Instructions in user space per request, one connection, one request in flight."""
        profile = CACHE / f"callgrind.{name}"
        for old in CACHE.glob(f"{profile.name}*"):
            old.unlink()
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", *self.commands[name]]
        with running(name, command, CACHE, self.server_core, patience=180) as server:
            self.load(TITLES[name], server, "--warmup", "0", "--requests", "500", "--duration", "300")
            run(["callgrind_control", "-z", str(server.pid)], "callgrind can't be set to zero:")
            self.load(TITLES[name], server, "--warmup", "0", "--requests", str(requests), "--duration", "300")
            run(["callgrind_control", "-d", str(server.pid)], "callgrind gives no profile:")
            lines = Path(f"{profile}.1").read_text().splitlines()
        total = next(int(line.split()[1]) for line in lines if line.startswith("summary:"))
        self.samples[name]["instructions"].append(total / requests)


class Progress:
    """What is said while it runs, each line with the time since the start; the page itself goes to standard output."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, *parts: str) -> None:
        seconds = int(time.monotonic() - self.start)
        text = f"{parts[0]:18} {parts[1]}" if len(parts) > 1 else parts[0]
        print(f"{seconds // 60:3}:{seconds % 60:02}  {text}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="run.py", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test of a minute: are all answers right?")
    parser.add_argument("--rounds", type=int, default=7, help="rounds over all servers (7)")
    parser.add_argument("--seconds", type=float, default=1.0, help="measured time per server, load and round (1)")
    parser.add_argument("--starts", type=int, default=15, help="cold starts of each server (15)")
    parser.add_argument("--servers", default=",".join(NAMES), help=f"which ones, separated by commas ({','.join(NAMES)})")
    parser.add_argument("--instructions", action="store_true", help="instructions per request too, by valgrind (slow)")
    parser.add_argument("--publish", action="store_true", help="write docs/benchmarks.md and docs/benchmarks.svg; for a whole run")
    chosen = parser.parse_args()
    chosen.servers = list(dict.fromkeys(chosen.servers.split(",")))
    if unknown := set(chosen.servers) - set(NAMES):
        parser.error(f"unknown server {', '.join(sorted(unknown))}: there are {', '.join(NAMES)}")
    if chosen.publish and (chosen.quick or set(chosen.servers) != set(NAMES)):
        parser.error("--publish is for a whole run: leave out --quick and --servers")
    if chosen.quick:
        chosen.rounds, chosen.seconds, chosen.starts = 1, 0.2, 1
    if chosen.rounds < 1 or chosen.starts < 1 or chosen.seconds <= 0:
        parser.error("--rounds, --starts and --seconds must be above zero")
    if chosen.instructions and not shutil.which("valgrind"):
        parser.error("valgrind is missing: sudo apt install valgrind")
    chosen.servers.sort(key=NAMES.index)
    return chosen


def measured_by(chosen: argparse.Namespace, say: Progress) -> Bench:
    """Builds, checks and measures."""
    say("building the servers")
    mbload = compile_c("mbload.c", CACHE)
    commands = build(chosen.servers, CACHE)
    bench = Bench(commands, mbload, chosen.seconds, chosen.quick)
    os.sched_setaffinity(0, {bench.load_core})
    for name in bench.commands:
        bench.check(name)
        say(TITLES[name], "answers are right")
    for name in bench.lines:
        bench.check_line(name)
        say(LINE_TITLES[name], "answers on a serial line are right")
    for number in range(1, chosen.starts + 1):
        say(f"cold start {number} of {chosen.starts}")
        for name in bench.commands:
            bench.start(name)
    begun = time.monotonic()
    for number in range(1, chosen.rounds + 1):
        left = (time.monotonic() - begun) / max(number - 1, 1) * (chosen.rounds - number + 1) / 60
        say(f"round {number} of {chosen.rounds}" + (f", about {left:.0f} minutes left" if number > 1 else ""))
        bench.round(say)
    if chosen.instructions:
        for name in bench.commands:
            say(f"counting instructions of {TITLES[name]}")
            bench.count_instructions(name)
    return bench


def main() -> None:
    """Measures and reports."""
    chosen = arguments()
    if sys.platform != "linux":
        raise BenchError("The benchmark needs Linux: it pins processes to cores and reads /proc.")
    CACHE.mkdir(parents=True, exist_ok=True)
    raise_limit()
    bench = measured_by(chosen, Progress())
    run_of = report.Run(
        machine=report.machine(), date=time.strftime("%Y-%m-%d"), rounds=chosen.rounds, seconds=chosen.seconds, starts=chosen.starts,
        cores=(bench.server_core, bench.load_core), tcp=bench.samples, line=bench.line_samples,
    )  # fmt: skip
    page, picture = report.markdown(run_of), plot.svg(run_of)
    for directory in (CACHE, DOCS) if chosen.publish else (CACHE,):
        (directory / "benchmarks.md").write_text(page)
        (directory / report.PICTURE).write_text(picture)
    (CACHE / "result.json").write_text(json.dumps({**run_of._asdict(), "verdicts": report.verdicts(run_of)}, indent=1) + "\n")
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
