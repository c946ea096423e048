#!/usr/bin/env python3
"""Storms over a server on the compiled loops in a process of its own, in rounds; ends with 1 where anything was not as it has to be.

    make storm                                30 minutes; what the server holds must be flat
    make storm ARGS="--minutes 1 --seed 7"
    make storm ARGS="--sanitize address --minutes 5"
    make storm ARGS="--sanitize thread --minutes 5"

Clients poll, pipeline, read slowly, half-close, babble, reset their connections and leave halfway, on TCP, on RTU over TCP, by UDP and on
a serial line; some come from hosts that may have a few connections only, fall silent for longer than they may, or are not let in; and the
server's process is forked. In every second round there are more clients than the server has room for. After each round all have left and
the server is looked at: descriptors and threads must be those after the first round, and, in a storm that is long enough for the
allocator to find its size, resident memory must not grow (see `judge`).

--sanitize builds the extensions anew, with the compiler's sanitizers, under build/sanitize, and storms over a server on these. What a
sanitizer says is an error. Memory is not looked at then, for it is mostly the sanitizer's.
"""

import argparse
import contextlib
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from storm.clients import LineMaster, Storm

import mbcore

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
MINUTES = 30.0
ROUNDS = 24
PATIENCE = 60
# Resident memory may grow by so many KiB from the second quarter of the rounds to the last one, in a storm of at least so many minutes.
GROWTH = 1024
LONG = 5.0
SANITIZERS = {"address": "address,undefined", "thread": "thread"}
LIBRARIES = {"address": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}
SUPPRESSIONS = Path(__file__).with_name("thread.supp")


class Sample(NamedTuple):
    """What the server holds while nobody is connected."""

    resident: int  # KiB
    descriptors: int
    threads: int


class Server:
    """The server's process. `folder`: where its mbcore is."""

    def __init__(self, folder, line=None, gated=False, forks=False, **environment):
        order = json.dumps({"line": line, "gated": gated, "forks": forks})
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        path = os.pathsep.join([str(folder), str(TESTS)])
        self._process = subprocess.Popen(
            [*_without_randomised_addresses(environment), sys.executable, "-P", str(Path(__file__).with_name("server.py")), order],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, bufsize=1,
            env={**os.environ, **environment, "PYTHONPATH": path},
        )  # fmt: skip
        try:
            self.ports = self._hear()
        except BaseException:
            self.kill()
            raise

    def state(self):
        print(file=self._process.stdin)
        return self._hear()

    def sample(self):
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        numbers = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if len(line.split()) > 1}
        descriptors = os.listdir(f"/proc/{self._process.pid}/fd")
        return Sample(int(numbers["VmRSS"]), len(descriptors), int(numbers["Threads"]))

    def stop(self):
        """Its last state and exit code."""
        self._process.stdin.close()
        state = self._hear()
        return state, self._process.wait(PATIENCE)

    def complaints(self):
        """What it, or a sanitizer, wrote to standard error."""
        self._errors.seek(0)
        return self._errors.read()

    def kill(self):
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()

    def _hear(self):
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            raise RuntimeError(f"the server said nothing (exit code {self._process.poll()}):\n{self.complaints()}")
        return json.loads(line)


def _without_randomised_addresses(environment):
    # The shadow memory of older thread sanitizers does not cover all of what newer kernels use.
    return ["setarch", platform.machine(), "-R"] if "TSAN_OPTIONS" in environment else []


def judge(samples, memory=True):
    """What is not flat in the samples, one after each round; nothing where all is well.

    The first round makes what is made once. Resident memory of the second quarter is the measure for the last one, by their medians:
    until then the allocator has found its size.
    """
    faults = []
    for name in ("descriptors", "threads"):
        numbers = [getattr(sample, name) for sample in samples]
        if set(numbers) != {numbers[0]}:
            faults.append(f"{name} are not flat: {numbers}")
    quarter = len(samples) // 4
    before, after = (
        statistics.median(sample.resident for sample in part) for part in (samples[quarter : 2 * quarter], samples[-quarter:])
    )
    if memory and after - before > GROWTH:
        faults.append(f"resident memory grows: {before:.0f} KiB, then {after:.0f} KiB")
    return faults


