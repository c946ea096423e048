"""The house keeps its floors: who imports whom is read from the sources and held against the table in docs/architecture.md."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "architecture.md"
IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\s+(\([^)]*\)|[^#\n]+)|c?import\s+([^#\n]+))", re.MULTILINE)
CORE_TOP_FLOOR = 7

pytestmark = pytest.mark.skipif(not DOCUMENT.exists(), reason="the sources are not here")


def rooms() -> dict[str, int]:
    """Dotted room name -> floor, from the table."""
    table = {}
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("| "):
            row = line.split("|")
            for top, rest in re.findall(r"`(mbcore|server|rpi)/([\w./]*)`", row[2].split("(imported")[0] if len(row) > 2 else ""):
                path = re.sub(r"\.(py|pyx|pxd)$", "", rest).strip("/")
                name = "mbcore" if top == "mbcore" else f"mbcore.{top}"
                table[".".join(filter(None, [name, path.replace("/", ".")]))] = int(row[1])
    return table


ROOMS = rooms() if DOCUMENT.exists() else {}


def module_of(path: Path) -> str:
    """The dotted name under which a source file is imported."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] != "mbcore":
        parts.insert(0, "mbcore")
    return ".".join(part for part in parts if part != "__init__")


def sources() -> list[Path]:
    """Every Python and Cython file of the package; `mbcore/server` is a link to `server/`."""
    found = []
    for top in ("mbcore", "server", "rpi"):
        for path in sorted((ROOT / top).rglob("*")):
            inside_link = any(parent.is_symlink() for parent in path.parents)
            if path.suffix in (".py", ".pyx", ".pxd", ".pyi") and not inside_link and not path.is_symlink():
                found.append(path)
    return found


def room_of(module: str) -> str | None:
    """The room that a module lies in."""
    while module:
        if module in ROOMS:
            return module
        module = module.rpartition(".")[0]
    return None


def imports_of(path: Path) -> set[str]:
    """Dotted names that a file imports, relative ones resolved; `from package import name` gives `package.name`."""
    package = module_of(path) if path.stem == "__init__" else module_of(path).rpartition(".")[0]
    found = set()
    for source, names, plain in IMPORT.findall(without_strings(path)):
        if plain:
            found |= {name.split(" as ")[0].strip() for name in plain.split(",")}
            continue
        dots = len(source) - len(source.lstrip("."))
        base = source
        if dots:
            base = ".".join(filter(None, [package.rsplit(".", dots - 1)[0] if dots > 1 else package, source.lstrip(".")]))
        found |= {f"{base}.{name.split(' as ')[0].strip()}" for name in names.strip("()").split(",") if name.strip()}
    return found


def without_strings(path: Path) -> str:
    """The text without docstrings, which may show imports."""
    return re.sub(r'"""(?:[^"\\]|\\.|"(?!""))*"""', '""', path.read_text())


FILES = sources() if ROOMS else []
each_file = pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])


def test_the_table_of_floors_is_read():
    assert ROOMS["mbcore.constants"] == 0
    assert ROOMS["mbcore.line"] == CORE_TOP_FLOOR
    assert ROOMS["mbcore.server"] == 9
    assert {"mbcore.errors", "mbcore.checksum", "mbcore.wire", "mbcore.codec", "mbcore.datastore", "mbcore.control", "mbcore.execute",
            "mbcore.framer"} <= set(ROOMS)


@each_file
def test_every_file_has_a_room(path):
    if module_of(path) not in ("mbcore", "mbcore.version", "mbcore.__main__"):
        assert room_of(module_of(path)), "docs/architecture.md does not say on which floor it lies"


@each_file
def test_a_file_imports_only_from_lower_floors(path):
    module = module_of(path)
    own = room_of(module)
    if own is None:
        return  # the package's face and its entry point
    upward = []
    for name in imports_of(path):
        room = room_of(name)
        if room not in (None, own) and ROOMS[room] >= ROOMS[own]:
            upward.append(f"{name} (floor {ROOMS[room]})")
        elif room is None and name.split(".")[0] == "mbcore" and ROOMS[own] <= CORE_TOP_FLOOR and name != "mbcore.version.__version__":
            upward.append(f"{name} (the package's face)")
    assert not upward, f"floor {ROOMS[own]} imports {', '.join(sorted(upward))}"


@each_file
def test_the_core_has_no_io_and_no_clock(path):
    own = room_of(module_of(path))
    if own is None or ROOMS[own] > CORE_TOP_FLOOR:
        return
    forbidden = {"twisted", "serial", "socket", "time", "logging", "datetime", "select", "asyncio", "os", "posix"}
    tops = {name.removeprefix("libc.").removeprefix("cpython.").split(".")[0] for name in imports_of(path)}
    assert not tops & forbidden


@each_file
def test_the_server_parses_no_bytes(path):
    # rs485 packs what the kernel's ioctls take.
    if room_of(module_of(path)) == "mbcore.server" and path.stem != "rs485":
        assert not {name.split(".")[0] for name in imports_of(path)} & {"struct", "binascii", "ctypes", "array"}


@each_file
def test_cython_lies_in_mbcore(path):
    assert path.suffix not in (".pyx", ".pxd") or path.relative_to(ROOT).parts[0] == "mbcore"


@each_file
def test_no_reactor_is_imported_by_a_module(path):
    if path.suffix == ".py":
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                assert not (node.module == "twisted.internet" and any(alias.name == "reactor" for alias in node.names))
            assert not (isinstance(node, ast.Import) and any(alias.name == "twisted.internet.reactor" for alias in node.names))


@each_file
def test_pyx_files_include_no_pyx(path):
    assert not re.search(r"^\s*include\s+[\"']", path.read_text(), re.MULTILINE)


def test_constants_are_equal_for_python_and_for_cython():
    from mbcore import constants

    python = {member.name: int(member) for kind in vars(constants).values()
              if isinstance(kind, type) and kind.__module__ == constants.__name__ for member in kind}
    cython = {name: int(value, 0) for name, value in re.findall(r"^\s+(\w+) = (\w+)", (ROOT / "mbcore" / "constants.pxd").read_text(),
                                                                re.MULTILINE)}
    assert python
    assert cython == python
