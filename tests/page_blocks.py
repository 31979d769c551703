"""Code blocks of pages."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for name in ("docs", "recipes", "scripts") for page in (ROOT / name).rglob("*.md"))]
)
"""Every page of the repository."""


def blocks(page: str | Path, language: str) -> list[str]:
    """The code blocks of a page in one language; a page without a folder is one of `docs/`."""
    return blocks_of((DOCS / page).read_text("utf-8"), language)


def blocks_of(text: str, language: str) -> list[str]:
    """The code blocks of a page's text in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
