"""Fast Downward, as TextWorld ships it: the translator, and copies of its library.

The library keeps one game's state in global variables, so each live game needs its own copy.
Copies are pooled and never unloaded: unloading one twice, or while the interpreter ends,
crashes the process.
"""

from __future__ import annotations

import struct
import sys
import tempfile
import threading
from collections.abc import Iterator
from ctypes import CDLL
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

lock = threading.RLock()
"""Held while games are read: neither the translator nor TextWorld's parsers can run twice at once."""
_idle: list[CDLL] = []

S = TypeVar("S")


def translate(domain: str, problem: str) -> tuple[Any, str]:
    """The parsed task and its SAS text. Errors of the parser are passed on, `SystemExit` too."""
    import fast_downward

    with lock:  # it works on global options, sys.stdout and sys.argv
        argv, stdout = sys.argv, sys.stdout
        try:
            task, sas = fast_downward.pddl2sas(domain, problem)
            return task, sas
        finally:
            sys.argv, sys.stdout = argv, stdout


def lease() -> CDLL:
    """A copy of the library that nobody else uses."""
    with lock:
        return _idle.pop() if _idle else _open()


def give_back(library: CDLL) -> None:
    """Let the next `lease` have this copy."""
    _idle.append(library)


def applicable(library: CDLL) -> Iterator[tuple[int, str, int]]:
    """The operators that can be applied now: id, name with arguments, number of effects."""
    from fast_downward import Operator

    operators = _array(Operator, library.get_applicable_operators_count())
    library.get_applicable_operators(operators)
    for operator in operators:
        yield operator.id, operator.name, operator.nb_effect_atoms


def apply(library: CDLL, operator: int, num_effects: int) -> list[tuple[bool, str, tuple[str, ...]]]:
    """Apply an operator; returns the changed facts: whether each holds now, its predicate, its ids."""
    from fast_downward import Atom

    atoms = _array(Atom, num_effects)
    library.apply_operator(operator, atoms)
    return [_read(atom.name) for atom in atoms]


def _array(kind: type[S], length: int) -> Any:
    return (kind * length)()  # type: ignore[operator]


def _read(atom: str) -> tuple[bool, str, tuple[str, ...]]:
    """Take `Atom holds(agent1, apple_1)` or `NegatedAtom ...` apart."""
    kind, _, rest = atom.partition(" ")
    predicate, _, ids = rest.removesuffix(")").partition("(")
    return kind == "Atom", predicate, tuple(ids.split(", ")) if ids else ()


def _open() -> CDLL:
    """Load a new copy of one megabyte; the wheel's file has 33, mostly debug symbols."""
    from fast_downward import interface

    path = interface.DOWNWARD_LIB_PATH
    with tempfile.NamedTemporaryFile(suffix=".so") as lean:
        lean.write(_loaded_part(Path(path)))
        lean.flush()
        interface.DOWNWARD_LIB_PATH = lean.name
        try:
            return interface.load_lib()
        finally:
            interface.DOWNWARD_LIB_PATH = path


@cache
def _loaded_part(library: Path) -> bytes:
    """The file up to the last byte that a loader maps into memory, or all of it if it is not a 64-bit ELF file."""
    content = library.read_bytes()
    if content[:6] != b"\x7fELF\x02\x01":
        return content
    start, size, count = (*struct.unpack_from("<Q", content, 32), *struct.unpack_from("<HH", content, 54))
    ends = []
    for header in range(start, start + size * count, size):
        kind, offset, length = (
            *struct.unpack_from("<I", content, header),
            *struct.unpack_from("<Q", content, header + 8),
            *struct.unpack_from("<Q", content, header + 32),
        )
        if kind == 1:  # PT_LOAD
            ends.append(offset + length)
    return content[: max(ends)]
