"""The servers that are compared: builds them and runs one at a time. Measures nothing but the start."""

import contextlib
import importlib.util
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NAMES = ("mbcore", "pymodbus2", "libmodbus", "c")
TITLES = {"mbcore": "mbcore", "pymodbus2": "pymodbus 2.5.3", "libmodbus": "libmodbus", "c": "C, epoll"}
# On a serial line, name -> server and options; mbcore is there twice.
LINES = {
    "mbcore": ("mbcore",),
    "mbcore_twisted": ("mbcore", "--twisted"),
    "pymodbus2": ("pymodbus2",),
    "libmodbus": ("libmodbus",),
    "c": ("c",),
}
LINE_TITLES = {**TITLES, "mbcore": "mbcore, compiled loop", "mbcore_twisted": "mbcore on Twisted", "c": "C, poll"}
CFLAGS = ("-O2", "-Wall", "-Wextra")

# Unit 1: ten holding registers from address 0, and the answer with the values of mbload's pattern.
QUERY = bytes.fromhex("0001 0000 0006 01 03 0000 000a")
ANSWER = bytes.fromhex("0001 0000 0017 01 03 14") + b"".join((a * 40503 + 0x1234 & 0xFFFF).to_bytes(2, "big") for a in range(10))


class BenchError(Exception):
    """Something that the benchmark needs is missing or went wrong; the text is one sentence for the user."""


@dataclass(frozen=True)
class Running:
    """A server that has given its first answer."""

    pid: int
    port: int
    cold_start: float  # seconds from the start of the process to the first answer
    start_cpu: float  # seconds of CPU time that it used for that

    @property
    def load(self) -> tuple[list[str], tuple[int, ...]]:
        """Options of mbload that reach it, and descriptors that mbload needs for that."""
        return ["--port", str(self.port)], ()

    def rss(self) -> int:
        """Resident memory now, in KB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])


@dataclass(frozen=True)
class RunningLine:
    """A server that has opened its serial line: a pseudo-terminal, whose other end is here."""

    pid: int
    end: int

    @property
    def load(self) -> tuple[list[str], tuple[int, ...]]:
        """Options of mbload that reach it, and descriptors that mbload needs for that."""
        return ["--rtu", f"fd:{self.end}"], (self.end,)


def run(command: Sequence[str | Path], failure: str) -> str:
    """The standard output of a command; BenchError with `failure` and the end of its messages when it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"{failure}\n{done.stderr.strip()[-2000:]}")
    return done.stdout


def compile_c(source: str, cache: Path, *libraries: str) -> Path:
    """The program of a C file of this directory, compiled anew when the source is newer."""
    path, program = HERE / source, (cache / source).with_suffix("")
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise BenchError("There is no C compiler: sudo apt install gcc")
    if not program.exists() or program.stat().st_mtime < path.stat().st_mtime:
        run([compiler, *CFLAGS, "-o", program, path, *libraries], f"{source} does not compile:")
    return program


def make_venv(cache: Path) -> Path:
    """The Python of a virtual environment with pymodbus 2.5.3 and nothing else that this one's Twisted doesn't need.

    mbcore runs in it as well, through a link to the package that this Python imports: both stand on the same Twisted, without
    the optional packages (pyOpenSSL above all) that Twisted imports when it finds them.
    """
    wanted = f"pymodbus==2.5.3\nTwisted=={version('Twisted')}\npyserial=={version('pyserial')}\n"
    directory = cache / "venv"
    python, requirements = directory / "bin/python", directory / "requirements.txt"
    if not requirements.exists() or requirements.read_text() != wanted:
        shutil.rmtree(directory, ignore_errors=True)
        run([sys.executable, "-m", "venv", directory], "No virtual environment for pymodbus 2.5.3: sudo apt install python3-venv")
        pending = directory / "requirements.pending"  # gets its name when all of it is installed
        pending.write_text(wanted)
        run([python, "-m", "pip", "install", "--quiet", "-r", pending], "pip can't install pymodbus 2.5.3 (--servers leaves it out):")
        pending.rename(requirements)
    return python


def link_mbcore(python: Path) -> None:
    """Makes the mbcore that this Python imports importable in the benchmark's virtual environment."""
    found = importlib.util.find_spec("mbcore")
    if found is None or found.origin is None:
        raise BenchError(f"mbcore is not installed in {sys.executable}: make builds and installs it")
    packages = run([python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))"], "the virtual environment does not start:")
    link = Path(packages.strip()) / "mbcore"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(found.origin).resolve().parent)
    run([python, "-I", "-c", "import mbcore.server"], "mbcore does not import:")


