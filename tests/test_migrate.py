"""mbcore migrate: what a script becomes, what is named instead, and what the command prints, writes and exits with."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from adu import ENVIRONMENT
from live import programs

from mbcore import ModbusSocketFramer, carried, cli
from mbcore.codec import encode_request
from mbcore.framer import build_request
from mbcore.session import Session

# An emulated system has none.
if not find_spec("libcst"):
    programs.lacking("libcst", "pip install libcst")

from mbcore.migrate import migrate

PAGE = Path(__file__).resolve().parents[1] / "docs" / "migration.md"
SCRIPT = """\
#!/usr/bin/env python
# The boiler's gateway.
from pymodbus.server.asynchronous import StartTcpServer   # the server
from pymodbus.datastore import (ModbusSlaveContext,
                                ModbusServerContext,  # one unit
                                )
from pymodbus.datastore import ModbusSequentialDataBlock as Block
import time
"""
MOVED = SCRIPT.replace("from pymodbus.", "from mbcore.pymodbus.")


def lines_left(text):
    return {note.line: note.text for note in migrate(text).left}


def only_left(text):
    """What is said of the one line that is left."""
    (said,) = lines_left(text).values()
    return said


# ---- what is rewritten ----


def test_imports_move_and_comments_and_layout_stay():
    migration = migrate(SCRIPT)
    assert migration.text == MOVED
    assert not migration.left
    assert not migration.said


@pytest.mark.parametrize(("old", "new"), [
    ("import pymodbus", "import mbcore.pymodbus as pymodbus"),
    ("import pymodbus, os\nx = pymodbus.__version__", "import mbcore.pymodbus as pymodbus, os\nx = pymodbus.__version__"),
    (
        "import pymodbus\nimport pymodbus.pdu\npymodbus.pdu",
        "import mbcore.pymodbus as pymodbus\nimport mbcore.pymodbus.pdu\nmbcore.pymodbus.pdu",
    ),
    ("try: import pymodbus\nexcept: pymodbus = None", "try: import mbcore.pymodbus as pymodbus\nexcept: pymodbus = None"),
    ("import pymodbus as pm", "import mbcore.pymodbus as pm"),
    ("import os, pymodbus.device as device", "import os, mbcore.pymodbus.device as device"),
    ("from pymodbus import __version__ as v", "from mbcore.pymodbus import __version__ as v"),
    ("from pymodbus import device, version", "from mbcore.pymodbus import device, version"),
    ("from pymodbus.server import asynchronous", "from mbcore.pymodbus.server import asynchronous"),
    ("from pymodbus.register_read_message import *", "from mbcore.pymodbus.register_read_message import *"),
    ("from pymodbus.framer import ModbusFramer", "from mbcore.pymodbus.framer import ModbusFramer"),
    ("from pymodbus.framer.rtu_framer import ModbusRtuFramer", "from mbcore.pymodbus.framer.rtu_framer import ModbusRtuFramer"),
    ("def f():\n\tfrom pymodbus.pdu import a; return 1\n", "def f():\n\tfrom mbcore.pymodbus.pdu import a; return 1\n"),
    ("import pymodbus.device\nx = pymodbus.device.y()", "import mbcore.pymodbus.device\nx = mbcore.pymodbus.device.y()"),
    ("import pymodbus.pdu\nprint((pymodbus).pdu)", "import mbcore.pymodbus.pdu\nprint((mbcore.pymodbus).pdu)"),
])
def test_spellings_of_an_import(old, new):
    migration = migrate(old)
    assert migration.text == new
    assert not migration.left


@pytest.mark.parametrize("text", [
    "",
    "x = 1  # from pymodbus.device import x",
    "'from pymodbus.device import x'",
    "from .pymodbus.device import x",
    "from . import pymodbus",
    "import pymodbus_extra",
    "from minimalmodbus import Instrument",
    "def f(pymodbus):\n    return g(pymodbus=pymodbus.x)",
])
def test_what_is_not_pymodbus_stays(text):
    migration = migrate(text)
    assert migration.text == text
    assert not migration.left


def test_a_local_name_is_not_taken_for_the_package():
    text = "import pymodbus.device\ndef f(pymodbus):\n    return pymodbus.device\nf(pymodbus=pymodbus.device)\n"
    new = "import mbcore.pymodbus.device\ndef f(pymodbus):\n    return pymodbus.device\nf(pymodbus=mbcore.pymodbus.device)\n"
    assert migrate(text).text == new


def test_a_migrated_script_is_left_alone():
    assert migrate(MOVED).text == MOVED
    assert not migrate(MOVED).left


def test_windows_line_endings_stay():
    assert migrate(SCRIPT.replace("\n", "\r\n")).text == MOVED.replace("\n", "\r\n")


# ---- pymodbus.server.async, which Python 3.7 can't parse ----


@pytest.mark.parametrize(("old", "new"), [
    ("from pymodbus.server.async import StartTcpServer", "from mbcore.pymodbus.server.asynchronous import StartTcpServer"),
    ("import pymodbus.server.async as s", "import mbcore.pymodbus.server.asynchronous as s"),
    (
        "import pymodbus.server.async\npymodbus.server.async.StopServer()",
        "import mbcore.pymodbus.server.asynchronous\nmbcore.pymodbus.server.asynchronous.StopServer()",
    ),
    ("from pymodbus.server import async\nasync.StopServer()", "from mbcore.pymodbus.server import asynchronous\nasynchronous.StopServer()"),
])
def test_the_name_of_pymodbus_1_is_respelled(old, new):
    migration = migrate(old)
    assert migration.text == new
    assert [note.line for note in migration.said] == list(range(1, 1 + old.count("async")))
    assert "reserved word" in migration.said[0].text


def test_async_elsewhere_stays():
    text = "from pymodbus.server.async import StopServer  # pymodbus.server.async\nx = 'pymodbus.server.async'\nasync def f():\n    pass\n"
    assert migrate(text).text == text.replace("from pymodbus.server.async ", "from mbcore.pymodbus.server.asynchronous ")


def test_somebody_elses_async_is_an_error_of_the_script():
    text = "import asyncio\nasyncio.async(f())\nfrom pymodbus.device import ModbusControlBlock\n"
    assert migrate(text).text == text
    assert 2 in lines_left(text)


# ---- what is named ----

SERVER = "from pymodbus.server.asynchronous import StartTcpServer\n"


@pytest.mark.parametrize(("line", "named", "instead"), [
    ("from pymodbus.client.sync import ModbusTcpClient", "ModbusTcpClient of pymodbus.client.sync", "from pymodbus.client import"),
    ("from pymodbus.client.async import ModbusClientProtocol", "pymodbus.client.asynchronous", "beside it"),
    ("from pymodbus.server.sync import StartTcpServer", "pymodbus.server.sync", "from mbcore.pymodbus.server.asynchronous import"),
    ("from pymodbus.server.async_io import StartUdpServer", "pymodbus.server.async_io", "from mbcore.pymodbus.server.asynchronous import"),
    ("from pymodbus.server.sync import StartTlsServer", "StartTlsServer", "from mbcore.server import StartTlsServer"),
    ("from pymodbus.datastore.database import SqlSlaveContext", "SqlSlaveContext", "add_observer"),
    ("from pymodbus.datastore.modredis import RedisSlaveContext", "RedisSlaveContext", "add_observer"),
    ("from pymodbus.server import StartAsyncTcpServer", "StartAsyncTcpServer", "from mbcore.server import StartTcpServer"),
    ("from pymodbus.datastore import ModbusDeviceContext", "ModbusDeviceContext", "ModbusSlaveContext"),
    ("from pymodbus import ModbusDeviceIdentification", "ModbusDeviceIdentification of pymodbus", "from mbcore.pymodbus.device"),
    ("from pymodbus import FramerType", "FramerType", "ModbusRtuFramer"),
    ("from pymodbus.framer import FramerType", "FramerType", "ModbusRtuFramer"),
    ("from pymodbus.framer.rtu import FramerRTU", "FramerRTU", "ModbusRtuFramer"),
    ("from pymodbus.utilities import ModbusTransactionState", "ModbusTransactionState", "leave it out"),
    ("from pymodbus.pdu.register_message import ReadHoldingRegistersRequest", "pymodbus.pdu.register_message", "register_read_message"),
    ("from pymodbus.repl.client.main import main", "pymodbus.repl", "mbcore read"),
    ("from pymodbus.internal.ptwisted import InstallManagementConsole", "InstallManagementConsole", "console=True"),
    ("from pymodbus.server.asynchronous import _logger", "_logger", "trace_pdu"),
    ("from pymodbus.nowhere import thing", "thing of pymodbus.nowhere", "docs/migration.md"),
    ("import pymodbus.client.sync as c", "pymodbus.client.sync", "beside it"),
    ("import logging; logging.getLogger('pymodbus.server')", "'pymodbus.server'", "'mbcore'"),
    ("x = __import__('pymodbus.device')", "'pymodbus.device'", "mbcore.pymodbus"),
])
def test_a_line_that_cannot_move_is_named_and_left(line, named, instead):
    text = f"{SERVER}{line}\n"
    said = lines_left(text)
    assert list(said) == [2]
    assert named in said[2]
    assert instead in said[2]
    assert migrate(text).text.splitlines()[0] == f"from mbcore.{SERVER.strip().removeprefix('from ')}"
    assert migrate(text).text.splitlines()[1] == line.replace(".async ", ".asynchronous ")


@pytest.mark.parametrize(("text", "line", "said"), [
    ("from pymodbus.server.asynchronous import ModbusTcpProtocol as P\nP._execute = mine", 2, "internal name"),
    ("from pymodbus.server.asynchronous import ModbusTcpProtocol\nModbusTcpProtocol.dataReceived = mine", 2, "patched"),
    ("from pymodbus.server import asynchronous\nasynchronous.reactor: object = mine", 2, "patched"),
    ("import pymodbus.transaction\n\nsetattr(pymodbus.transaction.ModbusRtuFramer, 'checkFrame', mine)", 3, "patched"),
    ("from pymodbus.constants import Defaults\nDefaults.ZeroMode = True", 2, "zero_mode=True"),
    ("from pymodbus.constants import Endian\nx = Endian.BIG", 2, "Endian.Big"),
    ("from pymodbus.datastore import ModbusServerContext\nc = ModbusServerContext(devices={})", 2, "slaves="),
    ("from pymodbus.server.asynchronous import ModbusTcpProtocol as P\nclass Q(P):\n    def _send(self, m):\n        pass", 3, "_send of "),
    ("import pymodbus\nimport pymodbus.device\nx = pymodbus.server.sync.StartTcpServer", 3, "Twisted"),
    ("import pymodbus.device\npymodbus.device = mine", 2, "patched"),
])
def test_a_use_that_cannot_move_is_named(text, line, said):
    left = lines_left(text)
    assert list(left) == [line]
    assert said in left[line]


@pytest.mark.parametrize("use", [
    "class P(ModbusTcpProtocol):\n    def connectionMade(self):\n        ModbusTcpProtocol.connectionMade(self)",
    "size = ModbusTcpProtocol._rtu_frame_size",
    "x = ModbusTcpProtocol.factory",
    "x = {}\nx[1] = ModbusTcpProtocol\nx.y = ModbusTcpProtocol.factory",
])
def test_ordinary_uses_are_not_named(use):
    assert not lines_left(f"from pymodbus.server.asynchronous import ModbusTcpProtocol\n{use}\n")


def test_what_the_import_says_is_not_said_at_every_use():
    text = "from pymodbus.datastore.database import SqlSlaveContext\na = SqlSlaveContext()\nb = SqlSlaveContext.reset\n"
    assert list(lines_left(text)) == [1]


def test_an_import_of_which_a_part_can_move_is_left_whole():
    text = "from pymodbus.datastore import ModbusSparseDataBlock, SqlSlaveContext\n"
    migration = migrate(text)
    assert migration.text == text
    said = " ".join(note.text for note in migration.left)
    assert "SqlSlaveContext of pymodbus.datastore: " in said
    assert "`from pymodbus.datastore import ModbusSparseDataBlock`" in said


def test_a_client_of_pymodbus_3_stays_beside_a_server():
    migration = migrate(f"from pymodbus.client import ModbusTcpClient\n{SERVER}")
    assert migration.text == f"from pymodbus.client import ModbusTcpClient\nfrom mbcore.{SERVER.removeprefix('from ')}"
    assert not migration.left
    assert "beside mbcore" in migration.said[0].text


def test_a_client_without_a_server_keeps_all_of_its_imports():
    text = "from pymodbus.pdu import ModbusRequest\nfrom pymodbus.client.sync import ModbusTcpClient\n"
    migration = migrate(text)
    assert migration.text == text
    assert [(note.line, note.text) for note in migration.said] == [(2, carried.NO_SERVER)]
    assert list(lines_left(text)) == [2]


def test_a_server_that_was_migrated_in_part_is_still_a_server():
    text = f"{SERVER}from pymodbus.client.sync import ModbusTcpClient\nlogging.getLogger('pymodbus')\n"
    first = migrate(text)
    assert migrate(first.text).left == first.left
    assert [note.line for note in first.left] == [2, 3]


# ---- Python 2 ----


def test_every_line_of_python_2_is_named_and_nothing_changes():
    text = (
        'from pymodbus.server.async import StartTcpServer\nprint "starting"\ntry:\n    exec code\nexcept (OSError, IOError), error:\n'
        '    print >>err, error\n    raise ValueError, "no"\nprint("fine")\nprint\n'
    )
    said = lines_left(text)
    assert migrate(text).text == text
    assert list(said) == [2, 4, 5, 6, 7]
    assert "write print(...)" in said[2]
    assert "2to3" in said[2]
    assert "write exec(...)" in said[4]
    assert "as error" in said[5]
    assert "raise TheError(...)" in said[7]


@pytest.mark.parametrize(("text", "line"), [
    ("x = 1\ny = (\n", 2),
    ("x = 1\nif x:\n\ty = 1\n        z = 2\n", 4),
    ("x = 1\ny = 5L\n", 2),
    ("a = `b`\n", 1),
])
def test_a_script_that_python_cannot_read_is_named_with_the_line(text, line):
    assert list(lines_left(text)) == [line]
    assert migrate(text).text == text


# ---- the tables ----


def test_no_name_is_both_carried_over_and_advised_against():
    assert not carried.MODULES & carried.ADVICE.keys()


@pytest.mark.parametrize("module", sorted(carried.MODULES))
def test_what_is_said_to_be_carried_over_is_there(module):
    assert find_spec(f"mbcore.pymodbus.{module}")


# ---- the command ----


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "gateway.py"
    path.write_text(SCRIPT)
    return path


def test_the_difference_is_shown_and_nothing_is_written(script, capsys):
    assert cli.main(["migrate", "gateway.py"]) == 0
    out, err = capsys.readouterr()
    assert script.read_text() == SCRIPT
    assert "--- gateway.py\n+++ gateway.py\n" in out
    assert "\n-from pymodbus.server.asynchronous import StartTcpServer   # the server\n" in out
    assert "\n+from mbcore.pymodbus.server.asynchronous import StartTcpServer   # the server\n" in out
    assert err == "mbcore: 1 of 1 files to rewrite (--write does it), 0 lines to change by hand\n"


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_patch_takes_the_difference(end, script, capsys):
    script.write_bytes(f"x = 1\nfrom pymodbus.device import y{end}".encode())
    cli.main(["migrate", "gateway.py"])
    difference = capsys.readouterr().out
    patch = programs.need("patch", "patch")
    subprocess.run([patch, "--binary", "-p0"], input=difference.encode(), check=True, stdout=subprocess.DEVNULL)
    assert script.read_bytes() == f"x = 1\nfrom mbcore.pymodbus.device import y{end}".encode()


def test_write_writes_in_place_and_says_what_is_left(script, capsys):
    script.write_text(f"{SCRIPT}from pymodbus.datastore.database import SqlSlaveContext\n")
    script.chmod(0o755)
    assert cli.main(["migrate", "--write", "gateway.py"]) == 0
    out, err = capsys.readouterr()
    assert script.read_text() == f"{MOVED}from pymodbus.datastore.database import SqlSlaveContext\n"
    assert script.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in script.parent.iterdir()] == ["gateway.py"]
    assert out == "gateway.py: rewritten\n"
    assert "gateway.py:9: left: SqlSlaveContext of pymodbus.datastore.database: " in err
    assert err.endswith("mbcore: 0 of 1 files to rewrite (--write does it), 1 lines to change by hand\n")


def test_the_encoding_stays(script):
    text = "# -*- coding: latin-1 -*-\nfrom pymodbus.device import x  # Kessel f\xfcr W\xe4rme\r\n"
    script.write_bytes(text.encode("latin-1"))
    assert cli.main(["migrate", "--write", "gateway.py"]) == 0
    assert script.read_bytes() == text.replace("from pymodbus", "from mbcore.pymodbus").encode("latin-1")


def test_a_byte_order_mark_stays(script):
    script.write_bytes(b"\xef\xbb\xbfimport pymodbus\n")
    assert cli.main(["migrate", "--write", "gateway.py"]) == 0
    assert script.read_bytes() == b"\xef\xbb\xbfimport mbcore.pymodbus as pymodbus\n"


def test_check_fails_while_something_is_left(script, capsys):
    other = script.with_name("done.py")
    other.write_text(MOVED)
    assert cli.main(["migrate", "--check", "gateway.py", "done.py"]) == 1
    assert "1 of 2 files to rewrite" in capsys.readouterr().err
    assert cli.main(["migrate", "--check", "--write", "gateway.py", "done.py"]) == 0
    assert cli.main(["migrate", "--check", "gateway.py", "done.py"]) == 0
    assert capsys.readouterr().err.endswith("mbcore: nothing is left to do\n")


def test_check_fails_for_a_line_that_is_left_by_hand(script):
    script.write_text("from pymodbus.server.sync import StartTcpServer\n")
    assert cli.main(["migrate", "--check", "--write", "gateway.py"]) == 1


@pytest.mark.parametrize(("name", "content", "said"), [
    ("none.py", None, "none.py can't be read: no such file or directory"),
    (".", None, ". can't be read: is a directory"),
    ("bad.py", b"x = '\xff'\n", "bad.py is no text in the encoding that it declares, or in UTF-8"),
    ("odd.py", b"# coding: klingon\n", "odd.py is no text in the encoding that it declares, or in UTF-8"),
    ("nul.py", b"x = 1\0\n", "nul.py is no text: there are zero bytes in it"),
])
def test_a_file_that_cannot_be_read_is_named_before_any_is_written(name, content, said, script, capsys):
    if content:
        script.with_name(name).write_bytes(content)
    assert cli.main(["migrate", "--write", "gateway.py", name]) == 2
    assert said in capsys.readouterr().err
    assert script.read_text() == SCRIPT


def test_no_file_is_a_mistake(capsys):
    assert cli.main(["migrate"]) == 2
    assert "FILE" in capsys.readouterr().err


def test_without_libcst_one_sentence_says_what_to_install(script):
    program = "import sys; sys.modules['libcst'] = None; from mbcore import cli; sys.exit(cli.main(['migrate', 'gateway.py']))"
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "mbcore: migrate needs libcst, which is not installed; run: pip install 'mbcore[migrate]'\n"
    assert done.stdout == ""


# ---- the page ----


@pytest.mark.skipif(not PAGE.exists(), reason="the sources are not here")
def test_the_examples_of_the_migration_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {}
    for example in examples:
        exec(example, names)
    assert len(examples) == 2
    # A master's write is saved, and there again after a restart.
    session = Session(ModbusSocketFramer, names["context"])
    session.receive(build_request(ModbusSocketFramer, encode_request(16, address=7, registers=[21, 22]), 1), 0.0)
    again = {}
    exec(examples[-1], again)
    assert again["context"][1].getValues(3, 7, count=2) == [21, 22]
    for known in (names, again):
        known["database"].close()
