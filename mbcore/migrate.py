"""``mbcore migrate``: moves scripts written for pymodbus 1.x/2.x's Twisted server to ``mbcore.pymodbus``.

Rewrites imports and what hangs on them, in concrete syntax, so that comments and layout stay; names every line that it can't carry over,
with what to write instead. What it knows about pymodbus stands in mbcore.carried. Needs libcst, the extra ``migrate``; runs nothing of the
script.
"""

import ast
import difflib
import io
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libcst as cst
from libcst import matchers as m
from libcst.helpers import get_full_name_for_node
from libcst.metadata import ImportAssignment, MetadataWrapper, ParentNodeProvider, PositionProvider, ScopeProvider

from mbcore import carried
from mbcore.errors import ConfigurationError, ModbusError

OLD = "pymodbus"
NEW = "mbcore.pymodbus"
# A script that Python 3 can't read is not changed: what its lines mean is a guess.
PYTHON_3 = "the file is left as it is until all of it is Python 3 (fissix or 2to3 rewrites most of it)"


@dataclass(frozen=True, order=True)
class Note:
    """Something to say about a line (from 1) of a script."""

    line: int
    text: str


@dataclass(frozen=True)
class Migration:
    """A script's new text, what is left for its author, and what else there is to say."""

    text: str
    left: Sequence[Note] = ()
    said: Sequence[Note] = ()


def migrate(text: str) -> Migration:
    """The script ``text`` for mbcore. Text that is no Python 3 comes back unchanged, with its lines named."""
    respelled, lines = _respell(text)
    try:
        wrapper = MetadataWrapper(cst.parse_module(respelled))
    except cst.ParserSyntaxError as error:
        return Migration(text, _not_python_3(text, error))
    script = _Script(wrapper)
    said = [Note(line, "`async` is a reserved word since Python 3.7: `asynchronous` takes its place") for line in lines]
    if script.clients and not script.has_server:
        said.append(Note(min(script.clients), carried.NO_SERVER))
        return Migration(text, [note for note in sorted(script.left) if note.line in script.clients], said)
    return Migration(wrapper.module.visit(_Replace(script.new)).code, sorted(script.left), said + script.said)


# ---- the script as tokens: what Python 3.7 and later can't parse ----


def _tokens(text: str) -> list[tokenize.TokenInfo]:
    """The tokens up to the first place that Python can't read."""
    found = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text, newline="").readline):
            if token.type not in (tokenize.COMMENT, tokenize.NL):
                found.append(token)
    except (tokenize.TokenError, SyntaxError):
        pass  # the parser says what it is
    return found