def build(names: Iterable[str], cache: Path) -> dict[str, list[str]]:
    """Builds what the named servers need; name -> command line, which lacks `--port N` or `--serial PATH`."""
    names, commands = list(names), {}
    python = make_venv(cache) if {"mbcore", "pymodbus2"} & set(names) else None
    for name in names:
        if name == "c":
            commands[name] = [str(compile_c("server_c.c", cache))]
        elif name == "libmodbus":
            if not Path("/usr/include/modbus/modbus.h").exists():
                raise BenchError("libmodbus' headers are missing: sudo apt install libmodbus-dev (or leave it out with --servers)")
            commands[name] = [str(compile_c("server_libmodbus.c", cache, "-lmodbus"))]
        elif python is not None:
            if name == "mbcore":
                link_mbcore(python)
            commands[name] = [str(python), "-I", str(HERE / f"server_{name}.py")]
    return commands


def free_port() -> int:
    """A TCP port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int) -> bytes:
    """The answer to QUERY, or what came of it; ConnectionRefusedError while nobody listens."""
    # From another address than the server's: a socket that dials a closed port again and again would meet itself one day.
    with socket.create_connection(("127.0.0.1", port), timeout=10, source_address=("127.0.0.2", 0)) as client:
        client.sendall(QUERY)
        answer = b""
        while len(answer) < len(ANSWER) and (chunk := client.recv(256)):
            answer += chunk
    return answer


@contextlib.contextmanager
def running(name: str, command: Sequence[str], cache: Path, core: int, patience: float = 30) -> Iterator[Running]:
    """A server on a port of its own, pinned to a core; it has answered once (within `patience` seconds) and is gone afterwards."""
    port, log = free_port(), cache / f"{name}.log"
    with started(TITLES[name], [*command, "--port", str(port)], log, core) as (process, start):
        while True:
            try:
                answer = ask(port)
                break
            except ConnectionRefusedError:
                if process.poll() is not None or time.perf_counter() - start > patience:
                    raise BenchError(f"{TITLES[name]} did not start: {log.read_text().strip()[-2000:]}") from None
                time.sleep(0.0002)
        cold_start = time.perf_counter() - start
        start_cpu = time.clock_gettime(~process.pid << 3 | 2)  # what clock_getcpuclockid(3) makes of a process id
        if answer != ANSWER:
            raise BenchError(f"{TITLES[name]} answered {answer.hex(' ')} instead of {ANSWER.hex(' ')}.")
        yield Running(process.pid, port, cold_start, start_cpu)


@contextlib.contextmanager
def running_line(name: str, command: Sequence[str], cache: Path, core: int, patience: float = 30) -> Iterator[RunningLine]:
    """A server on a serial line of its own, pinned to a core; it has said "ready" (within `patience` seconds) and is gone afterwards.

    Its line is one pseudo-terminal, whose other end the load generator holds: nobody stands between the two.
    """
    title, log = LINE_TITLES[name], cache / f"line.{name}.log"
    end, port = (os.fdopen(descriptor, "r+b", buffering=0) for descriptor in os.openpty())
    command = [*command, "--serial", os.ttyname(port.fileno())]
    with end, port, started(title, command, log, core, stdout=subprocess.PIPE) as (process, _), process.stdout as said:
        if not select.select([said], [], [], patience)[0] or said.readline() != b"ready\n":
            raise BenchError(f"{title} did not start: {log.read_text().strip()[-2000:]}")
        port.close()  # the server alone has it open now, so that the load generator sees when it ends
        yield RunningLine(process.pid, end.fileno())


@contextlib.contextmanager
def started(title: str, command: Sequence[str], log: Path, core: int, stdout: Any = None) -> Iterator[tuple[Any, float]]:
    """A process born on a core, and when; it is gone afterwards, and an error if it was before. What it says goes to the log."""
    mine = os.sched_getaffinity(0)
    with log.open("w") as output:
        os.sched_setaffinity(0, {core})
        start = time.perf_counter()
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout or output, stderr=output)
        finally:
            os.sched_setaffinity(0, mine)
    try:
        yield process, start
        if process.poll() is not None:
            raise BenchError(f"{title} ended by itself: {log.read_text().strip()[-2000:]}")
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
