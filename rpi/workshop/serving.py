"""Whether an installation in an emulated system serves: its demo unit, over TCP, read by mbpoll of this machine."""

import re
import subprocess
import time
from pathlib import Path

from .systems import need
from .tools import FailedError, run, say

PATIENCE = 300  # seconds, for an emulated Python on a machine that has other things to do
# The system's shell is this machine's; of this machine's programs an installation sees no more than these, and no compiler.
COMMANDS = ["sh", "dirname", "grep", "ln", "mkdir", "mv", "readlink", "rm", "sha256sum", "sync", "touch"]


# Also the one that Python's own build names.
COMPILERS = "import shutil, sysconfig; print(*filter(shutil.which, ['cc', 'gcc', 'clang', sysconfig.get_config_var('CC').split()[0]]))"


def bare_path(folder: Path, root: Path, python: str) -> Path:
    """A new folder for $PATH, with the Python of the root and no compiler."""
    folder.mkdir(parents=True)
    for name in COMMANDS:
        (folder / name).symlink_to(need(name))
    # Not a link: a virtual environment takes its folder for the system's.
    (folder / python).write_text(f'#!/bin/sh\nexec {root}/usr/bin/{python} "$@"\n')
    (folder / python).chmod(0o755)
    found = run(folder / python, "-c", COMPILERS, env={"PATH": str(folder)}).strip()
    if found:
        raise FailedError(f"an installation would find a compiler: {found}")
    return folder


def poll(program: Path, environment: dict[str, str], log: Path) -> None:
    """Have a `mbcore` serve there, and read from here."""
    command = [program, "serve", "tcp", "127.0.0.1", "-p", "0"]
    with log.open("w") as said, subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT) as server:
        try:
            port = port_of(server, log)
            answer = run(need("mbpoll"), "-m", "tcp", "-p", port, "-o", "10", "-a", "1", "-0", "-r", "0", "-c", "6", "-1", "127.0.0.1")
        finally:
            server.terminate()
            try:
                server.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                server.kill()
                raise FailedError(f"the server does not end:\n{log.read_text()}") from None
    values = re.findall(r"^\[(\d)\]:\s+(\d+)", answer, re.MULTILINE)
    if [place for place, _ in values] != list("012345"):
        raise FailedError(f"mbpoll did not read six registers:\n{answer}")
    say(f"mbpoll has read {', '.join(value for _, value in values)}")


def port_of(server: subprocess.Popen, log: Path) -> str:
    """What the kernel has given to a server, which says so when it listens."""
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit and server.poll() is None:
        said = re.search(r" on tcp 127\.0\.0\.1:(\d+)\n", log.read_text())
        if said:
            return said[1]
        time.sleep(0.2)
    raise FailedError(f"the server does not listen:\n{log.read_text()}")
