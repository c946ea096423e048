"""The house keeps its floors: who imports whom is read from the sources and held against the table in docs/architecture.md."""

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mbcore import ModbusSlaveContext

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


def each_file(wanted=lambda path: True):
    """A mark: the test takes the `path` of each file that is `wanted`."""
    paths = [path for path in FILES if wanted(path)]
    assert paths or not FILES
    return pytest.mark.parametrize("path", paths, ids=[str(path.relative_to(ROOT)) for path in paths])


def own_room(path: Path) -> str | None:
    return room_of(module_of(path))


def in_the_core(path: Path) -> bool:
    return own_room(path) is not None and ROOMS[own_room(path)] <= CORE_TOP_FLOOR


def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below this one, without the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from run_at_import(child)


def test_the_table_of_floors_is_read():
    assert ROOMS["mbcore.constants"] == 0
    assert ROOMS["mbcore.line"] == CORE_TOP_FLOOR
    assert ROOMS["mbcore.server"] == 9
    assert {"mbcore.errors", "mbcore.checksum", "mbcore.wire", "mbcore.codec", "mbcore.datastore", "mbcore.control", "mbcore.execute",
            "mbcore.framer"} <= set(ROOMS)


# The package's face and its entry point lie on no floor.
@each_file(lambda path: module_of(path) not in ("mbcore", "mbcore.version", "mbcore.__main__"))
def test_every_file_has_a_room(path):
    assert own_room(path), "docs/architecture.md does not say on which floor it lies"


@each_file(own_room)
def test_a_file_imports_only_from_lower_floors(path):
    own = own_room(path)
    upward = []
    for name in imports_of(path):
        room = room_of(name)
        if room not in (None, own) and ROOMS[room] >= ROOMS[own]:
            upward.append(f"{name} (floor {ROOMS[room]})")
        elif room is None and name.split(".")[0] == "mbcore" and ROOMS[own] <= CORE_TOP_FLOOR and name != "mbcore.version.__version__":
            upward.append(f"{name} (the package's face)")
    assert not upward, f"floor {ROOMS[own]} imports {', '.join(sorted(upward))}"


@each_file(in_the_core)
def test_the_core_has_no_io_and_no_clock(path):
    forbidden = {"twisted", "serial", "socket", "time", "logging", "datetime", "select", "asyncio", "os", "posix"}
    tops = {name.removeprefix("libc.").removeprefix("cpython.").split(".")[0] for name in imports_of(path)}
    assert not tops & forbidden


# rs485 packs what the kernel's ioctls take.
@each_file(lambda path: own_room(path) == "mbcore.server" and path.stem != "rs485")
def test_the_server_parses_no_bytes(path):
    assert not {name.split(".")[0] for name in imports_of(path)} & {"struct", "binascii", "ctypes", "array"}


@each_file(lambda path: path.suffix in (".pyx", ".pxd"))
def test_cython_lies_in_mbcore(path):
    assert path.relative_to(ROOT).parts[0] == "mbcore"


@each_file(lambda path: path.suffix == ".py")
def test_no_reactor_is_imported_by_a_module(path):
    for node in run_at_import(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not (node.module == "twisted.internet" and any(alias.name == "reactor" for alias in node.names))
            assert node.module != "twisted.internet.reactor"
        assert not (isinstance(node, ast.Import) and any(alias.name == "twisted.internet.reactor" for alias in node.names))


@each_file(lambda path: path.suffix in (".pyx", ".pxd"))
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


def test_compiled_methods_know_their_signatures_and_no_docstring_shows_how():
    assert str(inspect.signature(ModbusSlaveContext.getValues)) == "(self, /, fx, address, count=1)"
    assert inspect.ismethoddescriptor(ModbusSlaveContext.getValues)
    compiled = [module_of(path) for path in sources() if path.suffix == ".pyx"]
    assert "mbcore.execute" in compiled
    for name in compiled:
        if not name.startswith("mbcore.engine") or sys.platform == "linux":
            module = importlib.import_module(name)
            of_classes = [member for each in vars(module).values() if inspect.isclass(each) for member in vars(each).values()]
            for each in [*vars(module).values(), *of_classes]:
                assert "--\n" not in (getattr(each, "__doc__", None) or ""), (name, each)
