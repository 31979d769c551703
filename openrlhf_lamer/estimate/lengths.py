"""Lengths of trials: from recorded ones, or typical ones of a game, in which every attempt is lost.

Typical lengths were measured on random play (`scripts/trial_lengths.py` makes `lengths.json`), attempt by attempt, so
that they are known for each number of attempts. Parts that depend on the length of replies are kept separate.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.estimate import EstimateError
from openrlhf_lamer.records import Trial
from openrlhf_lamer.rows import trial_rows
from openrlhf_lamer.text_chat import counts_characters
from openrlhf_lamer.update.forest import distinct_tokens

FILE = Path(__file__).with_name("lengths.json")

REPLY = 200
"""Tokens of each reply when typical lengths were measured; a remark in a prompt is as long."""


@dataclass(frozen=True)
class Lengths:
    """Means over trials.

    Attributes:
        turns: Replies, reflections included.
        sampled: Tokens of the replies.
        prompts: Tokens of the prompts.
        rows: Rows that are trained.
        trained: Sampled tokens in these rows.
        in_rows: All tokens in these rows.
        distinct: Distinct tokens of a trial's rows, which are its forest's nodes.
        longest: Tokens of the longest row.
    """

    turns: float
    sampled: float
    prompts: float
    rows: float
    trained: float
    in_rows: float
    distinct: float
    longest: float


class Stage(NamedTuple):
    """The turns of an attempt, or the reflection on it. Counts of tokens leave out sampled ones.

    Attributes:
        turns: Replies.
        rows: Rows that begin here.
        prompts: Tokens of the prompts.
        replies: Earlier replies in the prompts.
        in_rows: Tokens that are added to rows.
        distinct: Those of `in_rows` that no earlier row of the trial has.
        longest: Tokens of the longest prompt.
        longest_replies: Earlier replies in the longest prompt.
    """

    turns: float
    rows: float
    prompts: float
    replies: float
    in_rows: float
    distinct: float
    longest: float
    longest_replies: float


def stages(trial: Trial) -> dict[str, list[Stage]]:
    """Tokens that each attempt of a trial (`play`) and each reflection (`reflect`) adds."""
    found: dict[str, list[Stage]] = {"play": [], "reflect": []}
    row: tuple[int, ...] = ()  # the row so far, and the replies and sampled tokens in it
    replies = inside = before = 0
    sequences: list[np.ndarray] = []
    for phase, turns in _by_stage(trial):
        added = np.zeros(len(Stage._fields))
        for turn in turns:
            prompt, ids = tuple(turn.prompt_ids), tuple(turn.ids)
            extends = bool(row) and prompt[: len(row)] == row
            if not extends:
                replies = inside = 0
            text = len(prompt) - inside
            new = len(prompt) - (len(row) if extends else 0)
            added[:5] += (1, not extends, text, replies, new)
            if text > added[6]:
                added[6:] = text, replies
            row, replies, inside = ids, replies + 1, inside + len(turn.sampled_ids)
            sequences.append(np.asarray(ids))
        sampled = sum(len(ids) for ids in sequences) - _texts(trial, len(sequences))
        distinct = distinct_tokens(sequences) - sampled
        added[5], before = distinct - before, distinct
        found[phase].append(Stage(*added.tolist()))
    return found


def _by_stage(trial: Trial) -> Iterable[tuple[str, Sequence[Any]]]:
    for episode in trial.episodes:
        if episode.turns:
            yield "play", episode.turns
        if episode.reflection is not None:
            yield "reflect", (episode.reflection,)


def _texts(trial: Trial, turns: int) -> int:
    """Tokens of the first prompts of a trial."""
    return sum(len(turn.prompt_ids) for turn in trial.turns[:turns])


def recorded(trials: Iterable[Trial], *, train_reflection: bool = True) -> Lengths:
    """Means over recorded trials that did not fail.

    Args:
        trials: The trials, with tokens of a model.
        train_reflection: Whether reflections are trained.

    Raises:
        EstimateError: There are none, or they have characters in place of tokens.
    """
    found = []
    for trial in trials:
        if trial.failure is not None:
            continue
        if counts_characters(trial):
            raise EstimateError("--trials: these hold characters and not tokens; give trials that a model played")
        rows = trial_rows(trial, train_reflection=train_reflection)
        ids = [np.asarray(row.ids) for row in rows]
        found.append(
            Lengths(
                turns=len(trial.turns),
                sampled=sum(len(turn.sampled_ids) for turn in trial.turns),
                prompts=sum(len(turn.prompt_ids) for turn in trial.turns),
                rows=len(rows),
                trained=sum(row.sampled for row in rows),
                in_rows=sum(map(len, ids)),
                distinct=distinct_tokens(ids),
                longest=max(map(len, ids), default=0),
            )
        )
    if not found:
        raise EstimateError("--trials: no trial there without a failure; give the file that --lamer.trials wrote")
    return mean(found)


def mean(each: Sequence[Lengths]) -> Lengths:
    """Means of several lengths; the longest row is the longest of all."""
    means = {field.name: fmean(getattr(own, field.name) for own in each) for field in fields(Lengths)}
    return Lengths(**{**means, "longest": max(own.longest for own in each)})


def typical(env: str, config: LamerConfig, turns: int, reply: float = REPLY) -> Lengths:
    """Lengths of a trial of a bundled game in which every attempt uses its turns as random play does, and is lost.

    Args:
        env: The game.
        config: Attempts, context, memory, budget of turns, and whether reflections are trained.
        turns: Most turns of an attempt.
        reply: Tokens of a reply.

    Raises:
        EstimateError: No lengths are known of the game.
    """
    known = _table()
    if env not in known:
        raise EstimateError(
            f"no typical lengths of {env} are known, only of {', '.join(known)}; record some trials "
            "(`--lamer.trials`, or `openrlhf-lamer eval --out`) and give them with --trials"
        )
    own = known[env][f"{config.context} {config.memory}"]
    played = _played(own["play"], config, turns / known[env]["turns"])
    reflected = [_stage(own["reflect"], n) for n in range(len(played) - 1)] if config.reflects else []
    trained = [*played, *(reflected if config.train_reflection else [])]
    every = [*played, *reflected]
    replies, learnt = sum(stage.turns for stage in every), sum(stage.turns for stage in trained)
    sampled = reply * learnt
    return Lengths(
        turns=replies,
        sampled=reply * replies,
        prompts=sum(stage.prompts + reply * stage.replies for stage in every),
        rows=max(1.0, sum(stage.rows for stage in trained)),
        trained=sampled,
        in_rows=sum(stage.in_rows for stage in trained) + sampled,
        distinct=sum(stage.distinct for stage in trained) + sampled,
        longest=max(stage.longest + reply * (stage.longest_replies + 1) for stage in every),
    )


def _played(measured: Sequence[Sequence[float]], config: LamerConfig, scale: float) -> list[Stage]:
    """Attempts of a trial; a budget of turns cuts the last one short."""
    left = math.inf if config.turn_budget is None else float(config.turn_budget)
    found: list[Stage] = []
    while len(found) < config.num_episodes and left > 0:
        whole = Stage(*(scale * value for value in _stage(measured, len(found))))
        share = min(1.0, left / whole.turns)
        found.append(Stage(*(share * value for value in whole)))
        left -= whole.turns
    return found


def _stage(measured: Sequence[Sequence[float]], number: int) -> Stage:
    """A measured stage; beyond the last, one extrapolated per turn from the last two, with the turns of the last."""
    last = len(measured) - 1
    if number <= last:
        return Stage(*measured[number])
    turns = measured[last][0]
    pairs = zip(_by_turn(measured[last]), _by_turn(measured[last - 1]), strict=True)
    grown = [max(0.0, a + (number - last) * (a - b)) for a, b in pairs]
    return Stage(turns, *(turns * value for value in grown[:-2]), *grown[-2:])


def _by_turn(stage: Sequence[float]) -> list[float]:
    """A stage's sums divided by its turns, and its longest prompt as it is."""
    turns, *sums = stage
    return [*(value / turns for value in sums[:-2]), *sums[-2:]]


@cache
def _table() -> Mapping[str, Any]:
    return json.loads(FILE.read_text("utf-8"))
