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
TOOLS = BUILD / "tools"

#: seconds for one step of those that say nothing; a hung one has to end, too
LIMIT = 1800

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
        words, options = [str(part) for part in command], {"timeout": LIMIT} | options
        done = subprocess.run(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    except FileNotFoundError as error:
        raise FailedError(f"there is no {error.filename}: install it") from error
    except subprocess.TimeoutExpired as error:
        said = (error.output or b"").decode(errors="replace").rstrip()
        raise FailedError(f"{said}\n{' '.join(map(str, command))}: has not ended within {error.timeout} s") from error
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
    if Path(sys.prefix) == TOOLS:
        return
    if main(_make_tools):
        sys.exit(1)
    os.execv(TOOLS / "bin" / "python", [str(TOOLS / "bin" / "python"), *sys.argv])


def _make_tools() -> None:
    # Not mbcore's own Python, but that of the machine that builds.
    if sys.version_info < (3, 11):  # noqa: UP036
        raise FailedError(f"{sys.executable} is Python {'.'.join(map(str, sys.version_info[:2]))}: run this with 3.11 or newer")
    wanted, stamp = Path(__file__).with_name("tools.txt"), TOOLS / "installed.txt"
    if stamp.exists() and stamp.read_text() == wanted.read_text():
        return
    say(f"the tools into {TOOLS.relative_to(TREE)}")
    try:
        venv.create(TOOLS, clear=True, with_pip=True)
    except subprocess.CalledProcessError as error:
        raise FailedError(f"{sys.executable} makes no virtual environment with pip: sudo apt install python3-venv") from error
    run(TOOLS / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "-r", wanted)
    stamp.write_text(wanted.read_text())


def need_root(why: str) -> None:
    if os.geteuid():
        raise FailedError(f"{why} takes root's rights: sudo {sys.argv[0]}")


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
