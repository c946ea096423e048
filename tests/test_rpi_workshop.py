"""What builds for the boards: instructions that a Pi Zero lacks are seen, and wheels depend on nothing but their content."""

import os
import re
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from adu import run_python

TESTS = Path(__file__).resolve().parent
RPI = TESTS.parent / "rpi"
sys.path[:0] = [str(RPI), str(RPI / "emulated")]

from emulated_suite import FIXTURES, LEFT_OUT, LIVE_TESTS, reason_against, thinned  # noqa: E402
from workshop.armv6 import too_new  # noqa: E402
from workshop.packing import pack  # noqa: E402
from workshop.selection import LEFT, RUN, matching  # noqa: E402

LATER = """
    movw r0, #0x1234; movt r0, #1; movwne r0, #1; dmb ish; ubfx r0, r1, #3, #4; bfi r0, r1, #0, #8; sdiv r0, r1, r2; mls r0, r1, r2, r3
    rbit r0, r1; ldaex r0, [r1]; vld1.8 {d0}, [r0]; vadd.i32 d0, d1, d2; vmov.f64 d0, #1.000000e+00; vadd.f64 d16, d0, d1; vorr q0, q1, q2
    vfma.f64 d0, d1, d2; vcvt.f64.s32 d0, d0, #16; vldr d17, [r0, #8]; vcmp.f64 d16, #0
"""
OF_ARMV6 = """
    mov r0, #1; bls #0x100; blne #0x100; ldrexb r0, [r1]; mcr p15, #0, r0, c7, c10, #5; smulbb r0, r1, r2; addeq r0, r0, #1; subs r0, r0, #1
    vcmp.f64 d0, #0; vldr d15, [r0, #8]; vmov.f64 d8, d0; vcvt.f64.s32 d0, s0
"""


def each(text):
    """Instructions as the disassembler gives them, mnemonic and operands."""
    lines = [line.strip() for line in text.replace(";", "\n").splitlines()]
    return pytest.mark.parametrize("instruction", [tuple(line.split(" ", 1)) for line in lines if line], ids=" ".join)


@each(LATER)
def test_an_instruction_that_armv6_lacks_is_seen(instruction):
    assert too_new(*instruction)


@each(OF_ARMV6)
def test_an_instruction_of_armv6_passes(instruction):
    assert not too_new(*instruction)


def wheel_of(folder, order, time):
    content = {
        "mbcore/a.py": "a = 1\n",
        "mbcore/b.abi3.so": "code",
        "mbcore-1.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: cp311-abi3-linux_x86_64\n",
        "mbcore-1.dist-info/RECORD": "",
    }
    path = folder / "mbcore-1-cp311-abi3-linux_x86_64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(content, reverse=order):
            archive.writestr(zipfile.ZipInfo(name, time), content[name])
    return path


def test_a_wheel_depends_on_nothing_but_its_content(tmp_path):
    packed = []
    for order, time in ((False, (2020, 1, 2, 3, 4, 6)), (True, (2026, 7, 8, 9, 10, 12))):
        folder = tmp_path / str(order)
        folder.mkdir()
        before = os.umask(0o077 if order else 0o022)
        packed.append(pack(wheel_of(tmp_path, order, time), folder, ["linux_armv6l", "linux_armv7l"], 1_700_000_000))
        os.umask(before)
    first, second = packed
    assert first.name == second.name == "mbcore-1-cp311-abi3-linux_armv6l.linux_armv7l.whl"
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        about = archive.read("mbcore-1.dist-info/WHEEL").decode()
        record = archive.read("mbcore-1.dist-info/RECORD").decode().splitlines()
    assert about.splitlines() == ["Wheel-Version: 1.0", "Tag: cp311-abi3-linux_armv6l", "Tag: cp311-abi3-linux_armv7l"]
    information = "mbcore-1.dist-info"
    files = [f"{information}/WHEEL", "mbcore/a.py", "mbcore/b.abi3.so", f"{information}/RECORD"]
    assert [line.partition(",")[0] for line in record] == files


@pytest.mark.parametrize(("count", "most", "kept"), [(0, 3, []), (2, 3, [0, 1]), (3, 3, [0, 1, 2]), (10, 3, [0, 4, 9]), (10, 1, [0])])
def test_cases_are_thinned_evenly(count, most, kept):
    assert thinned(list(range(count)), most) == kept


def test_of_generated_examples_a_tenth_is_tried():
    asked = "print(*[hypothesis.settings(**words).max_examples for words in ({'max_examples': 400}, {'max_examples': 5}, {})])"
    path = f"sys.path.insert(0, {str(RPI / 'emulated')!r})"
    assert run_python(f"import sys, hypothesis; {path}; import emulated_suite as s; s.try_fewer_examples(); {asked}") == "40 1 10\n"


def test_what_the_emulator_cannot_do_is_left_out_by_name():
    assert reason_against(SimpleNamespace(nodeid="tests/test_bench.py::test_x[a[b]]", fixturenames=[]))
    assert reason_against(SimpleNamespace(nodeid="tests/test_y.py::test_x", fixturenames=["tmp_path", "shim"]))
    assert reason_against(SimpleNamespace(nodeid="tests/test_y.py::test_x", fixturenames=["tmp_path"])) is None


@pytest.mark.parametrize("pattern", LEFT_OUT)
def test_what_is_left_out_by_name_is_there(pattern):
    file, _, name = pattern.partition("::")
    names = re.findall(r"^ *def (test_\w+)\(", (TESTS.parent / file).read_text(), re.MULTILINE)
    assert matching([name], names)


@pytest.mark.parametrize("name", FIXTURES)
def test_a_fixture_whose_tests_are_left_out_is_there(name):
    assert any(re.search(rf"@pytest.fixture.*\ndef {name}\(", path.read_text()) for path in TESTS.glob("*.py"))


@pytest.mark.parametrize("start", LIVE_TESTS)
def test_there_are_files_that_wait_for_the_real_clock(start):
    assert any("\nPATIENCE = " in path.read_text() for path in TESTS.glob(f"{start}*.py"))


def test_each_file_of_the_suite_is_run_on_emulated_systems_or_left():
    names = [path.stem.removeprefix("test_") for path in TESTS.glob("test_*.py")]
    assert [name for name in names if len(matching(RUN, [name]) + matching(LEFT, [name])) != 1] == []
    assert [pattern for pattern in [*RUN, *LEFT] if not matching([pattern], names)] == []
