"""Arguments and results that several commands read and print in the same way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from openrlhf_lamer.cli.errors import fail

if TYPE_CHECKING:
    from openrlhf_lamer.agents import Agent
    from openrlhf_lamer.config import LamerConfig
    from openrlhf_lamer.evaluation.tables import Table
    from openrlhf_lamer.evaluation.viewer import Entry
    from openrlhf_lamer.records import Task

TRIALS = "trials.jsonl"
"""File of a run's trials in its folder."""

TAKES_TRIALS = (
    "This command takes trials: a file that --lamer.trials, --lamer.eval_trials or `openrlhf-lamer eval` wrote (a JSON "
    "line a trial), or a folder of `eval --out`"
)

MOST_TURNS = 1000
"""Turns after which an attempt is abandoned, where no agent sets a limit."""


def environment(named: str) -> str:
    """The name of an environment, from the name or from the .py file of an agent that brings it."""
    if not named.endswith(".py"):
        return named
    from openrlhf_lamer.agents import load_agent

    return load_agent(named)[0].env


def agent_of(named: str) -> Agent:
    """The agent in a .py file, or the bundled one of an environment.

    If there is none, as for another package's environment, an agent whose rules are the docstring of the environment's
    class.
    """
    import inspect
    from importlib.util import find_spec

    from openrlhf_lamer import envs
    from openrlhf_lamer.agents import Agent, load_agent

    if named.endswith(".py"):
        return load_agent(named)[0]
    bundled = f"openrlhf_lamer.agents.{named}"
    if named in envs.names(plugins=False) and find_spec(bundled):
        return load_agent(bundled)[0]
    described = inspect.getdoc(envs.lookup(named)) or ""
    return Agent(named, max_turns=MOST_TURNS, rules=f"{{% raw %}}{described}{{% endraw %}}\n")


def json_object(flag: str, text: str) -> dict[str, Any]:
    """The value of a flag that takes a JSON object."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        fail(f"{flag} {text!r} is not a JSON object: {error}")
    if not isinstance(value, dict):
        fail(f"{flag} {text!r} is not a JSON object, such as '{{\"mines\": 4}}'")
    return value


def no_file(flag: str, folder: Path) -> None:
    """Fail if a flag that takes a folder for results was given a file."""
    if folder.is_file():
        fail(f"{flag} {folder} is a file; give a folder")


def trials_file(run: Path) -> Path:
    """A file of trials: the path, or `trials.jsonl` in a run's folder."""
    return run / TRIALS if run.is_dir() else run


def entries_of(run: Path) -> list[Entry]:
    """The trials of a file, or of `trials.jsonl` in a run's folder."""
    from openrlhf_lamer.evaluation import viewer
    from openrlhf_lamer.records import SchemaError

    file = trials_file(run)
    entries: list[Entry] = []
    try:
        with file.open(encoding="utf-8") as lines:
            entries = viewer.read(lines)
        wrong = f"{file}: no trials there"
    except OSError as error:
        wrong = f"{file}: {error.strerror or error}"
    except UnicodeDecodeError:
        wrong = f"{file}: not a text"
    except SchemaError as error:
        wrong = f"{file}: {error}"
    if not entries:
        fail(f"{wrong}. {TAKES_TRIALS}{_meant(run)}")
    return entries


def _meant(run: Path) -> str:
    """Sentence with the runs at or below a path that has no trials itself; empty where there are none."""
    if not run.exists():
        return ""
    folder = run if run.is_dir() else run.parent
    near = [*folder.glob(TRIALS), *sorted(folder.glob(f"*/{TRIALS}")), *sorted(folder.glob(f"*/*/{TRIALS}"))]
    found = [str(file.parent) for file in near if file != run]
    return f". Did you mean {', '.join(found[:3])}{', ...' if len(found) > 3 else ''}?" if found else ""


def one_form(as_json: bool, as_csv: bool) -> None:
    """Refuse both forms of a result at once."""
    if as_json and as_csv:
        fail("give either --json or --csv")


def show(table: Table, as_dict: Any, as_rows: Table | None = None, *, as_json: bool, as_csv: bool) -> None:
    """Print a result as JSON, as CSV (`as_rows`, by default the table), or as a table of the terminal's width."""
    from rich.console import Console

    if as_json:
        typer.echo(json.dumps(as_dict))
    elif as_csv:
        typer.echo((as_rows or table).to_csv(), nl=False)
    else:
        console = Console()
        console.print(table.to_rich(console.width))


def longest(
    agents: Mapping[str, Agent],
    config: LamerConfig,
    panel: list[Task],
    max_new_tokens: int,
    given: int | None,
    *models: str | Path | None,
) -> int:
    """Most tokens of a prompt and its reply: `given`, or by default what the trials of these agents need.

    Agents are keyed by environment. Warns on stderr about a length that is too short. `models` are folders that state
    the models' limits; None where nothing counts tokens.
    """
    from openrlhf_lamer import room
    from openrlhf_lamer.doctor.model import context_length

    folders = [Path(model) for model in models if model]
    if not folders:
        return given or room.LEAST
    limits = [length for length in map(context_length, folders) if length]
    limit = min(limits, default=None)
    lengths = []
    for env, agent in agents.items():
        options = {json.dumps(task.options, sort_keys=True): task.options for task in panel if task.env == env}
        length, warning = room.settle(
            agent, config, max_new_tokens, options.values(), flag="--max-length", given=given, model=limit
        )
        lengths.append(length)
        if warning:
            typer.echo(f"openrlhf-lamer: warning: {f'{env}: ' if len(agents) > 1 else ''}{warning}", err=True)
    return max(lengths)
