"""Record of a trial, as plain frozen data.

A `Trial` is all that returns, advantages, metrics and the viewer need; nothing
else is kept. Every record survives a JSON round trip (`Trial.to_json`), and the
JSON carries a schema version so that old files are refused and not misread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

from openrlhf_lamer import LamerError
from openrlhf_lamer.packed import Logprobs, Tokens

SCHEMA = 1

T = TypeVar("T", "Task", "Trial")


class SchemaError(LamerError, ValueError):
    """A record that this version cannot read: another schema, or not a record at all."""


class Phase(StrEnum):
    """Why the model was asked to generate."""

    PLAY = "play"
    """The model acts in the environment."""
    REFLECT = "reflect"
    """The model looks back at an episode, as a rule a lost one; it is credited with the next episode's return."""


class Stop(StrEnum):
    """Why an episode ended."""

    WON = "won"
    """The environment reported success."""
    LOST = "lost"
    """The environment ended the episode without success (a mine, an unsolvable board)."""
    CAPPED = "capped"
    """The environment's own step limit was reached."""
    MAX_TURNS = "max_turns"
    """The agent used all turns that an episode has."""
    OVERLONG = "overlong"
    """The next prompt would not have fitted into the model's context."""
    BUDGET = "budget"
    """The trial used all its turns (`LamerConfig.turn_budget`) in the middle of this episode, its last."""


class FailureKind(StrEnum):
    """Cause of a trial's failure. A failed trial is masked and counted, never scored 0.

    A model's mistakes are no failures: a reply without one action, a refused action or a reflection without a
    remark costs a penalty, and a later prompt that does not fit ends its episode (`Stop.OVERLONG`).
    """

    ENVIRONMENT = "environment"
    """The environment raised."""
    ENVIRONMENT_TIMEOUT = "environment_timeout"
    """The environment did not answer in time."""
    ENGINE = "engine"
    """Generation raised."""
    ENGINE_TIMEOUT = "engine_timeout"
    """Generation did not finish in time."""
    PROMPT = "prompt"
    """A prompt could not be rendered."""
    PROMPT_TIMEOUT = "prompt_timeout"
    """A prompt was not rendered in time."""
    OVERLONG = "overlong"
    """Not even the first prompt leaves room for a reply."""


@dataclass(frozen=True, slots=True)
class Task:
    """An environment, and the seed or explicit spec that fixes its initial state.

    Attributes:
        env: Name of a registered environment.
        seed: Seed of a generated initial state. Exactly one of `seed` and `spec` is given.
        spec: An explicit initial state in the environment's own form (a board, a game file).
        options: Options of the environment (size, mines, ...) that belong to this task.
        split: Which seed range or data split the task comes from, for the record.
    """

    env: str
    seed: int | None = None
    spec: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    split: str = ""

    def __post_init__(self) -> None:
        if (self.seed is None) == (self.spec is None):
            raise ValueError(f"a task of {self.env!r} needs exactly one of seed and spec")

    @property
    def id(self) -> str:
        """A short name, stable across machines: environment, options and seed or spec."""
        what = f"seed={self.seed}" if self.spec is None else json.dumps(dict(self.spec), sort_keys=True)
        options = "".join(f",{key}={self.options[key]}" for key in sorted(self.options))
        return f"{self.env}:{what}{options}"

    def to_json(self) -> str:
        """This task as one line of JSON with a schema version."""
        return _dump(self)

    @classmethod
    def from_json(cls, text: str) -> Task:
        """Read a task; raises `SchemaError` where `text` is not one."""
        return _load(cls, text)[0]


@dataclass(frozen=True, slots=True)
class Turn:
    """One generation of the model and the environment's answer to it.

    Token ids and log-probabilities are stored packed; any sequence may be given.

    Attributes:
        phase: Play or reflection.
        episode: Index of the episode (a reflection belongs to the episode it looks back at).
        index: Index of the turn within its episode; a reflection follows the last play turn.
        prompt_ids: Token ids the engine was given, all of them.
        sampled_ids: Token ids the engine sampled, as sampled.
        logprobs: Log-probabilities of the sampled ids under the rollout policy, or None.
        text: The decoded reply.
        action: Content of the action tag (of the remark tag in a reflection); None if none was found.
        valid: Whether the environment accepted the action (whether a remark was found).
        reward: Reward of this turn, penalties included.
        anchor: Key of the environment state before the turn; equal keys mean equal states.
        observation: The state as text before the turn; a reflection shows the final one.
        truncated: Whether the reply hit its token limit.
        played: The action in the environment's own normal form (`Step.action`); None where it gives none.
        thought_tokens: How many of the sampled ids are thoughts, with their marks; None where thinking is off.
        unclosed: Whether a thought never ended, so that no action (no remark) could be read.
    """

    phase: Phase
    episode: int
    index: int
    prompt_ids: Sequence[int]
    sampled_ids: Sequence[int]
    logprobs: Sequence[float] | None
    text: str
    action: str | None
    valid: bool
    reward: float
    anchor: str
    observation: str
    truncated: bool = False
    played: str | None = None
    thought_tokens: int | None = None
    unclosed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt_ids", Tokens(self.prompt_ids))
        object.__setattr__(self, "sampled_ids", Tokens(self.sampled_ids))
        if self.logprobs is not None:
            object.__setattr__(self, "logprobs", Logprobs(self.logprobs))

    @property
    def did(self) -> str | None:
        """The action that was carried out, as the environment names it, else as it was typed.

        Equal actions have equal effects in a state. Prompts list turns by it.
        """
        return self.action if self.played is None else self.played

    @property
    def ids(self) -> Tokens:
        """Token ids of the prompt and of the reply."""
        return Tokens(self.prompt_ids) + self.sampled_ids


