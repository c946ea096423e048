"""The servers that are compared: builds them and runs one at a time. Measures nothing but the start."""

import contextlib
import importlib.util
import os
import resource
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

from cases import LINE_TITLES, TITLES

HERE = Path(__file__).resolve().parent
DESCRIPTORS = 4096  # that the servers and the load generator may have open
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

    def idle_memory(self, count: int) -> float:
        """Resident memory that each of `count` connections takes that have asked once and are silent now, in KB."""
        before = self.rss()
        with contextlib.ExitStack() as held:
            for _ in range(count):
                if (answer := ask(held.enter_context(dial(self.port)))) != ANSWER:
                    raise BenchError(f"One of {count} connections was answered {answer.hex(' ') or 'nothing'}.")
            return (self.rss() - before) / count


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
        raise BenchError(f"{failure}\n{done.stderr.strip()[-2000:]}".strip())
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


def requirements() -> dict[str, tuple[str, ...]]:
    """What stands in each virtual environment beside Python itself.

    mbcore and the bare Twisted server run in pymodbus 2.5.3's, on the same Twisted without the optional packages (pyOpenSSL above all)
    that it imports when it finds them; mbcore through a link to the package that this Python imports.
    """
    return {
        "pymodbus2": ("pymodbus==2.5.3", f"Twisted=={version('Twisted')}", f"pyserial=={version('pyserial')}"),
        "pymodbus3": ("pymodbus==3.16.1",),
        "umodbus": ("uModbus==1.0.4", f"pyserial=={version('pyserial')}"),
    }


def make_venv(peer: str, cache: Path) -> Path:
    """The Python of a virtual environment of a peer's own."""
    packages = requirements()[peer]
    wanted = "".join(f"{package}\n" for package in packages)
    directory = cache / "venvs" / peer
    python, installed = directory / "bin/python", directory / "requirements.txt"
    if not installed.exists() or installed.read_text() != wanted:
        shutil.rmtree(directory, ignore_errors=True)
        run([sys.executable, "-m", "venv", directory], f"No virtual environment for {packages[0]}: sudo apt install python3-venv")
        pending = directory / "requirements.pending"  # gets its name when all of it is installed
        pending.write_text(wanted)
        run([python, "-m", "pip", "install", "--quiet", "-r", pending], f"pip can't install {packages[0]} (--servers leaves it out):")
        pending.rename(installed)
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
    commands = {}
    for name in names:
        if name == "c":
            commands[name] = [str(compile_c("server_c.c", cache))]
        elif name == "libmodbus":
            if not Path("/usr/include/modbus/modbus.h").exists():
                raise BenchError("libmodbus' headers are missing: sudo apt install libmodbus-dev (or leave it out with --servers)")
            commands[name] = [str(compile_c("server_libmodbus.c", cache, "-lmodbus"))]
        else:
            program, *options = {"mbcore_twisted": ("mbcore", "--twisted")}.get(name, (name,))
            python = make_venv(name if name in requirements() else "pymodbus2", cache)
            if program == "mbcore":
                link_mbcore(python)
            commands[name] = [str(python), "-I", str(HERE / f"server_{program}.py"), *options]
    return commands


def raise_limit() -> None:
    """Lets this process and those that it starts open as many descriptors as a crowd of connections takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        raise BenchError(f"2000 connections need {DESCRIPTORS} descriptors and this process may have {hard}: see ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A TCP port that is bound and not listening: nobody but a server that sets SO_REUSEADDR, as all of these do, gets it meanwhile."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


def dial(port: int) -> socket.socket:
    """A connection to a server; ConnectionRefusedError while nobody listens."""
    # From another address than the server's: a socket that dials a closed port again and again would meet itself one day.
    return socket.create_connection(("127.0.0.1", port), timeout=10, source_address=("127.0.0.2", 0))


def ask(client: socket.socket) -> bytes:
    """The answer to QUERY, or what came of it."""
    client.sendall(QUERY)
    answer = b""
    while len(answer) < len(ANSWER) and (chunk := client.recv(256)):
        answer += chunk
    return answer


@contextlib.contextmanager
def running(name: str, command: Sequence[str], cache: Path, core: int, patience: float = 30) -> Iterator[Running]:
    """A server on a port of its own, pinned to a core; it has answered once (within `patience` seconds) and is gone afterwards."""
    log = cache / f"{name}.log"
    with reserved_port() as port, started(TITLES[name], [*command, "--port", str(port)], log, core) as (process, start):
        while True:
            try:
                with dial(port) as client:
                    answer = ask(client)
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
