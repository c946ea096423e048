"""Foreign programs that live tests need: found, compiled or installed once; a test that lacks one is skipped, on CI it fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / "build"
PYMODBUS2 = "pymodbus==2.5.3"


def lacking(what, way):
    """Ends the test: `what` is not there, and what to do about it."""
    reason = f"{what} is not there: {way}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    # Allowed at the head of a file of tests too.
    pytest.skip(reason, allow_module_level=True)


def need(program, package):
    """The path of an installed program."""
    return shutil.which(program) or lacking(program, f"apt install {package}")


def compile_libmodbus_client(folder):
    compiler = need("cc", "build-essential")
    ask = [need("pkg-config", "pkg-config"), "--cflags", "--libs", "libmodbus"]
    flags = subprocess.run(ask, capture_output=True, text=True, check=False)
    if flags.returncode:
        lacking("libmodbus", "apt install libmodbus-dev")
    program = folder / "client_libmodbus"
    source = Path(__file__).with_name("client_libmodbus.c")
    subprocess.run([compiler, "-Wall", "-Wextra", "-Werror", "-O1", "-o", program, source, *flags.stdout.split()], check=True)
    return program


def install_pymodbus2():
    """The Python of an environment with pymodbus 2.5.3, kept under build/ from one run to the next."""
    folder = BUILD / "pymodbus-2.5.3"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PYMODBUS2]
        if subprocess.run(install, check=False).returncode:
            lacking("pymodbus 2.5.3", "pip, which can't install it, says why")
        (folder / "complete").touch()
    return python
