"""zig's C compiler with the arguments that setuptools has for gcc.

With KEEP_SYMBOLS=folder in the environment, what is linked is linked there a second time, with its symbols.
"""

import os
import subprocess
import sys

ZIG = [sys.executable, "-m", "ziglang", "cc"]
# What zig's linker does by itself and knows no option for.
DEFAULTS = {"-Wl,-z,noseparate-code"}


def main(arguments: list[str]) -> int:
    arguments = [argument for argument in arguments if argument not in DEFAULTS]
    outcome = subprocess.call(ZIG + arguments)
    folder = os.environ.get("KEEP_SYMBOLS")
    if outcome or not folder or "-shared" not in arguments:
        return outcome
    place = arguments.index("-o") + 1
    arguments[place] = os.path.join(folder, arguments[place])
    os.makedirs(os.path.dirname(arguments[place]), exist_ok=True)
    return subprocess.call(ZIG + [argument for argument in arguments if argument != "-Wl,-s"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
