"""Lists the extension modules; everything else stands in pyproject.toml."""

import os
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

MODULES = [
    "mbcore.checksum",
    "mbcore.datastore.context",
    "mbcore.datastore.observers",
    "mbcore.framer.ascii",
    "mbcore.framer.base",
    "mbcore.framer.binary",
    "mbcore.framer.tls",
    "mbcore.hosts",
    "mbcore.line",
    "mbcore.lock",
]

# ... and those on a request's way, from bytes to bytes.
HOT = [
    "mbcore.codec",
    "mbcore.control",
    "mbcore.datastore.store",
    "mbcore.execute",
    "mbcore.framer.rtu",
    "mbcore.framer.socket",
    "mbcore.session",
]

if sys.platform.startswith("linux"):
    # For size: resident memory is what -Os and the rest save. Where the compiled loops spend their time -O2 is worth its room.
    COMPILE = ["-Os", "-g0", "-fvisibility=hidden", "-fno-plt", "-fno-asynchronous-unwind-tables", "-ffunction-sections", "-fdata-sections"]
    # Cython leaves the docstrings of special methods unused.
    COMPILE += ["-Wno-unused-const-variable"]
    LINK = ["-Wl,-s", "-Wl,--gc-sections", "-Wl,-z,noseparate-code"]
    FAST = ["-O2"]
else:
    COMPILE, LINK, FAST = [], [], []

# "address,undefined" or "thread": a build of its own that finds what they find (tests/storm/run.py).
if sanitizers := os.environ.get("MBCORE_SANITIZE"):
    LINK = [f"-fsanitize={sanitizers}"]
    FAST = []
    COMPILE = [*LINK, "-O1", "-g", "-fno-omit-frame-pointer", "-Wno-unused-const-variable"]

if sys.platform.startswith("linux"):
    MODULES += ["mbcore.engine.loop", "mbcore.engine.serial", "mbcore.engine.tcp", "mbcore.engine.udp"]

extensions = [
    Extension(
        name,
        [name.replace(".", "/") + ".pyx"],
        # One wheel for CPython 3.11 and later.
        define_macros=[("Py_LIMITED_API", "0x030B0000")],
        py_limited_api=True,
        extra_compile_args=[*COMPILE, *FAST] if name in HOT else COMPILE,
        extra_link_args=LINK,
    )
    for name in sorted(MODULES + HOT)
]

setup(
    ext_modules=cythonize(
        extensions,
        build_dir="build/cython",
        language_level=3,
        # Python's own kind of methods, which know their signature: under the limited API Cython's kind makes a tuple for each call.
        compiler_directives={"binding": False, "embedsignature": True, "embedsignature.format": "clinic"},
    ),
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
