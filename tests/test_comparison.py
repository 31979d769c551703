"""The table of docs/comparison.md: each cell has a verdict and a source, and ours is a page of these docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
TEXT = (DOCS / "comparison.md").read_text("utf-8")
FEATURES = [line for line in TEXT.splitlines() if "| [yes][ours-" in line or "| [no][ours-" in line]
SOURCES = dict(re.findall(r"^\[([a-z-]+)\]: (\S+) \"[^\"]+\"$", TEXT, re.MULTILINE))
CELL = re.compile(r"\[(?:yes|no|partly)\]\[([a-z-]+)\]")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def header() -> list[str]:
    lines = TEXT.splitlines()
    return cells(lines[lines.index(FEATURES[0]) - 2])


def slugs(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_it_has_the_features_and_projects_of_its_text() -> None:
    assert header()[1:] == [
        *("here", "LaMer", "verl-agent", "MAGE", "ORBIT", "RAGEN", "SkyRL", "prime-rl", "rLLM", "OpenRLHF"),
    ]
    assert len(FEATURES) >= 15
    read_at = re.findall(
        r"^\| \[.+\]\(https://github.com/\S+\).*\| `[0-9a-f]{7}`.* \d{4}-\d\d-\d\d \|", TEXT, re.MULTILINE
    )
    assert len(read_at) == len(header()) - 2


@pytest.mark.parametrize("line", FEATURES, ids=lambda line: cells(line)[0])
def test_each_cell_is_a_verdict_with_a_source_or_a_question_mark(line: str) -> None:
    row = cells(line)
    assert len(row) == len(header())
    for cell in row[1:]:
        found = CELL.fullmatch(cell)
        assert cell == "?" or (found and found[1] in SOURCES), cell
    assert row[1] != "?"


def test_each_source_is_of_its_project_and_used() -> None:
    used = [label for line in FEATURES for label in CELL.findall(line)]
    assert sorted(used) == sorted(SOURCES)
    projects = re.findall(r"\((https://github.com/[^)]+)\)", TEXT)
    commits = set(re.findall(r"`([0-9a-f]{7})`", TEXT))
    for label, source in SOURCES.items():
        if label.startswith("ours-"):
            continue
        paper = re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", source)
        file = re.fullmatch(r"(https://github\.com/[\w-]+/[\w-]+)/blob/([0-9a-f]{7})/\S+", source)
        assert paper or (file and file[1] in projects and file[2] in commits), source


def test_our_column_leads_to_pages_and_headings_that_there_are() -> None:
    ours = [source for label, source in SOURCES.items() if label.startswith("ours-")]
    assert len(ours) == len(FEATURES)
    for source in ours:
        page, _, heading = source.partition("#")
        assert (DOCS / page).is_file(), source
        assert not heading or heading in slugs(DOCS / page), source
