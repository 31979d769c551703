"""Trials as one HTML page that needs no server, no network and no other file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf_lamer.records import SchemaError, Trial, Turn

HERE = Path(__file__).parent

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class Entry:
    """A trial, with the training's figures beside it.

    Attributes:
        trial: The record.
        step: The training step, if the file says.
        group: The group in the step's batch, if the file says.
        returns: One number a turn, in the order of `Trial.turns`; empty where the file has none.
        advantages: One number a turn, in the same order.
    """

    trial: Trial
    step: int | None = None
    group: int | None = None
    returns: tuple[float, ...] = ()
    advantages: tuple[float, ...] = ()


def read(lines: Iterable[str]) -> list[Entry]:
    """The trials of a file as a list, with the errors of `each`."""
    return list(each(lines))


def each(lines: Iterable[str]) -> Iterator[Entry]:
    """The trials of a file, one a line; empty lines are left out.

    Raises:
        SchemaError: naming the line that is no trial. A file that is still being written may end in half a line,
            which is left out.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = _entry(line)
        except SchemaError as error:
            if line.endswith("\n"):
                raise SchemaError(f"line {number}: {error}") from error
        else:
            yield entry


def _entry(line: str) -> Entry:
    trial, beside = Trial.from_line(line)
    step, group = (beside.get(key) for key in ("step", "group"))
    return Entry(
        trial,
        step if isinstance(step, int) else None,
        group if isinstance(group, int) else None,
        _per_turn(beside, "returns", trial),
        _per_turn(beside, "advantages", trial),
    )


def _per_turn(beside: dict[str, Any], key: str, trial: Trial) -> tuple[float, ...]:
    numbers = beside.get(key) or []
    if not isinstance(numbers, list) or not all(isinstance(number, int | float) for number in numbers):
        raise SchemaError(f"{key!r} is not a list of numbers")
    if numbers and len(numbers) != len(trial.turns):
        raise SchemaError(f"{len(numbers)} {key} for a trial of {len(trial.turns)} turns")
    return tuple(numbers)


def page(entries: Sequence[Entry], title: str, decode: Decode | None = None) -> str:
    """The page as UTF-8 HTML.

    Every trial is a line of JSON in an element that the browser does not run, and is parsed only when it is opened; the
    page itself has a line for each in its list. Text of a trial reaches the page as the text of an element, never as
    HTML.

    Args:
        entries: The trials.
        title: What the page is called, such as the name of the file.
        decode: Turns prompt ids into text; without it, the page has only the number of their tokens.
    """
    import jinja2

    folder = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(loader=folder, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("page.html.j2").render(
        title=title,
        style=(HERE / "viewer.css").read_text("utf-8"),
        code=(HERE / "viewer.js").read_text("utf-8"),
        index=_embed([_summary(entry) for entry in entries]),
        trials="\n".join(_embed(_details(entry, decode)) for entry in entries),
    )


def _embed(value: Any) -> str:
    # Without any "<", no text can end the element it stands in, nor open a comment there.
    return json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    """The value with NaN and infinities, which a browser's JSON lacks, as strings."""
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _summary(entry: Entry) -> dict[str, Any]:
    """Columns and filters of the list."""
    trial = entry.trial
    return {
        "task": trial.task.id,
        "env": trial.task.env,
        "step": entry.step,
        "group": entry.group,
        "wins": list(trial.wins),
        "failure": None if trial.failure is None else trial.failure.kind,
        "stops": [episode.stop for episode in trial.episodes],
        "turns": len(trial.turns),
        "tokens": sum(len(turn.sampled_ids) for turn in trial.turns),
    }


def _details(entry: Entry, decode: Decode | None) -> dict[str, Any]:
    """Content of an opened trial."""
    trial = entry.trial
    place = {id(turn): number for number, turn in enumerate(trial.turns)}

    def shown(turn: Turn) -> dict[str, Any]:
        number = place[id(turn)]
        return {
            "text": turn.text,
            "action": turn.did,
            "valid": turn.valid,
            "truncated": turn.truncated,
            "reward": turn.reward,
            "return": entry.returns[number] if entry.returns else None,
            "advantage": entry.advantages[number] if entry.advantages else None,
            "observation": turn.observation,
            "prompt": None if decode is None else decode(turn.prompt_ids),
            "prompt_tokens": len(turn.prompt_ids),
            "tokens": len(turn.sampled_ids),
        }

    failure = trial.failure
    return {
        "split": trial.task.split,
        "retries": trial.retries,
        "environment_seconds": trial.environment_seconds,
        "generation_seconds": trial.generation_seconds,
        "failure": None if failure is None else [failure.kind, failure.stage, failure.message],
        "episodes": [
            {
                "turns": [shown(turn) for turn in episode.turns],
                "stop": episode.stop,
                "final": episode.final_observation,
                "reward": episode.reward,
                "reflection": None if episode.reflection is None else shown(episode.reflection),
            }
            for episode in trial.episodes
        ],
    }
