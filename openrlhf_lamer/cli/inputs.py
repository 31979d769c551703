"""What several commands read from their arguments in the same way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openrlhf_lamer.cli.errors import fail

if TYPE_CHECKING:
    from openrlhf_lamer.evaluation.viewer import Entry


def environment(named: str) -> str:
    """The name of an environment, given by it or by the agent's .py file that brings it."""
    if not named.endswith(".py"):
        return named
    from openrlhf_lamer.agents import AgentError, load_agent

    try:
        return load_agent(named)[0].env
    except AgentError as error:
        fail(str(error))


def json_object(flag: str, text: str) -> dict[str, Any]:
    """The value of a flag that takes a JSON object."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        fail(f"{flag} {text!r} is not a JSON object: {error}")
    if not isinstance(value, dict):
        fail(f"{flag} {text!r} is not a JSON object, such as '{{\"mines\": 4}}'")
    return value


def entries_of(run: Path) -> list[Entry]:
    """The trials of a file, or of `trials.jsonl` in a run's folder."""
    from openrlhf_lamer.evaluation import viewer
    from openrlhf_lamer.records import SchemaError

    file = run / "trials.jsonl" if run.is_dir() else run
    try:
        with file.open(encoding="utf-8") as lines:
            entries = viewer.read(lines)
    except (OSError, UnicodeDecodeError, SchemaError) as error:
        fail(f"{file}: {error}")
    if not entries:
        fail(f"{file}: no trials there; give a file that --lamer.trials or `openrlhf-lamer eval --out` wrote")
    return entries


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr; yields what moves it on by one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("[progress.description]{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        running = bar.add_task(what, total=total)
        yield lambda: bar.advance(running)
