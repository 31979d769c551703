"""Immutable sequences of numbers for records, a few bytes a number.

A tuple of token ids takes ten times as much memory, since each id is a separate object; the tuples of
all prompts of a batch would fill most of a trainer's memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self, TypeVar, overload

N = TypeVar("N", int, float)


class Packed(Sequence[N]):
    """An immutable sequence of numbers, equal to the tuple of them.

    `numpy.asarray` gives a view of it without a copy.

    Raises:
        TypeError: for an element that is not a number of this kind.
        OverflowError: for a number out of range.
    """

    __slots__ = ("_numbers",)
    typecode: ClassVar[str]

    def __init__(self, numbers: Iterable[N] = ()) -> None:
        self._numbers = array(self.typecode, numbers._numbers if isinstance(numbers, Packed) else numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> N: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> N | Self:
        if isinstance(index, slice):
            return type(self)(self._numbers[index])
        return self._numbers[index]

    def __iter__(self) -> Any:
        return iter(self._numbers)

    def __add__(self, other: Iterable[N]) -> Self:
        return type(self)(self._numbers + type(self)(other)._numbers)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Packed):
            return self._numbers == other._numbers
        return tuple(self) == other

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __reduce__(self) -> tuple[type[Self], tuple[array[Any]]]:
        return type(self), (self._numbers,)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy as np

        view = np.asarray(memoryview(self._numbers).toreadonly())
        return view.astype(dtype or view.dtype, copy=bool(copy))


class Tokens(Packed[int]):
    """Token ids."""

    __slots__ = ()
    typecode = "i"


class Logprobs(Packed[float]):
    """Log-probabilities of tokens."""

    __slots__ = ()
    typecode = "d"
