"""What ``block.values`` and ``context.store``, ``.files``, ``.fifos`` look like from Python: live, not copies. Holds no values itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping, MutableSequence
from typing import Any, overload


class SequenceView(MutableSequence[int]):
    """The values of a sequential block as a list."""

    __slots__ = ("_block",)

    def __init__(self, block: Any) -> None:
        self._block = block

    def __len__(self) -> int:
        length: int = self._block._length()
        return length

    def _index(self, index: int) -> int:
        length = len(self)
        position = index + length if index < 0 else index
        if not 0 <= position < length:
            raise IndexError(f"index {index} is not in this list of {length}")
        return position

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> list[int]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self._block._read(0, len(self))[index]
        return self._block._read(self._index(index), 1)[0]

    def __setitem__(self, index: int | slice, value: Any) -> None:
        if isinstance(index, slice):
            values = list(self)
            values[index] = value
            if len(values) == len(self):
                self._block._write(0, values)
            else:
                self._block.values = values
        else:
            self._block._write(self._index(index), [value])

    def __delitem__(self, index: int | slice) -> None:
        values = list(self)
        del values[index]
        self._block.values = values

    def insert(self, index: int, value: int) -> None:
        """Put ``value`` before ``index``; the block grows by one."""
        values = list(self)
        values.insert(index, value)
        self._block.values = values

    def __iter__(self) -> Iterator[int]:
        values: list[int] = self._block._read(0, len(self))
        return iter(values)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (SequenceView, list, tuple)):
            return list(self) == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: Iterable[int]) -> list[int]:
        return list(self) + list(other)

    def __repr__(self) -> str:
        return repr(list(self))


def snapshot_of(block: Any) -> dict[int, int]:
    """All of a sparse block's values, read at once."""
    values: dict[int, int] = block._snapshot()
    return values


class MappingView(MutableMapping[int, int]):
    """The values of a sparse block as a dict {address: value}."""

    __slots__ = ("_block",)

    def __init__(self, block: Any) -> None:
        self._block = block

    def __len__(self) -> int:
        length: int = self._block._length()
        return length

    def __iter__(self) -> Iterator[int]:
        return iter(snapshot_of(self._block))

    def __getitem__(self, address: int) -> int:
        return snapshot_of(self._block)[address]

    def __setitem__(self, address: int, value: int) -> None:
        self._block._write({address: value})

    def __delitem__(self, address: int) -> None:
        self._block._remove(address)

    def copy(self) -> dict[int, int]:
        """Return the values as a dict of their own."""
        return snapshot_of(self._block)

    def __repr__(self) -> str:
        return repr(snapshot_of(self._block))


def blocks_of(context: Any) -> dict[str, Any]:
    """The blocks of a slave context by key."""
    blocks: dict[str, Any] = context._blocks()
    return blocks


class BlockMapping(MutableMapping[str, Any]):
    """The data blocks of a slave context by key."""

    __slots__ = ("_context",)

    def __init__(self, context: Any) -> None:
        self._context = context

    def __len__(self) -> int:
        return len(blocks_of(self._context))

    def __iter__(self) -> Iterator[str]:
        return iter(blocks_of(self._context))

    def __getitem__(self, key: str) -> Any:
        return blocks_of(self._context)[key]

    def __setitem__(self, key: str, block: Any) -> None:
        self._context._attach(key, block)

    def __delitem__(self, key: str) -> None:
        raise TypeError(f"a context always has a block for {key!r}; assign another one")

    def __repr__(self) -> str:
        return repr(blocks_of(self._context))


class NumberedMapping(MutableMapping[int, Any]):
    """The files or FIFO queues of a slave context: {number: live list}."""

    __slots__ = ("_blocks", "_make", "_publish")

    def __init__(
        self, blocks: dict[int, Any], make: Callable[[dict[int, Any]], dict[int, Any]], publish: Callable[[dict[int, Any]], None]
    ) -> None:
        self._blocks = blocks
        self._make = make
        self._publish = publish

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[int]:
        return iter(self._blocks)

    def __getitem__(self, number: int) -> Any:
        return self._blocks[number].values

    def __setitem__(self, number: int, values: Any) -> None:
        self._publish({**self._blocks, **self._make({number: values})})

    def __delitem__(self, number: int) -> None:
        remaining = dict(self._blocks)
        del remaining[number]
        self._publish(remaining)

    def __repr__(self) -> str:
        return repr({number: list(values) for number, values in self.items()})
