"""What the scripts of `rpi/` have in common: where things are, steps that say how far they are, and Python with the tools in it.

Runs on the machine that builds and is not installed with mbcore.
"""

import hashlib
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
BUILD = TREE / "build" / "rpi"
WHEELS = TREE / "dist" / "pi"

_begun = time.monotonic()


class FailedError(Exception):
    """What went wrong, as a sentence for the user."""


def say(text: str) -> None:
    """One line of progress, with the seconds since the start."""
    sys.stdout.write(f"[{time.monotonic() - _begun:4.0f} s] {text}\n")
    sys.stdout.flush()


def run(*command: object, **options) -> str:
    """What a command prints; that is shown only where it fails."""
    try:
        done = subprocess.run([str(part) for part in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    except FileNotFoundError as error:
        raise FailedError(f"there is no {error.filename}: install it") from error
    if done.returncode:
        raise FailedError(f"{done.stdout.rstrip()}\n{' '.join(map(str, command))}: ended with {done.returncode}")
    return done.stdout


def main(work) -> int:
    """Run `work()`; a failure is one message and the exit code 1."""
    try:
        work()
    except FailedError as failed:
        sys.stdout.flush()
        sys.stderr.write(f"{failed}\n")
        return 1
    return 0


def inside_tools() -> None:
    """Go on in a Python that has the pinned tools; make it where it is not there."""
    home, wanted = BUILD / "tools", Path(__file__).with_name("tools.txt")
    stamp = home / "installed.txt"
    if Path(sys.prefix) == home:
        return
    if not stamp.exists() or stamp.read_text() != wanted.read_text():
        say(f"the tools into {home.relative_to(TREE)}")
        venv.create(home, clear=True, with_pip=True)
        run(home / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "-r", wanted)
        stamp.write_text(wanted.read_text())
    os.execv(home / "bin" / "python", [str(home / "bin" / "python"), *sys.argv])


def epoch() -> int:
    """When what is built was written, seconds: the time of all files in what is packed."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    try:
        return int(run("git", "log", "-1", "--format=%ct", cwd=TREE))
    except (FailedError, OSError) as error:
        raise FailedError(f"git does not tell the time of the last commit ({error}): set SOURCE_DATE_EPOCH") from error


def write_sums(folder: Path) -> None:
    """SHA256SUMS of the files in a folder, as sha256sum writes them."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name != "SHA256SUMS")
    (folder / "SHA256SUMS").write_text("".join(f"{sha256(file)}  {file.name}\n" for file in files))


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
