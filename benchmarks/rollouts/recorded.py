"""Trials whose course is known beforehand: the tokens of each reply, and which attempts succeed.

A record is drawn once, from the numbers of task, attempt and turn only. Trial loop, session, prompts, tokenizer and
executor are the real ones; the engine generates as many tokens as recorded, and returns the recorded text.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import product
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from common import answer

from openrlhf_lamer import envs
from openrlhf_lamer.agents import Agent
from openrlhf_lamer.config import ENV_VAR, MAX_NEW_TOKENS, LamerConfig
from openrlhf_lamer.envs import Observation, Step, Task, TextEnv
from openrlhf_lamer.policies.engine import EnginePolicy
from openrlhf_lamer.records import Trial
from openrlhf_lamer.warmstart.model import STOP, build_tokenizer

EPISODES = 3
"""Most episodes of LaMer's trials."""
SIGMA = 0.5
"""Spread of the logarithm of a reply's tokens."""
LONGEST = 1 << 20
RULES = (
    "You stand in a field of six by six cells and look for what is hidden in one of them. Each turn you go to a cell, "
    "and are told what is there. The search ends when it is found, or when no turns are left."
)
FIELD = "\n".join(f"Row {row}: . . . . . ." for row in range(1, 7))
REPLY = "I look at what is known so far. <action>go to (3, 4)</action><remark>Begin elsewhere.</remark>"

TOKENIZER = build_tokenizer([RULES, FIELD, REPLY], 400, LONGEST)
ENDING = TOKENIZER(REPLY + STOP, add_special_tokens=False)["input_ids"]
(FILLER,) = TOKENIZER(" cell", add_special_tokens=False)["input_ids"]
LOGPROB = SimpleNamespace(logprob=-1.0)
SAMPLING = SimpleNamespace(temperature=1.0, top_p=1.0, top_k=-1, max_tokens=MAX_NEW_TOKENS, min_tokens=1, logprobs=1)
"""Sampling parameters that the host gives the engine."""


class Attempt(NamedTuple):
    """One recorded episode: tokens of each reply, of the reflection that follows a lost one, and its end."""

    replies: list[int]
    reflection: int
    won: bool


@dataclass(frozen=True)
class Size:
    """`samples` trials at each of `tasks` tasks, with the distribution of their log-normal replies."""

    tasks: int
    samples: int
    turns: int
    """Turns of an episode that is lost; one that is won ends in the second half of them."""
    success: float
    """Probability of each episode."""
    median: int
    """Tokens of a reply."""

    def attempt(self, seed: int, task: int, number: int) -> Attempt:
        """Attempt `number` at a task."""
        rng = np.random.default_rng([seed, task, number])
        won = bool(rng.random() < self.success)
        turns = int(rng.integers(self.turns // 2 + 1, self.turns + 1)) if won else self.turns
        drawn = self.median * np.exp(SIGMA * rng.standard_normal(self.turns + 1))
        tokens = [int(each) for each in np.clip(drawn.round(), len(ENDING), MAX_NEW_TOKENS)]
        return Attempt(tokens[:turns], tokens[-1], won)

    def records(self, seed: int, episodes: int = EPISODES) -> list[Record]:
        """LaMer's trials, or with `episodes=1` RL's: the same attempts, each a separate trial."""
        records = []
        for task, sample in product(range(self.tasks), range(self.samples * EPISODES // episodes)):
            attempts: list[Attempt] = []
            while len(attempts) < episodes and not (attempts and attempts[-1].won):
                attempts.append(self.attempt(seed, task, sample * episodes + len(attempts)))
            records.append(Record(task, attempts))
        return records


class Record:
    """One recorded trial at task `number`, up to its first success.

    `rounds` are episode and turn of each reply, where a reflection counts as the turn after the last possible one;
    `tokens` are the tokens of each reply; `task` is the environment's.
    """

    def __init__(self, number: int, attempts: Sequence[Attempt]) -> None:
        self.number = number
        replies = [(n, turn, size) for n, each in enumerate(attempts) for turn, size in enumerate(each.replies)]
        replies += [(n, LONGEST, each.reflection) for n, each in enumerate(attempts[:-1])]
        self.rounds = [(episode, turn) for episode, turn, _ in sorted(replies)]
        self.tokens = [size for *_, size in sorted(replies)]
        ends = [[len(each.replies), each.won] for each in attempts]
        self.task = Task(Recorded.name, spec={"task": number, "ends": ends})


class Recorded(TextEnv):
    """Plays the ends of a record, whatever the actions."""

    name = "recorded"

    def __init__(self, reward: Any = "sparse") -> None:
        super().__init__(reward)
        self._episode = -1

    def reset(self, task: Task) -> Observation:
        assert task.spec is not None
        self._episode += 1
        self._turn, self._task = 0, task.spec["task"]
        self._turns, self._won = task.spec["ends"][self._episode]
        return self._observation()

    def step(self, action: str) -> Step:
        self._turn += 1
        over = self._turn == self._turns
        won = over and self._won
        return Step(self._observation(), float(won), won, over and not won, won, True)

    def anchor(self) -> str:
        return f"{self._task}: {self._turn}"

    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        return 0.0, 1.0

    def _observation(self) -> Observation:
        return Observation(f"{FIELD}\nTask {self._task}, looked at {self._turn} cells.")


envs.register(Recorded.name, Recorded)


Generate = Callable[[Sequence[int], int], Awaitable[None]]
"""An engine: generates a number of tokens after a prompt; their values do not matter."""


class Seat:
    """The engine as an executor sees it for one trial: it answers by the record."""

    def __init__(self, generate: Generate, record: Record) -> None:
        self._generate = generate
        self._left = iter(record.tokens)

    async def generate(self, prompt_token_ids: list[int], sampling_params: Any, **unused: Any) -> Any:
        """The next recorded reply, in vLLM's form."""
        tokens = next(self._left)
        await self._generate(prompt_token_ids, tokens)
        fill = tokens - len(ENDING)
        logprobs = [{FILLER: LOGPROB}] * fill + [{token: LOGPROB} for token in ENDING]
        return answer([FILLER] * fill + ENDING, logprobs)


class Player:
    """Our executor for recorded trials of up to `episodes` episodes, with a chat an episode and no limit of time."""

    def __init__(self, size: Size, episodes: int = EPISODES) -> None:
        from openrlhf_lamer.integration.rollout.executor import executor_class

        os.environ[ENV_VAR] = LamerConfig(num_episodes=episodes, context="episode", timeout=1e9).to_env()
        self._executor = executor_class(Agent(env=Recorded.name, max_turns=size.turns, rules=RULES))()
        self._executor.take(TOKENIZER)

    async def play(self, record: Record, generate: Generate) -> Trial:
        """Play a record as our own rollout actor does."""
        policy = EnginePolicy(Seat(generate, record), SAMPLING)
        response = await self._executor.play(
            "", record.task, policy, sample=0, seed=None, max_new_tokens=MAX_NEW_TOKENS, max_length=LONGEST
        )
        trial: Trial = response["trial"]
        assert trial.failure is None, trial.failure
        assert [len(turn.sampled_ids) for turn in trial.turns] == record.tokens, "not played as recorded"
        return trial
