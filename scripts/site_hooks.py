"""Hooks of the site's build: pages that lie outside docs/, and links that work alike on GitHub and on the site.

Such a page keeps its path in the repository, which is also its entry in the nav of mkdocs.yml. So
`scripts/learning/README.md` is the site's `scripts/learning/`. A link to a folder leads to its README, one to the
README of the repository to the home page, and one to a file that is no page to a copy of it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "recipes/**/README.md", "scripts/*/README.md")
"""Pages of the site that are not in docs/, as patterns of their paths."""

LINK = re.compile(r"(?<=\]\()[^)\s]+(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            _add(path, files, config)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    return LINK.sub(lambda link: _link(link[0], page.file, config, files), markdown)


def _link(link: str, page: File, config: MkDocsConfig, files: Files) -> str:
    """A link as the site has it; one that leads out of the repository, or nowhere, stays as it is."""
    name, mark, heading = link.partition("#")
    path = (Path(page.abs_src_path or DOCS).parent / name).resolve()
    if path.is_dir():
        path /= "README.md"
    if path == ROOT / "README.md":
        path = DOCS / "index.md"
    if not name or not path.is_file() or not path.is_relative_to(ROOT):
        return link
    if _uri(path) not in files.src_uris:
        _add(path, files, config)
    return posixpath.relpath(_uri(path), posixpath.dirname(page.src_uri) or ".") + mark + heading


def _add(path: Path, files: Files, config: MkDocsConfig) -> None:
    files.append(File.generated(config, _uri(path), abs_src_path=str(path)))


def _uri(path: Path) -> str:
    """Path of a file in the site's sources: docs/ is their root, and a file elsewhere keeps its path."""
    return path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT).as_posix()
