"""The original's data files, found, checked and read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from openrlhf_lamer.envs.base import TaskError
from openrlhf_lamer.envs.webshop.compiling import GET, Rows
from openrlhf_lamer.envs.webshop.shop import GoalKind

HUMAN = "items_human_ins.json"

_CHUNK = 1 << 22
_LONGEST = 1 << 26
"""Bytes of the longest row of a product."""


@dataclass(frozen=True)
class Files:
    """The files of one catalogue.

    Attributes:
        items: The products.
        attributes: Attributes of the products, and generated instructions.
        instructions: Instructions written by people; None if not asked for.
    """

    items: Path
    attributes: Path
    instructions: Path | None

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, by name."""
        files = (self.items, self.attributes, self.instructions)
        return {file.name: file.stat().st_size for file in files if file is not None}


def find_files(folder: Path, products: int | None, goals: GoalKind) -> Files:
    """The files to read for the first `products` products.

    If the folder has several catalogues, `items_shuffle_{products}.json` is taken if it exists, else
    `items_shuffle.json`. Raises `TaskError` where a file is missing.
    """
    if not folder.is_dir():
        raise TaskError(f"webshop: there is no folder {folder}; {GET}")
    items = folder / f"items_shuffle_{products}.json"
    if not items.is_file():
        items = folder / "items_shuffle.json"
    if not items.is_file():
        others = sorted(folder.glob("items_shuffle*.json"))
        if len(others) > 1:
            names = ", ".join(other.name for other in others)
            raise TaskError(f"webshop: {folder} has several catalogues ({names}): name one by its number of products")
        items = others[0] if others else items
    attributes = folder / items.name.replace("items_shuffle", "items_ins_v2")
    instructions = folder / HUMAN if goals == "human" else None
    for file in (items, attributes, instructions):
        if file is not None and not file.is_file():
            raise TaskError(f"webshop: {file} is missing; {GET}")
    return Files(items, attributes, instructions)


def read_rows(files: Files, products: int | None, report: Callable[[int], None]) -> Rows:
    """Open a catalogue's files. `report` is given the bytes of the products' file read so far."""
    return Rows(
        items=islice(read_list(files.items, report), products),
        attributes=read_table(files.attributes),
        instructions=None if files.instructions is None else read_table(files.instructions),
        source=str(files.items),
    )


def read_table(path: Path) -> dict[str, Any]:
    """The JSON object of a file. Raises `TaskError` where the file holds none, or is cut off."""
    try:
        table = json.loads(path.read_bytes())
    except ValueError as error:
        raise TaskError(f"webshop: {path} is half downloaded or corrupt ({error}); {GET}") from error
    if not isinstance(table, dict):
        raise TaskError(f"webshop: {path} is no table of products by asin; {GET}")
    return table


def read_list(path: Path, report: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list, read one at a time: the full catalogue is larger than memory.

    Raises `TaskError` where the file holds no such list, or is cut off.
    """
    with path.open("rb") as file:
        yield from _objects(path, file, report)


def _objects(path: Path, file: BinaryIO, report: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    buffer = file.read(_CHUNK)
    opening = buffer.lstrip()[:1]
    if opening != b"[":
        raise TaskError(f"webshop: {path} is no list of products: it begins with {buffer[:20]!r}; {GET}")
    text, rest = _decoded(path, buffer)
    position, number, ended = text.index("[") + 1, 0, False
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        if text[position : position + 1] == "]":
            return
        try:
            item, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            if ended or len(text) - position > _LONGEST:
                raise TaskError(
                    f"webshop: {path} is half downloaded or corrupt: product {number} is cut off or no JSON "
                    f"({error.msg}); {GET}"
                ) from error
            buffer = file.read(_CHUNK)
            ended = not buffer
            more, rest = _decoded(path, rest + buffer)
            text, position = text[position:] + more, 0
            report(file.tell())
            continue
        if not isinstance(item, dict):
            raise TaskError(f"webshop: {path}: product {number} is {item!r}, no row of a catalogue; {GET}")
        number += 1
        yield item


def _decoded(path: Path, data: bytes) -> tuple[str, bytes]:
    """The text of `data`, and its last bytes if they begin a character that is cut off."""
    try:
        return data.decode("utf-8"), b""
    except UnicodeDecodeError as error:
        if len(data) - error.start < 4:
            return data[: error.start].decode("utf-8"), data[error.start :]
        raise TaskError(f"webshop: {path} is corrupt: {error}; {GET}") from error
