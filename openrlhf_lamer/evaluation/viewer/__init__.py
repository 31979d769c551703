"""Trials as one HTML page that needs no server, no network and no other file; `live` serves one that grows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openrlhf_lamer.evaluation.viewer.curves import Curves
from openrlhf_lamer.evaluation.viewer.pieces import Decode, Piece, by_line, characters
from openrlhf_lamer.records import SchemaError, Trial, Turn
from openrlhf_lamer.text_chat import counts_characters

HERE = Path(__file__).parent

SCRIPTS = ("viewer.js", "cards.js", "curves.js", "state.js")
"""Code of every page; one more file says where its trials come from, and starts the page."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A trial, with the training's figures beside it.

    Attributes:
        trial: The record.
        step: The training step, if the file says.
        group: The group in the step's batch, if the file says.
        returns: One number per turn, in the order of `Trial.turns`; empty where the file has none.
        advantages: One number per turn, in the same order.
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
            found = entry(line)
        except SchemaError as error:
            if line.endswith("\n"):
                raise SchemaError(f"line {number}: {error}") from error
        else:
            yield found


def entry(line: str) -> Entry:
    """The trial of a line; raises `SchemaError` where it is none."""
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


def page(entries: Sequence[Entry], title: str, decode: Decode | None = None, about: str = "") -> str:
    """The page as UTF-8 HTML.

    Every trial is a line of JSON in an element that the browser does not run, and is parsed only when it is opened; the
    page itself has a line for each in its list. Text of a trial reaches the page as the text of an element, never as
    HTML.

    Args:
        entries: The trials.
        title: Title of the page, such as the name of the file.
        decode: Reads token ids; without it, the page has only the number of tokens in prompts. Prompts of players
            without a tokenizer are characters, which need no decoding.
        about: Description of the run in a line, such as its panel.
    """
    curves = Curves()
    for each in entries:
        curves.add(each.trial, each.step)
    return _rendered(
        title,
        about,
        index=[summary(each) for each in entries],
        trials="\n".join(embedded(details(each, decode)) for each in entries),
        points=[asdict(point) for point in curves.points()],
    )


def live_page(title: str, about: str) -> str:
    """The page without trials: it asks the server that it comes from for them, again and again."""
    return _rendered(title, about, index=[], trials="", points=[], live=True)


def _rendered(title: str, about: str, *, index: Any, trials: str, points: Any, live: bool = False) -> str:
    import jinja2

    folder = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(loader=folder, autoescape=True, undefined=jinja2.StrictUndefined)
    scripts = (*SCRIPTS, "live.js" if live else "still.js")
    return environment.get_template("page.html.j2").render(
        title=title,
        about=about,
        live=live,
        style=(HERE / "viewer.css").read_text("utf-8"),
        code="".join((HERE / name).read_text("utf-8") for name in scripts),
        index=embedded(index),
        trials=trials,
        points=embedded(points),
    )


def embedded(value: Any) -> str:
    """JSON of a value, without line breaks, that is safe to embed in a page."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"))
    # Half of a surrogate pair, which no page can hold, has an escape in JSON, as in files of trials. Without any "<",
    # no text can end the element it stands in, nor open a comment there.
    return text.encode("utf-8", "backslashreplace").decode().replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    """The value with NaN and infinities, which a browser's JSON lacks, as strings."""
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _reward(trial: Trial) -> float:
    """Sum of the rewards of all turns, reflections among them."""
    return sum(turn.reward for turn in trial.turns)


def summary(entry: Entry) -> dict[str, Any]:
    """A trial's values for the columns, filters and sorting of the list."""
    trial = entry.trial
    return {
        "task": trial.task.id,
        "env": trial.task.env,
        "step": entry.step,
        "group": entry.group,
        "sample": trial.sample,
        "wins": list(trial.wins),
        "failure": None if trial.failure is None else trial.failure.kind,
        "stops": [episode.stop for episode in trial.episodes],
        "turns": len(trial.turns),
        "tokens": sum(len(turn.sampled_ids) for turn in trial.turns),
        "unit": "character" if counts_characters(trial) else "token",
        "reward": _reward(trial),
        "return": entry.returns[0] if entry.returns else None,
    }


def details(entry: Entry, decode: Decode | None) -> dict[str, Any]:
    """Content of an opened trial.

    Texts of prompts are lists of indices into `pieces`, which holds each distinct line once: a string, or for a control
    token or a role a list of its text and kind.
    """
    trial = entry.trial
    place = {id(turn): number for number, turn in enumerate(trial.turns)}
    read = characters if counts_characters(trial) else decode
    pieces: dict[Piece, int] = {}

    def places(ids: Sequence[int]) -> list[int] | None:
        return None if read is None else [pieces.setdefault(each, len(pieces)) for each in by_line(read(ids))]

    def sampled(turn: Turn) -> list[Any]:
        # One token at a time: its text, which its neighbours may complete, or without a tokenizer its id.
        return [
            [token if read is None else "".join(each.text for each in read([token])), float(f"{logprob:.4g}")]
            for token, logprob in zip(turn.sampled_ids, turn.logprobs or (), strict=turn.logprobs is not None)
        ]

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
            "prompt": places(turn.prompt_ids),
            "prompt_tokens": len(turn.prompt_ids),
            "reply": places(turn.sampled_ids),
            "tokens": len(turn.sampled_ids),
            "thoughts": turn.thought_tokens,
            "sampled": sampled(turn),
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
        "pieces": [each.text if each.kind == "text" else [each.text, each.kind] for each in pieces],
    }
