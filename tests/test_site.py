"""The site: it builds without a warning, every page is in its nav, and what it shows is up to date."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag
from xml.etree import ElementTree

import pytest
from script_folder import importable

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once, with warnings as errors."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr
    return folder


def pages(nav: Any) -> Iterator[str]:
    """Pages of a nav, in order."""
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [value] if isinstance(value, str) else pages(value)


def test_every_page_is_in_the_nav_once() -> None:
    pytest.importorskip("mkdocs")
    from mkdocs.config import load_config

    nav = list(pages(load_config(str(ROOT / "mkdocs.yml")).nav))
    hooks = runpy.run_path(str(ROOT / "scripts" / "site_hooks.py"))
    there = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]
    there += [page.relative_to(ROOT).as_posix() for pattern in hooks["OUTSIDE"] for page in ROOT.glob(pattern)]
    assert sorted(nav) == sorted(there), "a page has a line in the nav of mkdocs.yml"


class Reader(HTMLParser):
    """The links and pictures of a page, and the ids that links may name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag names."""
        given = {name: value for name, value in attrs if value}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("img", "link", "script"):
            self.fetched += [given[name] for name in ("src", "href") if name in given]


def test_links_lead_to_pages_and_files_that_are_built(built: Path) -> None:
    read = {page: Reader(page.read_text("utf-8")) for page in built.rglob("*.html") if page.name != "404.html"}
    assert len(read) > 30
    broken = []
    for page, own in read.items():
        for link in (*own.links, *own.fetched):
            address, heading = urldefrag(unquote(link))
            if re.match(r"[a-z]+:", address):
                continue
            target = (page.parent / address).resolve() if address else page
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (heading and target in read and heading not in read[target].ids):
                broken.append(f"{page.relative_to(built)}: {link}")
    assert broken == []


def test_pages_name_nothing_to_fetch_from_elsewhere(built: Path) -> None:
    for page in built.rglob("*.html"):
        assert [each for each in Reader(page.read_text("utf-8")).fetched if "//" in each] == [], page


def test_links_out_of_the_docs_lead_to_pages_of_the_site_or_copies_of_files(built: Path) -> None:
    text = (built / "from-other-projects" / "index.html").read_text("utf-8")
    assert 'href="../scripts/experiments/"' in text
    assert (built / "scripts" / "experiments" / "index.html").is_file()
    assert (built / "examples" / "credit.json").read_bytes() == (DOCS / "examples" / "credit.json").read_bytes()


def test_the_reference_shows_docstrings(built: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (built / "api" / "trials" / "index.html").read_text("utf-8"))
    assert "Play task and return the record, which holds any failure" in text
    named = [re.findall(r"^::: (\S+)", page.read_text("utf-8"), re.MULTILINE) for page in DOCS.glob("api/*.md")]
    assert sum(map(len, named)) > 30
    assert all(named)


def test_lists_and_tables_are_lists_and_tables_on_the_site_too(built: Path) -> None:
    """GitHub begins a list without an empty line before it, and the site's Markdown does not."""
    for page in [*DOCS.glob("*.md"), *(ROOT / "scripts").glob("*/README.md")]:
        text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        path = page.relative_to(DOCS if page.is_relative_to(DOCS) else ROOT)
        folder = path.parent if path.stem in ("index", "README") else path.with_suffix("")
        html = (built / folder / "index.html").read_text("utf-8").partition("<article")[2].partition("</article")[0]
        assert html.count("<li>") == len(re.findall(r"^\s*(?:[-*]|\d+\.) ", text, re.MULTILINE)), page
        assert html.count("<tr>") == len(re.findall(r"^\|(?!-)", text, re.MULTILINE)), page


class TestRowsAndMasks:
    """The picture in how-it-works.md."""

    @pytest.fixture(scope="class")
    def script(self) -> dict[str, Any]:
        pytest.importorskip("transformers")
        with importable("."):
            return runpy.run_path(str(ROOT / "scripts" / "rows_figure.py"))

    @pytest.fixture(scope="class")
    def shown(self) -> Any:
        """The figures that the picture carries."""
        tree = ElementTree.parse(DOCS / "img" / "rows.svg")
        (description,) = tree.iter("{http://purl.org/dc/elements/1.1/}description")
        return json.loads(description.text or "")

    def test_it_is_up_to_date(self, script: dict[str, Any], shown: Any) -> None:
        assert script["figures"]() == shown, "run scripts/rows_figure.py"

    def test_each_context_trains_the_same_tokens_once(self, shown: Any) -> None:
        """It is one trial, so rows differ only in what stands between the sampled tokens."""
        lengths = {
            context: [end - start for row in rows for _, start, end in row["spans"]] for context, rows in shown.items()
        }
        assert lengths["turn"] == lengths["episode"] == lengths["trial"]
        assert [len(rows) for rows in shown.values()] == [len(lengths["turn"]), 3, 1]

    def test_the_returns_that_the_page_explains(self, shown: Any) -> None:
        text = (DOCS / "how-it-works.md").read_text("utf-8")
        assert "0.6 · 9.5 = 5.7, and the first 0.6² · 9.5 = 3.42" in text
        (row,) = shown["trial"]
        assert list(dict.fromkeys(row["returns"])) == [3.42, 5.7, 9.5, 10.0]


def test_the_defaults_of_cpu_mode_are_as_its_page_says() -> None:
    from openrlhf_lamer.integration.cpu import host_defaults

    rows = re.findall(r"^\| (`--.*?) \| (\S+) \|$", (DOCS / "cpu-mode.md").read_text("utf-8"), re.MULTILINE)
    shown = {flag: value for flags, value in rows for flag in re.findall(r"`--([\w.]+)`", flags)}
    assert shown == {flag: "on" if value is True else str(value) for flag, value in host_defaults().items()}