def at_rest(server, limit=PATIENCE):
    """A sample once nothing of the clients is left: the descriptors do not change any more."""
    until = time.monotonic() + limit
    last = server.sample()
    same = 0
    while same < 5 and time.monotonic() < until:
        time.sleep(0.1)
        sample = server.sample()
        same = same + 1 if sample.descriptors == last.descriptors else 0
        last = sample
    return last


def build(sanitizer):
    """Build mbcore with a sanitizer; the folder it is in, and the environment that its processes need."""
    folder = ROOT / "build" / "sanitize" / sanitizer
    environment = {**os.environ, "MBCORE_SANITIZE": SANITIZERS[sanitizer]}
    words = ["-q", "build", "--build-lib", str(folder / "lib"), "--build-temp", str(folder / "temp"), "--parallel", str(os.cpu_count())]
    made = subprocess.run([sys.executable, "setup.py", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if made.returncode:
        sys.exit(f"the build with {SANITIZERS[sanitizer]} fails:\n{made.stdout}{made.stderr}")
    marker = f"__{sanitizer[0]}san_init".encode()
    if not all(marker in library.read_bytes() for library in (folder / "lib").rglob("*.so")):
        sys.exit(f"{folder} holds libraries that are not built with {SANITIZERS[sanitizer]}: remove the folder")
    compiler = os.environ.get("CC", "cc").split()[0]
    libraries = [
        subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in LIBRARIES[sanitizer]
    ]
    for library in libraries:
        if not os.path.isabs(library):
            sys.exit(f"the compiler {compiler} has no {library}: take gcc, which brings it (sudo apt install build-essential)")
    options = {"LD_PRELOAD": " ".join(libraries), "PYTHONMALLOC": "malloc"}
    if sanitizer == "thread":
        options["TSAN_OPTIONS"] = f"halt_on_error=0:second_deadlock_stack=1:suppressions={SUPPRESSIONS}"
    else:
        # Leaks are what the soak looks for: an interpreter that ends leaves much behind.
        options["ASAN_OPTIONS"] = "detect_leaks=0:detect_stack_use_after_return=1:strict_string_checks=1"
        options["UBSAN_OPTIONS"] = "print_stacktrace=1"
    return folder / "lib", options


def storm(minutes, seed, sanitizer=None, rounds=ROUNDS):
    """Storm for so many minutes; what was not as it has to be."""
    folder, environment = build(sanitizer) if sanitizer else (Path(mbcore.__file__).parents[1], {})
    line = LineMaster(seed)
    gated = bool(seed % 2)
    # A sanitizer's own locks are not whole in a fork.
    server = Server(folder, line.path, gated, forks=not sanitizer, **environment)
    try:
        samples = []
        raging = Storm(server.ports, seed, line, gated)
        begun = time.monotonic()
        for number in range(rounds):
            raging.rage(60 * minutes / rounds, crowded=bool(number % 2))
            samples.append(at_rest(server))
            state = server.state()
            heard = f"{state['heard']} writes heard of, {state['counted']} of them numbered"
            clients = f"{raging.lives} clients, {raging.gone} of them sent away, {heard}"
            held = "{0.resident} KiB, {0.descriptors} descriptors, {0.threads} threads".format(samples[-1])
            print(f"{time.monotonic() - begun:5.0f} s: {clients}; {held}", flush=True)
            if raging.faults:
                break
        faults = raging.faults or judge(samples, minutes >= LONG and not sanitizer)
        state, code = server.stop()
        if code or not state["counted"] or not (state["forks"] or sanitizer):
            faults.append(f"the server ends with {code}: {state}")
        if said := server.complaints():
            faults.append(f"the server says:\n{said}")
        return faults
    finally:
        server.kill()
        line.close()


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"how long ({MINUTES:g})")
    parser.add_argument("--seed", type=int, default=1, help="of the clients' chances (1)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"after how many all have left, 4 or more ({ROUNDS})")
    parser.add_argument("--sanitize", choices=SANITIZERS, help="storm over a build with these")
    given = parser.parse_args(words)
    if given.rounds < 4:
        parser.error(f"--rounds is {given.rounds}: what is flat shows in 4 or more")
    faults = storm(given.minutes, given.seed, given.sanitize, given.rounds)
    print("\n".join(faults) if faults else "all is well", flush=True)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
