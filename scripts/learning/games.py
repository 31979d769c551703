"""Games of the experiments: how each is played, imitated and trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from openrlhf_lamer import envs
from openrlhf_lamer.agents import Agent, load_agent
from openrlhf_lamer.vocabulary import ContextPolicy, Memory

SCRATCH = ("--layers", "3", "--hidden", "128", "--learning-rate", "1e-3", "--prompt-weight", "0.1")
"""Flags of a warm start that builds a tiny model. A given model has its size, and the command's own learning rate."""


@dataclass(frozen=True)
class Game:
    """A game with the settings that all of an experiment's trainings share.

    Attributes:
        name: Name of its folder.
        env: The environment.
        options: Options of the environment.
        panel: Frozen panel of the evaluations; None for the first `panel_size` tasks of the split `eval`.
        panel_size: Tasks of an evaluation.
        attempts: Episodes of a trial in evaluations, and in training unless an arm has single attempts (N).
        memory: Memory between episodes.
        context: Where a new chat begins.
        max_turns: Turns of an episode; None for the agent's.
        demonstrations: Trials that the warm start imitates.
        passes: Passes over them.
        imitation: Further flags of the warm start.
        max_new_tokens: Maximum tokens of a reply.
        max_length: Maximum tokens of a prompt and its reply.
        steps: Training steps.
        tasks: Tasks per step.
        group: Trials per task; single attempts are `attempts` times as many.
        learning_rate: Learning rate of the training.
        every: Steps between evaluations.
        flags: Further flags of the training.
    """

    name: str
    env: str
    options: Mapping[str, Any]
    attempts: int
    memory: Memory
    panel: str | None = None
    panel_size: int = 256
    context: ContextPolicy = "turn"
    max_turns: int | None = None
    demonstrations: int = 6000
    passes: int = 3
    imitation: tuple[str, ...] = ()
    max_new_tokens: int = 32
    max_length: int = 1024
    steps: int = 60
    tasks: int = 16
    group: int = 8
    learning_rate: float = 2e-4
    every: int = 10
    flags: tuple[str, ...] = ()

    @property
    def agent_func(self) -> str:
        """Module of its agent."""
        return f"openrlhf_lamer.agents.{self.env}"

    @property
    def agent(self) -> Agent:
        """Its agent as in evaluations."""
        return load_agent(self.agent_func)[0].evaluated()

    @property
    def references(self) -> Mapping[str, Sequence[float]]:
        """Success of known players within 1 to `attempts` attempts, by name; see `TextEnv.references`."""
        env = envs.make(self.env, **self.options)
        try:
            return env.references(self.attempts, self.max_turns or self.agent.max_turns)
        finally:
            env.close()


_LAMP = {"doors": 8, "lamp": True}
_BURNS = ("--player-options", '{"searches": [["lamp"]]}')
_SIDES = (("up", "down"), ("down", "up")), (("left", "right"), ("right", "left"))
_AROUND = [
    [first, aside, back, back]
    for sides, others in (_SIDES, _SIDES[::-1])
    for first, back in sides
    for aside, _ in others
]
"""The walks of 4 steps that bring most of a room of 5x5 cells in sight: 10 of its 16 hiding places."""

_DARKROOM = Game(
    "darkroom",
    "darkroom",
    {"size": 5},
    attempts=3,
    memory="history",
    panel="darkroom/5",
    context="episode",
    imitation=("--batch-tokens", "2048"),  # twice the optimizer steps of a pass, in about the same time
    max_new_tokens=8,
    steps=50,
    learning_rate=4e-4,  # at 5e-4, with replies of up to 32 tokens, one of seven trainings broke at step 5
)

GAMES = {
    each.name: each
    for each in (
        Game("doors-lamp", "doors", _LAMP, attempts=3, memory="history", panel="doors/8-lamp", imitation=_BURNS),
        Game(
            "doors",
            "doors",
            {"doors": 4},
            attempts=4,
            memory="history",
            panel="doors/4",
            max_new_tokens=8,  # a valid reply has 4; each token of a malformed one is trained
            steps=80,
            learning_rate=4e-4,  # at 2e-4 the last attempt, with one door left, is still lost in one case of four
        ),
        Game("doors-remarks", "doors", _LAMP, attempts=3, memory="reflection", panel="doors/8-lamp", imitation=_BURNS),
        _DARKROOM,
        # At random, a first attempt rarely sees the goal without reaching it, so there is little to remember. Here the
        # player walks around the room in half of its attempts. It uses what it found in a third of them: to do so
        # every time is left to training.
        replace(
            _DARKROOM,
            name="darkroom-search",
            imitation=(
                *_DARKROOM.imitation,
                *("--player-options", json.dumps({"searches": _AROUND, "share": 0.5, "recall": 0.33})),
            ),
            steps=80,
            learning_rate=2e-4,
        ),
        Game(
            "minesweeper",
            "minesweeper",
            {"size": 3, "mines": 2},
            attempts=3,
            memory="both",
            panel_size=114,  # all held-out boards
            context="episode",
            max_turns=6,
            demonstrations=2000,
            imitation=("--batch-tokens", "2048"),
            max_new_tokens=40,
            max_length=2048,
            steps=40,
            tasks=8,
            learning_rate=3e-4,
            flags=("--lamer.reward", "shaped"),
        ),
    )
}
"""Games by name."""


def pretrained(game: Game) -> Game:
    """A game as a pretrained model trains on it: few demonstrations and small steps are enough.

    A step has a quarter of the tasks, and an evaluation 64, so that a model of 135 million parameters trains on two
    cores in an hour or two.
    """
    return replace(
        game,
        panel=None,
        panel_size=64,
        demonstrations=300,
        passes=2,
        steps=40,
        tasks=4,
        learning_rate=2e-5,
    )