@dataclass(frozen=True, slots=True)
class Episode:
    """One attempt: its play turns in order, how it ended, and the reflection on it."""

    turns: tuple[Turn, ...]
    stop: Stop
    final_observation: str
    reflection: Turn | None = None

    @property
    def won(self) -> bool:
        """Whether the environment reported success."""
        return self.stop is Stop.WON

    @property
    def reward(self) -> float:
        """Undiscounted sum of the play turns' rewards."""
        return sum(turn.reward for turn in self.turns)

    @property
    def remark(self) -> str | None:
        """The reflection's remark to the next episode, if one was found."""
        return self.reflection.action if self.reflection else None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a trial has no result: the kind, the stage it broke in, and the message."""

    kind: FailureKind
    stage: str
    message: str


@dataclass(frozen=True, slots=True)
class Trial:
    """Up to N episodes of one task, in order. With `failure` set, the trial is masked.

    Attributes:
        task: The task that was played.
        episodes: The attempts. The first win is the last of them, unless trials go on after a success
            (`LamerConfig.stop_on_success`): then any number of them may be won.
        failure: Why the trial is not to be used, or None.
        sample: Index of this trial among the task's trials, from 0.
        seed: Seed that the replies were sampled with, if any; see `policies.base.Request`.
        retries: How often the trial was restarted after a failure.
        environment_seconds: Wall-clock time spent waiting for the environment.
        generation_seconds: Wall-clock time spent waiting for the engine.
    """

    task: Task
    episodes: tuple[Episode, ...]
    failure: Failure | None = None
    sample: int = 0
    seed: int | None = None
    retries: int = 0
    environment_seconds: float = 0.0
    generation_seconds: float = 0.0

    @property
    def won(self) -> bool:
        """Whether any episode was won."""
        return self.won_by(len(self.episodes))

    @property
    def wins(self) -> tuple[int, ...]:
        """Numbers of the episodes that were won, from 1."""
        return tuple(number for number, episode in enumerate(self.episodes, 1) if episode.won)

    def won_by(self, attempts: int) -> bool:
        """Success at `attempts`: won in one of the first `attempts` episodes."""
        return any(episode.won for episode in self.episodes[:attempts])

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Every generation in the order it happened, reflections in their place."""
        ordered: list[Turn] = []
        for episode in self.episodes:
            ordered.extend(episode.turns)
            if episode.reflection is not None:
                ordered.append(episode.reflection)
        return tuple(ordered)

    def scalar_return(self, gamma_traj: float) -> float:
        """Σ_n γ_traj^n · (undiscounted reward of episode n): the reward that stock estimators get."""
        return sum(gamma_traj**n * episode.reward for n, episode in enumerate(self.episodes))

    def to_json(self) -> str:
        """This trial as one line of JSON with a schema version."""
        return _dump(self)

    @classmethod
    def from_json(cls, text: str) -> Trial:
        """Read a trial; raises `SchemaError` where `text` is not one."""
        return _load(cls, text)[0]

    @classmethod
    def from_line(cls, text: str) -> tuple[Trial, dict[str, Any]]:
        """Read a trial and the line's other fields; raises `SchemaError` where `text` is not a trial."""
        return _load(cls, text)


@cache
def _adapter(cls: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _dump(record: Task | Trial) -> str:
    body = _adapter(type(record)).dump_python(record)
    text = json.dumps({"schema": SCHEMA, **body}, ensure_ascii=False, separators=(",", ":"), default=list)
    # A game's text may hold half of a surrogate pair, which no file can hold; JSON has an escape for it.
    return text.encode("utf-8", "backslashreplace").decode()


def _load(cls: type[T], text: str) -> tuple[T, dict[str, Any]]:
    """A record, and the other fields of its line."""
    kind = cls.__name__.lower()
    try:
        body = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits, too
        raise SchemaError(f"not a {kind}: {str(text)[:80]!r} is not JSON") from error
    if not isinstance(body, dict) or "schema" not in body:
        raise SchemaError(f"not a {kind}: no schema version in {str(text)[:80]!r}")
    version = body.pop("schema")
    if version != SCHEMA:
        raise SchemaError(f"a {kind} of schema {version}; this version of openrlhf-lamer reads schema {SCHEMA}")
    own = {key: body.pop(key) for key in cls.__dataclass_fields__ if key in body}
    try:
        return _adapter(cls).validate_python(own), body
    except ValueError as error:
        raise SchemaError(f"not a {kind}: {error}") from error
