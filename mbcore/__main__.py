"""``python -m mbcore`` is the command ``mbcore``."""

import sys

from mbcore.cli import main

if __name__ == "__main__":
    sys.exit(main())
