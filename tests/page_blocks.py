"""Code blocks of pages."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def blocks(page: str | Path, language: str) -> list[str]:
    """The code blocks of a page in one language; a page without a folder is one of `docs/`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
