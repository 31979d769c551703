"""Shell commands on pages that need no model, no data of others and no person: each page's are run, in their order.

Those that play a file of the page are run where that file is tested.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from page_blocks import PAGES, ROOT, blocks
from page_commands import MARK, commands
from typer.testing import CliRunner

from openrlhf_lamer.cli.main import app

READERS = ("view", "report", "analyze")
"""Commands that read what others wrote: run where an earlier command of the page wrote it."""

NEED_MORE = frozenset({"--model", "--endpoint", "--base", "--follow", "--verify"})
"""Options of commands that need a model or a server, do not end, or take minutes."""


def can_run(words: list[str]) -> bool:
    """Whether a command needs nothing but the files that earlier ones have made."""
    if words[0] != "openrlhf-lamer" or NEED_MORE & {*words} or any(".py" in word for word in words):
        return False
    match words[1:]:
        case ["prepare", "tasks" | "mix", *rest]:
            return "official" not in " ".join(rest)
        case ["play" | "eval", *rest]:
            return "--player" in rest
        case [command, *rest] if command in READERS:
            inputs = [Path(word.rpartition("=")[2]) for word in rest if "/" in word and word != rest[-1]]
            return bool(inputs) and all(path.exists() for path in inputs)
        case _:
            return words[1] in ("credit", "estimate")


def runnable(page: Path) -> bool:
    """Whether a page has a command that is run whatever earlier ones have made."""
    found = [words for block in blocks(page, "bash") if not MARK.match(block) for words in commands(block) if words]
    return any(can_run(words) for words in found)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if runnable(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_commands_that_need_no_model_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need: Callable[[str], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("recipes", "tests"):
        Path(name).symlink_to(ROOT / name)
    ran = 0
    for block in (block for block in blocks(page, "bash") if not MARK.match(block)):
        for words in filter(None, commands(block)):
            if not can_run(words):
                continue
            for env in ("alfworld", "webshop"):
                if any(word.startswith(env) for word in words):
                    need(env)
            if words[1] == "estimate":
                pytest.importorskip("openrlhf")
            result = CliRunner().invoke(app, words[1:])
            assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}"
            ran += 1
    assert ran > 0
