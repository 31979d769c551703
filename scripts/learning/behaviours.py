"""Behaviours of a player by name: which of its choices could have shown one, and which did.

A behaviour has a value of 0 or 1 for each choice, by task, so that its share has an interval over tasks. Failed trials
are left out, and so are attempts after a win, which only some methods play. A behaviour that no choice could have shown
is left out of the result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from openrlhf_lamer.envs.doors import LAMP
from openrlhf_lamer.envs.mistakes import Move
from openrlhf_lamer.evaluation.reflections import reading
from openrlhf_lamer.evaluation.statistics import Samples
from openrlhf_lamer.records import Episode, Phase, Trial

Shown = Iterator[tuple[str, bool]]
"""Names of behaviours, each with whether a choice showed it."""

_PRIZE = re.compile(r"Prize behind (d\d+)")


def behaviours(trials: Iterable[Trial]) -> dict[str, Samples]:
    """Values of each behaviour by its name, then by task: those of every game, then those of the trials' game."""
    found: dict[str, dict[str, list[float]]] = {}
    for trial in trials:
        if trial.failure is None:
            played = replace(trial, episodes=trial.episodes[: min(trial.wins, default=None)])
            for name, shown in (*_any(played), *OWN.get(trial.task.env, _none)(played)):
                found.setdefault(name, {}).setdefault(trial.task.id, []).append(float(shown))
    return {**found}


def _any(trial: Trial) -> Shown:
    """Those of every game.

    - `valid actions`: of play turns.
    - `remark found`: of reflections.
    - `wins attempt 2`: of second attempts that follow a lost first.
    - `repeats a mistake`: of attempts after one with a known mistake, such as an empty door or a mine.
    """
    for turn in trial.turns:
        yield "valid actions" if turn.phase is Phase.PLAY else "remark found", turn.valid
    if len(trial.episodes) > 1 and not trial.episodes[0].won:
        yield "wins attempt 2", trial.episodes[1].won
    game = reading(trial.task.env)
    mistakes: list[Move] = []
    for episode in trial.episodes:
        played = game.played(episode)
        if mistakes:
            yield "repeats a mistake", any(move.same(mistake) for move in played.moves for mistake in mistakes)
        if played.mistake is not None:
            mistakes.append(played.mistake)


def _doors(trial: Trial) -> Shown:
    """Those of doors with a lamp.

    - `lamp first`: of first attempts, those that burn the lamp.
    - `opens the shown door`: of attempts after the lamp was burned, those that open the door with the prize.
    - `remark names the prize`: of reflections on attempts that burned the lamp.
    """
    if not trial.task.options.get("lamp"):
        return
    yield "lamp first", _burned(trial.episodes[0])
    game, known = reading(trial.task.env), False
    for episode in trial.episodes:
        if known:
            yield "opens the shown door", episode.won
        known = known or _burned(episode)
        if episode.reflection is not None and _burned(episode):
            prize = _PRIZE.match(episode.final_observation)
            assert prize is not None, "the lamp shows the prize"
            yield "remark names the prize", game.mentions(episode.remark or "", prize[1])


def _burned(episode: Episode) -> bool:
    return any(turn.valid and turn.did == LAMP for turn in episode.turns)


def _darkroom(trial: Trial) -> Shown:
    """Those of the dark room.

    - `goal seen first`: of first attempts, those in which the goal came in sight.
    - `enters the known goal`: of attempts after one that saw the goal and lost, those that enter it.
    """
    known = False
    for number, episode in enumerate(trial.episodes, 1):
        sees = episode.won or "Goal at" in episode.final_observation
        if number == 1:
            yield "goal seen first", sees
        if known:
            yield "enters the known goal", episode.won
        known = known or sees


def _none(trial: Trial) -> Shown:
    yield from ()


OWN: Mapping[str, Callable[[Trial], Shown]] = {"doors": _doors, "darkroom": _darkroom}
"""Behaviours that only one game has."""
