"""The file of `openrlhf-lamer credit`: trials as JSON, laid out as a turn table.

The file holds one case or a list of them. A case is a batch of trials and its discounts:

    {"gamma_step": 0.95, "gamma_traj": 0.6, "trials": [
        {"group": 0, "episodes": [{"rewards": [0, -0.5], "anchors": ["start", "s1"]}, ...]}, ...]}

Between two consecutive episodes of a trial stands a reflection, with no reward of its own. An episode may
also have

    "actions": ["up", "left"]     one a play turn, of any type: `lamer_hgpo` tells histories apart by them, and
                                  by anchors only where they are left out
    "remark": "walls are left"    the remark of its reflection, of any type: part of the memory of later episodes
    "values": [0.5, 0.2, 0.9]     the critic's value where each turn begins, the reflection's last, for `lamer_ppo`;
                                  0 for every turn of the episode where they are left out
    "valid": [true, false]        one a play turn: whether its action was accepted, so that its reward is no penalty
                                  (`cross_episode` difference); true where they are left out
    "observations": ["a room"]    one a play turn, a text: anchors by similarity compare them, and the anchors
                                  as texts where they are left out

Other keys are ignored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from openrlhf_lamer.advantage import PLAY, REFLECT, CreditConfig, TurnTable, with_returns

_Number = Annotated[float, Field(strict=True)]


class _Episode(BaseModel):
    rewards: list[_Number]
    anchors: list[Any]
    actions: list[Any] | None = None
    values: list[_Number] | None = None
    valid: list[Annotated[bool, Field(strict=True)]] | None = None
    observations: list[Annotated[str, Field(strict=True)]] | None = None
    remark: Any = None


class _Trial(BaseModel):
    group: Annotated[int, Field(strict=True)]
    episodes: list[_Episode]


class _Case(BaseModel):
    gamma_step: _Number
    gamma_traj: _Number
    trials: list[_Trial]


@dataclass(frozen=True, slots=True)
class Case:
    """One batch of trials of the file, laid out as a table with returns.

    Attributes:
        config: Discounts and options.
        table: The turns.
        num_trials: Number of trials.
        anchors: The file's name of the anchor of each code in the table.
    """

    config: CreditConfig
    table: TurnTable
    num_trials: int
    anchors: list[str]


def read_cases(file: Path, **options: Any) -> list[Case]:
    """Read the cases of a file; `options` are those of `CreditConfig` that the file doesn't give.

    Raises:
        ValueError: naming the file, the place in it, and what is wrong there.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    cases = content if isinstance(content, list) else [content]
    return [read_case(case, f"{file}: case {number}", **options) for number, case in enumerate(cases)]


def read_case(case: Any, where: str = "case", **options: Any) -> Case:
    """Lay out one case of the file; `where` names it in errors."""
    try:
        read = _Case.model_validate(case)
    except ValidationError as error:
        raise ValueError("; ".join(_said(problem, where) for problem in error.errors())) from error
    rows: list[tuple[Any, ...]] = []
    anchor_codes: dict[str, int] = {}
    action_codes: dict[str, int] = {}
    memory_codes: dict[str, int] = {}
    labels: list[str] = []

    def code(item: Any, codes: dict[str, int]) -> int:
        return codes.setdefault(json.dumps(item, sort_keys=True), len(codes))

    for i, trial in enumerate(read.trials):
        memory = code([], memory_codes)
        for n, episode in enumerate(trial.episodes):
            at = f"{where}, trial {i}, episode {n}"
            reflects = n + 1 < len(trial.episodes)
            rewards, anchors = episode.rewards, episode.anchors
            actions = [None] * len(rewards) if episode.actions is None else episode.actions
            values = [0.0] * (len(rewards) + reflects) if episode.values is None else episode.values
            valid = [True] * len(rewards) if episode.valid is None else episode.valid
            texts = [str(anchor) for anchor in anchors] if episode.observations is None else episode.observations
            for name, items, asked in (
                ("anchors", anchors, len(rewards)),
                ("actions", actions, len(rewards)),
                ("values", values, len(rewards) + reflects),
                ("entries in valid", valid, len(rewards)),
                ("observations", texts, len(rewards)),
            ):
                if len(items) != asked:
                    turns = f"{len(rewards)} rewards" + (" and a reflection" if asked > len(rewards) else "")
                    raise ValueError(f"{at}: {turns}, but {len(items)} {name}")
            for t, (reward, anchor, action) in enumerate(zip(rewards, anchors, actions, strict=True)):
                anchor_code = code(anchor, anchor_codes)
                if anchor_code == len(labels):
                    labels.append(str(anchor))
                acted = code(action, action_codes)
                own = (int(valid[t]), texts[t], values[t])
                rows.append((trial.group, i, n, t, PLAY, reward, anchor_code, acted, memory, *own))
            if reflects:
                rows.append((trial.group, i, n, len(rewards), REFLECT, 0.0, -1, -1, memory, 1, "", values[-1]))
                memory = code([memory, anchors, actions, episode.remark], memory_codes)
    try:
        config = CreditConfig(gamma_step=read.gamma_step, gamma_traj=read.gamma_traj, **options)
        columns = zip(*rows, strict=True) if rows else [()] * len(_COLUMNS)
        arrays = {name: np.array(own, dtype=_TYPES.get(name)) for name, own in zip(_COLUMNS, columns, strict=True)}
        table = with_returns(TurnTable(**arrays), config)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where}: {error}") from error
    return Case(config, table, len(read.trials), labels)


_COLUMNS = (
    *("group", "trial", "episode", "turn", "phase", "reward", "anchor", "action", "memory"),
    *("valid", "observation", "values"),
)
_TYPES: dict[str, Any] = {"observation": np.object_}


def _said(problem: Any, where: str) -> str:
    """A problem that pydantic found, with its place: `case 0, trial 0, episode 1, reward 2`."""
    named = [
        f"{key.removesuffix('s')} {after}" if isinstance(after, int) else repr(key)
        for key, after in pairwise((*problem["loc"], None))
        if isinstance(key, str)
    ]
    shown = "" if problem["type"] == "missing" else f", not {str(problem['input'])[:40]!r}"
    return f"{', '.join([where, *named])}: {problem['msg']}{shown}"