def _statements(text: str) -> Iterator[list[tokenize.TokenInfo]]:
    """The tokens of each simple statement or head of a block."""
    statement: list[tokenize.TokenInfo] = []
    depth = 0
    for token in _tokens(text):
        depth += (token.string in "([{") - (token.string in ")]}") if token.type == tokenize.OP else 0
        if token.type == tokenize.NEWLINE or (depth == 0 and token.string in (":", ";")):
            yield statement
            statement = []
        elif token.type not in (tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            statement.append(token)
    yield statement


def _respell(text: str) -> tuple[str, list[int]]:
    """Puts ``asynchronous`` for ``async``, the module's name in pymodbus 1.x: in code only, token by token.

    :returns: the new text, and the lines that changed
    """
    found = []
    imported = False
    for statement in _statements(text):
        words = [token.string for token in statement]
        listed = words[:3] == ["from", OLD, "."] and "import" in words
        for index, token in enumerate(statement):
            if token.string != "async":
                continue
            in_path = words[index - 4 : index] in ([OLD, ".", "server", "."], [OLD, ".", "client", "."])
            as_name = listed and index > words.index("import")
            if in_path or as_name or (imported and words[index + 1 : index + 2] == ["."]):
                found.append(token.start)
            imported = imported or as_name
    lines = list(io.StringIO(text, newline=""))
    for line, column in reversed(found):
        before = lines[line - 1]
        lines[line - 1] = before[:column] + "asynchronous" + before[column + len("async") :]
    return "".join(lines), sorted({line for line, _ in found})


def _not_python_3(text: str, error: cst.ParserSyntaxError) -> list[Note]:
    """Names the lines in Python 2's syntax; where there is none that we know, the one where Python gives up, or else libcst."""
    advice = ((statement, _python_2(statement)) for statement in _statements(text))
    notes = [Note(statement[0].start[0], f"Python 2's syntax; write {new}") for statement, new in advice if new]
    first, *others = notes or [_given_up(text, error)]
    return [Note(first.line, f"{first.text}; {PYTHON_3}"), *others]


def _given_up(text: str, error: cst.ParserSyntaxError) -> Note:
    try:
        ast.parse(text)
    except SyntaxError as own:
        return Note(own.lineno or 1, own.msg)
    return Note(error.raw_line, error.message)


def _python_2(statement: list[tokenize.TokenInfo]) -> str | None:
    words = [token.string for token in statement]
    if len(words) < 2:
        return None
    starts_value = statement[1].type in (tokenize.NAME, tokenize.NUMBER, tokenize.STRING) or words[1] in (">>", "`")
    depth = 0
    comma = False
    for word in words:
        depth += (word in ("(", "[", "{")) - (word in (")", "]", "}"))
        comma = comma or (depth == 0 and word == ",")
    match words[0]:
        case "print" | "exec" if starts_value and words[1] not in ("in", "is", "and", "or", "if"):
            return f"{words[0]}(...)"
        case "except" if comma:
            return "except TheError as error:"
        case "raise" if comma:
            return "raise TheError(...)"
    return None


# ---- the script as a tree ----


class _Replace(cst.CSTTransformer):
    """Puts new nodes in the places of old ones."""

    def __init__(self, new: Mapping[cst.CSTNode, cst.CSTNode]) -> None:
        super().__init__()
        self._new = new

    def on_leave(self, original_node: Any, updated_node: Any) -> Any:
        return self._new.get(original_node, updated_node)


class _Script:
    """What is to be done to one script: ``new`` nodes for old ones, what is ``left``, what else is to be ``said``."""

    def __init__(self, wrapper: MetadataWrapper) -> None:
        self._positions = wrapper.resolve(PositionProvider)
        self._parents = wrapper.resolve(ParentNodeProvider)
        self._scopes = wrapper.resolve(ScopeProvider)
        self.new: dict[cst.CSTNode, cst.CSTNode] = {}
        self.left: set[Note] = set()
        self.said: list[Note] = []
        #: Lines that import a client.
        self.clients: list[int] = []
        self.has_server = False
        for node in m.findall(wrapper.module, m.Import() | m.ImportFrom() | m.Call()):
            if isinstance(node, cst.Import):
                self._plain_import(node)
            elif isinstance(node, cst.ImportFrom):
                self._from_import(node)
            elif isinstance(node, cst.Call):
                self._name_in_string(node)
        for scope in set(self._scopes.values()):
            for assignment in scope.assignments if scope else ():
                if isinstance(assignment, ImportAssignment):
                    for access in assignment.references:
                        self._use(assignment, access.node)

    def _note(self, node: cst.CSTNode, text: str) -> Note:
        return Note(self._positions[node].start.line, text)

    def _leave(self, node: cst.CSTNode, name: str, advice: str) -> None:
        self.left.add(self._note(node, f"{name}: {advice}"))

    def _side(self, node: cst.CSTNode, name: str) -> None:
        """Which side of the bus an import is for; a script that imports mbcore is a server's, migrated in part."""
        package, top, *_ = [*name.split("."), ""]
        self.has_server = self.has_server or package == "mbcore" or (package == OLD and top in ("server", "datastore", "device"))
        if package == OLD and top == "client":
            self.clients.append(self._note(node, "").line)

    def _plain_import(self, node: cst.Import) -> None:
        for alias in node.names:
            self._side(node, alias.evaluated_name)
            path = _path(alias.evaluated_name)
            if path is None:
                continue
            advice = carried.advice(path) if path else None
            if advice:
                self._leave(node, _join(OLD, path), advice)
            elif not path and alias.asname is None:
                self.new[alias] = cst.ImportAlias(_dotted(NEW, path), cst.AsName(cst.Name(OLD)), alias.comma)
            else:
                self.new[alias.name] = _dotted(NEW, path)

    def _from_import(self, node: cst.ImportFrom) -> None:
        module = node.module
        if node.relative or module is None:
            return
        names = ["*"] if isinstance(node.names, cst.ImportStar) else [alias.evaluated_name for alias in node.names]
        source = get_full_name_for_node(module) or ""
        self._side(node, f"{source}.{names[0]}")
        path = _path(source)
        if path is None:
            return
        if path == "client" and all(name.endswith("Client") for name in names):
            self.said.append(self._note(node, "pymodbus 3's client stays; it needs pymodbus installed beside mbcore"))
            return
        left: dict[str, list[str]] = {}
        for name in names:
            left.setdefault(carried.advice(_join(path, name)) or "", []).append(name)
        carried_over = left.pop("", [])
        for advice, theirs in left.items():
            self._leave(node, f"{', '.join(theirs)} of {_join(OLD, path)}", advice)
        if not left:
            self.new[module] = _dotted(NEW, path)
        elif carried_over:
            others = ", ".join(carried_over)
            self._leave(node, others, f"there; give it a line of its own, `from {_join(OLD, path)} import {others}`, and migrate again")

    def _name_in_string(self, call: cst.Call) -> None:
        """A module of pymodbus that is looked up by a string."""
        verb = (get_full_name_for_node(call.func) or "").rpartition(".")[2]
        first = call.args[0].value if call.args else None
        name = first.evaluated_value if verb in carried.LOOKUPS and isinstance(first, cst.SimpleString) else None
        if isinstance(name, str) and _path(name) is not None:
            self._leave(call, repr(name), carried.LOOKUPS[verb])

    def _use(self, assignment: ImportAssignment, access: cst.CSTNode) -> None:
        """A place that uses what an import brought: ``access`` is the name, or the dotted name, that means it."""
        name = access
        while isinstance(name, cst.Attribute):
            name = name.value
        scope = self._scopes.get(name)
        # A parameter of that name, say, is not what was imported.
        if not isinstance(name, cst.Name) or not scope or not any(isinstance(found, ImportAssignment) for found in scope[name.value]):
            return
        bound = _bound(assignment, name.value)
        if bound is None:
            return
        whole: cst.CSTNode = name
        path = bound
        while isinstance(parent := self._parents[whole], cst.Attribute) and parent.value is whole:
            whole = parent
            path = _join(path, parent.attr.value)
        advice = carried.advice(path) if path else None
        if advice:
            # What the import's own line says is not said again at every use.
            if not bound or advice != carried.advice(bound):
                self._leave(whole, _join(OLD, path), advice)
            return
        if not bound and _binds_mbcore(assignment):
            self.new[name] = _dotted(NEW, "", name)
        self._inside(whole, path)

    def _inside(self, whole: cst.CSTNode, path: str) -> None:
        """A use of a name that is carried over, in a way that is not."""
        parent = self._parents[whole]
        if m.matches(parent, m.AssignTarget() | m.AugAssign() | m.AnnAssign() | m.Del()) and getattr(parent, "value", None) is not whole:
            self._leave(whole, _join(OLD, path), carried.patch_advice(path))
        elif isinstance(parent, cst.Call) and parent.func is whole:
            for argument in parent.args:
                word = argument.keyword.value if argument.keyword else ""
                if advice := carried.KEYWORDS.get((path.rpartition(".")[2], word)):
                    self._leave(argument, _join(OLD, path), advice)
        elif isinstance(parent, cst.Arg):
            self._as_argument(whole, path, parent)

    def _as_argument(self, whole: cst.CSTNode, path: str, argument: cst.Arg) -> None:
        taker = self._parents[argument]
        if isinstance(taker, cst.Call) and m.matches(taker.func, m.Name("setattr") | m.Name("delattr")) and taker.args[0] is argument:
            self._leave(whole, _join(OLD, path), carried.patch_advice(path))
        elif isinstance(taker, cst.ClassDef) and argument in taker.bases:
            for part in taker.body.body:
                if isinstance(part, cst.FunctionDef) and part.name.value in carried.INTERNAL_METHODS:
                    self._leave(part.name, f"{part.name.value} of {_join(OLD, path)}", carried.OVERRIDDEN)


def _path(name: str) -> str | None:
    """The part of a dotted name after ``pymodbus``; None if it is another package's."""
    top, _, rest = name.partition(".")
    return rest if top == OLD else None


def _join(*parts: str) -> str:
    return ".".join(filter(None, parts))


def _dotted(package: str, path: str, place: cst.Name | None = None) -> cst.Attribute:
    """A dotted name as a node, in the parentheses of the one whose place it takes."""
    node = cst.ensure_type(cst.parse_expression(_join(package, path)), cst.Attribute)
    return node.with_changes(lpar=place.lpar, rpar=place.rpar) if place else node


def _bound(assignment: ImportAssignment, name: str) -> str | None:
    """Which part of pymodbus ``name`` means after the import; "" is the package itself, None: something else."""
    statement = assignment.node
    if isinstance(statement, cst.Import):
        for alias in statement.names:
            if alias.evaluated_alias == name:
                return _path(alias.evaluated_name)
        return "" if name == OLD else None
    if not isinstance(statement, cst.ImportFrom) or statement.relative or isinstance(statement.names, cst.ImportStar):
        return None
    module = _path((get_full_name_for_node(statement.module) if statement.module else None) or "")
    for alias in statement.names:
        if module is not None and (alias.evaluated_alias or alias.evaluated_name) == name:
            return _join(module, alias.evaluated_name)
    return None


def _binds_mbcore(assignment: ImportAssignment) -> bool:
    """Whether the name that an import binds changes with it: ``import pymodbus.device`` becomes ``import mbcore.pymodbus.device``."""
    statement = assignment.node
    return isinstance(statement, cst.Import) and any(
        alias.asname is None and alias.evaluated_name.startswith(f"{OLD}.") for alias in statement.names
    )


# ---- files ----


@dataclass(frozen=True)
class _File:
    """One file and its migration."""

    name: str
    encoding: str
    before: str
    migration: Migration

    @property
    def changes(self) -> bool:
        return self.migration.text != self.before


def run(names: Iterable[str], *, write: bool = False, check: bool = False) -> None:
    """Migrate files: the difference goes to standard output, or with ``write`` into the files; notes go to standard error.

    All files are read before the first is written. A file is written in place, in its own encoding and line endings, without a backup.

    :param check: raise a ModbusError when something is left to do, in a file or by its author
    :raises ConfigurationError: for a file that can't be read as text
    """
    files = [_read(name) for name in names]
    for file in files:
        if file.changes and write:
            Path(file.name).write_bytes(file.migration.text.encode(file.encoding))
            print(f"{file.name}: rewritten")
        elif file.changes:
            sys.stdout.writelines(_difference(file))
        sys.stdout.flush()
        for note in file.migration.said:
            print(f"{file.name}:{note.line}: note: {note.text}", file=sys.stderr)
        for note in file.migration.left:
            print(f"{file.name}:{note.line}: left: {note.text}", file=sys.stderr)
    lines = sum(len({note.line for note in file.migration.left}) for file in files)
    waiting = 0 if write else sum(file.changes for file in files)
    if lines or waiting:
        left = f"{waiting} of {len(files)} files to rewrite (--write does it), {lines} lines to change by hand"
        if check:
            raise ModbusError(left)
        print(f"mbcore: {left}", file=sys.stderr)
    else:
        print("mbcore: nothing is left to do", file=sys.stderr)


def _read(name: str) -> _File:
    try:
        data = Path(name).read_bytes()
        encoding = tokenize.detect_encoding(io.BytesIO(data).readline)[0]
        text = data.decode(encoding)
    except OSError as error:
        raise ConfigurationError(f"{name} can't be read: {(error.strerror or str(error)).lower()}") from error
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{name} is no text in the encoding that it declares, or in UTF-8: {error}") from error
    if "\0" in text:
        raise ConfigurationError(f"{name} is no text: there are zero bytes in it")
    return _File(name, encoding, text, migrate(text))


def _difference(file: _File) -> Iterator[str]:
    """A unified difference that ``patch -p0`` takes."""
    old, new = (list(io.StringIO(text, newline="")) for text in (file.before, file.migration.text))
    for line in difflib.unified_diff(old, new, file.name, file.name):
        yield line if line.endswith(("\n", "\r")) else f"{line}\n\\ No newline at end of file\n"
