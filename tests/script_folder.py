"""Import of modules that lie in a folder of scripts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def importable(name: str) -> Iterator[Path]:
    """The folder `scripts/NAME`, whose modules can be imported by their plain names meanwhile."""
    folder = Path(__file__).parent.parent / "scripts" / name
    sys.path.insert(0, str(folder))
    try:
        yield folder
    finally:
        sys.path.remove(str(folder))
