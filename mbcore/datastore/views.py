"""What ``block.values`` and ``context.store``, ``.files``, ``.fifos`` look like from Python: live, not copies. Holds no values itself."""

from __future__ import annotations

import operator
from collections.abc import Callable, ItemsView, Iterable, Iterator, MutableMapping, MutableSequence, ValuesView
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
        if not isinstance(index, slice):
            self._block._write(self._index(index), [value])
            return
        values = list(value)
        places = range(len(self))[index]
        # Only these: what a master writes elsewhere meanwhile stays.
        if places.step == 1:
            if len(values) != len(places):
                self._block._replace(index, values)
            else:
                self._block._write(places.start, values)
        elif len(values) != len(places):
            raise ValueError(f"{len(values)} values do not fit the {len(places)} places of this slice with a step")
        else:
            for place, single in zip(places, values, strict=True):
                self._block._write(place, [single])

    def __delitem__(self, index: int | slice) -> None:
        if not isinstance(index, slice):
            place = self._index(operator.index(index))
            index = slice(place, place + 1)
        self._block._replace(index, [])

    def insert(self, index: int, value: int) -> None:
        """Put ``value`` before ``index``; the block grows by one."""
        place = operator.index(index)
        self._block._replace(slice(place, place), [value])

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
        value: int | None = self._block._read(address) if isinstance(address, int) else None
        if value is None:
            raise KeyError(address)
        return value

    def __setitem__(self, address: int, value: int) -> None:
        self._block._write(address, value)

    def __delitem__(self, address: int) -> None:
        self._block._remove(address)

    def items(self) -> ItemsView[int, int]:
        """The pairs (address, value), read at once."""
        return snapshot_of(self._block).items()

    def values(self) -> ValuesView[int]:
        """The values, read at once."""
        return snapshot_of(self._block).values()

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
    """The files or FIFO queues of a slave context: {number: live list}.

    :param held: returns the blocks by number
    :param make: makes blocks of {number: values}
    :param publish: puts other blocks in their place
    """

    __slots__ = ("_held", "_make", "_publish")

    def __init__(
        self,
        held: Callable[[], dict[int, Any]],
        make: Callable[[dict[int, Any]], dict[int, Any]],
        publish: Callable[[dict[int, Any]], None],
    ) -> None:
        self._held = held
        self._make = make
        self._publish = publish

    def __len__(self) -> int:
        return len(self._held())

    def __iter__(self) -> Iterator[int]:
        return iter(self._held())

    def __getitem__(self, number: int) -> Any:
        return self._held()[number].values

    def __setitem__(self, number: int, values: Any) -> None:
        self._publish({**self._held(), **self._make({number: values})})

    def __delitem__(self, number: int) -> None:
        remaining = dict(self._held())
        del remaining[number]
        self._publish(remaining)

    def __repr__(self) -> str:
        return repr({number: list(values) for number, values in self.items()})
