"""The compiled form of a catalogue on disk: a folder beside the files that it was made from.

Products stay on disk and are read when they are looked at; index columns are mapped into memory. So the
full catalogue takes little memory of a process, and all processes of a machine share it.
"""

from __future__ import annotations

import json
import mmap
import re
import shutil
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from openrlhf_lamer.envs.base import TaskError
from openrlhf_lamer.envs.webshop.compiling import compile_rows
from openrlhf_lamer.envs.webshop.goals import split
from openrlhf_lamer.envs.webshop.nouns import Tagger, best_tagger
from openrlhf_lamer.envs.webshop.ranking import Index
from openrlhf_lamer.envs.webshop.shop import Goal, GoalKind, Product, Shop
from openrlhf_lamer.envs.webshop.source import find_files, read_rows

FORMAT = 2

_META, _PRODUCTS, _GOALS, _TERMS = "meta.json", "products.jsonl", "goals.jsonl", "terms.txt"
_ARRAYS = ("places", "bounds", "postings", "weights")


class StoredProducts(Sequence[Product]):
    """Products in a file, a JSON line each; read when asked for."""

    def __init__(self, path: Path, places: npt.NDArray[np.int64]) -> None:
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._places = places
        self._product = lru_cache(maxsize=1 << 14)(self._read)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Product: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Product]: ...
    def __getitem__(self, index: int | slice) -> Product | Sequence[Product]:
        if isinstance(index, slice):
            return [self._product(each) for each in range(len(self))[index]]
        return self._product(range(len(self))[index])

    def _read(self, number: int) -> Product:
        start, stop = self._places[number].tolist()
        return Product.from_row(json.loads(self._data[start:stop]))


def compiled_folder(folder: Path, products: int | None, goals: GoalKind) -> Path:
    """Folder of the compiled form of a data folder."""
    return folder / f"openrlhf-lamer-{goals}-{products or 'all'}"


def compiled_kinds(folder: Path) -> list[tuple[int | None, GoalKind]]:
    """Compiled forms of a data folder, as `products` and `goals` of `load`."""
    kinds: list[tuple[int | None, GoalKind]] = []
    for path in sorted(folder.glob("openrlhf-lamer-*")):
        if match := re.fullmatch(r"openrlhf-lamer-(human|generated)-(\d+|all)", path.name):
            goals: GoalKind = "human" if match[1] == "human" else "generated"
            kinds.append((None if match[2] == "all" else int(match[2]), goals))
    return kinds


def prepare(
    folder: Path,
    products: int | None,
    goals: GoalKind,
    report: Callable[[int, int], None] = lambda done, all_: None,
    tagger: tuple[str, Tagger] | None = None,
) -> Shop:
    """Check the data in `folder`, compile it and return the shop.

    Args:
        folder: The original's files.
        products: Number of products, from the first on; None for all.
        goals: Which goals.
        report: Called with the bytes read so far, and in all.
        tagger: Label and function that finds nouns; None for the best one installed.

    Raises:
        TaskError: A file is missing, half downloaded or corrupt.
    """
    files = find_files(folder, products, goals)
    total = files.items.stat().st_size
    label, nouns = tagger or best_tagger()
    target = compiled_folder(folder, products, goals)
    draft = target.with_name(target.name + ".draft")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        lengths: list[int] = []
        with (draft / _PRODUCTS).open("wb") as file:

            def keep(product: Product) -> None:
                lengths.append(file.write(json.dumps(product.to_row()).encode() + b"\n"))

            compiled = compile_rows(read_rows(files, products, lambda done: report(done, total)), nouns, keep)
        ends = np.cumsum(lengths, dtype=np.int64)
        places = np.empty((len(lengths), 2), np.int64)
        places[compiled.numbers] = np.stack((ends - lengths, ends), axis=1)
        index = compiled.index
        arrays = (places, index.bounds, index.products, index.weights)
        for name, values in zip(_ARRAYS, arrays, strict=True):
            np.save(draft / f"{name}.npy", values)
        (draft / _TERMS).write_text("\n".join(index.terms), encoding="utf-8")
        (draft / _GOALS).write_text("".join(json.dumps(goal.to_row()) + "\n" for goal in compiled.goals))
        meta = {
            "format": FORMAT,
            "made_from": files.sizes(),
            "digest": compiled.digest,
            "tagger": label,
            "origin": files.items.name,
            "files": {file.name: file.stat().st_size for file in sorted(draft.iterdir())},
        }
        (draft / _META).write_text(json.dumps(meta, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    except OSError as error:
        raise TaskError(f"webshop: cannot compile {target}: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    report(total, total)
    return load(folder, products, goals)


def load(folder: Path, products: int | None, goals: GoalKind) -> Shop:
    """The shop that `prepare` has compiled; raises `TaskError` if this one has not been compiled."""
    again = f"run: openrlhf-lamer prepare webshop --data {folder} --goals {goals}"
    if products is not None:
        again += f" --products {products}"
    compiled = compiled_folder(folder, products, goals)
    if not (compiled / _META).is_file():
        find_files(folder, products, goals)  # says so where there is nothing to prepare
        raise TaskError(f"webshop: the data in {folder} has not been prepared with {goals} goals; {again}")
    try:
        meta: dict[str, Any] = json.loads((compiled / _META).read_text())
        if meta["format"] != FORMAT:
            raise TaskError(f"webshop: {compiled} was prepared by another version (format {meta['format']}); {again}")
        for name, size in meta["made_from"].items():
            if (folder / name).is_file() and (folder / name).stat().st_size != size:
                raise TaskError(f"webshop: {folder / name} has changed since it was prepared; {again}")
        for name, size in meta["files"].items():
            if (compiled / name).stat().st_size != size:
                raise TaskError(f"webshop: {compiled / name} is not of the size it was prepared with; {again}")
        places, bounds, postings, weights = (np.load(compiled / f"{name}.npy", mmap_mode="r") for name in _ARRAYS)
        terms = (compiled / _TERMS).read_text(encoding="utf-8").split("\n")
        ordered = tuple(Goal.from_row(json.loads(line)) for line in (compiled / _GOALS).read_text().splitlines())
        return Shop(
            products=StoredProducts(compiled / _PRODUCTS, places),
            goals=ordered,
            kind=goals,
            splits=split(ordered),
            index=Index(terms, bounds, postings, weights, len(places)),
            digest=meta["digest"],
            tagger=meta["tagger"],
            origin=meta["origin"],
            source=str(folder),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, TaskError):
            raise
        raise TaskError(f"webshop: {compiled} is damaged ({error!r}); {again}") from error
