"""The release of pymodbus whose names these are."""

from mbcore.compat import Version, version

__all__ = [
    "Version",
    "version",
]
