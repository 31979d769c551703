"""What several commands read from their arguments in the same way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from openrlhf_lamer.cli.errors import fail


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


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr; yields what moves it on by one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("[progress.description]{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        running = bar.add_task(what, total=total)
        yield lambda: bar.advance(running)
