"""Lists the extension modules; everything else stands in pyproject.toml."""

import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

MODULES = [
    "mbcore.checksum",
    "mbcore.codec",
    "mbcore.control",
    "mbcore.datastore.store",
    "mbcore.datastore.context",
    "mbcore.execute",
    "mbcore.lock",
    "mbcore.framer.base",
    "mbcore.framer.socket",
    "mbcore.framer.rtu",
    "mbcore.framer.ascii",
    "mbcore.framer.binary",
    "mbcore.framer.tls",
    "mbcore.session",
]

POSIX = sys.platform != "win32"

extensions = [
    Extension(
        name,
        [name.replace(".", "/") + ".pyx"],
        # One wheel for CPython 3.11 and later.
        define_macros=[("Py_LIMITED_API", "0x030B0000")],
        py_limited_api=True,
        extra_compile_args=["-O2", "-g0", "-ffunction-sections", "-fdata-sections", "-fvisibility=hidden", "-Wno-unused-const-variable"] if POSIX else [],
        extra_link_args=["-Wl,-s", "-Wl,--gc-sections"] if sys.platform.startswith("linux") else [],
    )
    for name in MODULES
]

setup(
    ext_modules=cythonize(extensions, build_dir="build/cython", language_level=3),
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
