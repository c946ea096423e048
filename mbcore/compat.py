"""Small helpers that pymodbus' users import: from its ``utilities``, its ``compat`` and its ``version``.

Scripts of the Python 2 age call them; nothing in mbcore does. What Python has under another name is named in ``mbcore.pymodbus`` itself.
"""

import importlib.util
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

_T = TypeVar("_T")
_K = TypeVar("_K")
_V = TypeVar("_V")


def int2byte(value: int) -> bytes:
    """One byte with the value 0..255."""
    return bytes((value,))


def byte2int(value: int) -> int:
    """What one item of a ``bytes`` is: a number already."""
    return value


def iterkeys(mapping: Mapping[_K, _V]) -> Iterator[_K]:
    """An iterator over the keys."""
    return iter(mapping.keys())


def itervalues(mapping: Mapping[_K, _V]) -> Iterator[_V]:
    """An iterator over the values."""
    return iter(mapping.values())


def iteritems(mapping: Mapping[_K, _V]) -> Iterator[tuple[_K, _V]]:
    """An iterator over the pairs of key and value."""
    return iter(mapping.items())


def implements_to_string(cls: _T) -> _T:
    """The class as it is; Python 2 needed a decorator."""
    return cls


def is_installed(module: str) -> Any:
    """What is known of a module that can be imported, None of any other."""
    return importlib.util.find_spec(module)


def is_main_thread() -> bool:
    """Whether this runs in the main thread, the only one in which signals can be handled."""
    return threading.current_thread() is threading.main_thread()


def make_byte_string(text: Any) -> Any:
    """A str as UTF-8 bytes; anything else as it is."""
    return text.encode() if isinstance(text, str) else text


def default(value: Any) -> Any:
    """The empty or zero value of the type of ``value``."""
    return type(value)()


def dict_property(store: Any, index: object) -> property:
    """A property that reads and writes one item of a mapping.

    :param store: the mapping; or the name of the attribute that holds it; or a function that finds it, given the object
    :param index: the item's key
    """

    def find(owner: object) -> Any:
        if callable(store):
            return store(owner)
        return getattr(owner, store) if isinstance(store, str) else store

    def get(owner: object) -> Any:
        return find(owner)[index]

    def set_(owner: object, value: Any) -> None:
        find(owner)[index] = value

    return property(get, set_)


def rtuFrameSize(data: Sequence[int], byte_count_pos: int) -> int:
    """How many bytes an RTU frame has whose byte count is at ``byte_count_pos``: up to there, the data, and two of CRC."""
    return byte_count_pos + 1 + data[byte_count_pos] + 2


def hexlify_packets(packet: Iterable[int] | None) -> str:
    """Bytes in hexadecimal, "0x1 0xff"; "" for none."""
    return " ".join(hex(octet) for octet in packet or b"")


class Version:
    """The version of a package, in parts.

    :param pre: what follows the three numbers in a pre-release
    """

    def __init__(self, package: str, major: int, minor: int, micro: int, pre: str | None = None) -> None:
        self.package = package
        self.major = major
        self.minor = minor
        self.micro = micro
        self.pre = pre

    def short(self) -> str:
        """The version as text, "2.5.3"."""
        numbers = f"{self.major}.{self.minor}.{self.micro}"
        return f"{numbers}.{self.pre}" if self.pre else numbers

    def __str__(self) -> str:
        return f"[{self.package}, version {self.short()}]"


# The release whose names and signatures mbcore.pymodbus has.
version = Version("pymodbus", 2, 5, 3)
