"""Boards as text: unpacks tests/rpi/boards/*.txt into trees that stand for /, as their README explains."""

import os
import re
from pathlib import Path

from mbcore.rpi.machine import Machine, Owner

FOLDER = Path(__file__).parent / "rpi" / "boards"
NAMES = sorted(file.stem for file in FOLDER.glob("*.txt"))


def unpack(text, root):
    """The Machine of a recorded tree."""
    owners, user = {}, (0, {0})
    lines = iter(text.splitlines())
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        if found := re.fullmatch(r"user (\d+) ([\d,]+)", line):
            user = int(found[1]), set(map(int, found[2].split(",")))
        elif found := re.fullmatch(r"(\S+) -> (\S+)", line):
            _link(root, *found.groups())
        elif found := re.fullmatch(r"(\S+) c (\d+) (\d+):(\d+)", line):
            owners[_file(root, found[1], "")] = Owner(int(found[2], 8), int(found[3]), int(found[4]))
        elif found := re.fullmatch(r"(\S+) <<", line):
            _file(root, found[1], "".join(f"{part}\n" for part in iter(lambda: next(lines), ".")))
        elif found := re.fullmatch(r"(\S+) = (.*)", line):
            _file(root, found[1], found[2].replace("\\0", "\0").replace("\\n", "\n"))
        elif found := re.fullmatch(r"(\S+)/", line):
            _file(root, f"{found[1]}/.", None)
        else:
            raise ValueError(f"a line of no kind: {line!r}")

    def owner(path):
        try:
            return owners[Path(os.path.realpath(path))]
        except KeyError as error:
            raise FileNotFoundError(path) from error

    return Machine(root, *user, owner)


def board(name, root, *more):
    """The Machine of a board, with further lines after its own."""
    return unpack("\n".join([(FOLDER / f"{name}.txt").read_text(), *more]), root)


def _file(root, name, text):
    path = Path(os.path.normpath(root / name.lstrip("/")))
    if text is None:
        path.mkdir(parents=True, exist_ok=True)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return Path(os.path.realpath(path))


def _link(root, name, target):
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        path.unlink()
    if name.startswith("/proc/") and "/fd/" in name:  # read, never followed
        path.symlink_to(target)
        return
    place = root / target.lstrip("/") if target.startswith("/") else path.parent / target
    if target.startswith("/sys/"):
        Path(place).mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(place, os.path.realpath(path.parent)) if target.startswith("/") else target)
