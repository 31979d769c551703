"""Stand-ins that several test files share: environments, players, chats, trials, and the host's arguments."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from types import SimpleNamespace
from typing import Any

from openrlhf_lamer import envs, room
from openrlhf_lamer.agents import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.envs.base import Observation, Step, TextEnv
from openrlhf_lamer.envs.session import OpenSession
from openrlhf_lamer.policies import Generation, Policy, Request
from openrlhf_lamer.records import Phase, Task, Trial
from openrlhf_lamer.text_chat import TextChat
from openrlhf_lamer.trial import run_trial
from openrlhf_lamer.vocabulary import RewardScheme

PLAY, REFLECT = range(2)


class Long(TextEnv):
    """Shows its long states in turn, and is never won; its actions are refused nowhere."""

    name = "long"

    def __init__(self, words: int = 30, reward: RewardScheme = "sparse") -> None:
        super().__init__(reward)
        self.words, self.turn = words, 0

    def long_states(self) -> tuple[Observation, ...]:
        def state(length: int) -> Observation:
            return Observation("see " * length, ("go", "stay"))

        return state(2 * self.words), state(self.words), state(3 * self.words)

    def reset(self, task: Task) -> Observation:
        self.turn = 0
        return self.long_states()[0]

    def step(self, action: str) -> Step:
        state = self.long_states()[1 + self.turn % 2]
        self.turn += 1
        return Step(state, 0.0, False, False, won=False, valid=True)

    def anchor(self) -> str:
        return str(self.turn)

    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        return 0.0, 10.0


LONG = Agent("long", max_turns=5, window=3, rules="Look at {{ env.words }} words.")


class Counted(TextChat):
    """A chat with the number of ids that `room` estimates; the first id of a reply decides its text."""

    def __init__(self, said: Sequence[str]) -> None:
        super().__init__()
        self.said = said

    def opening(self, text: str) -> tuple[int, ...]:
        return (0,) * (room.BEGINNING + room.MESSAGE + room.estimate(text))

    def continuation(self, text: str, reply: Sequence[int]) -> tuple[int, ...]:
        return (0,) * (room.MESSAGE + room.estimate(text))

    def decode(self, ids: Sequence[int]) -> str:
        return self.said[ids[0]]


class Replies:
    """Replies of a fixed length; remembers how long prompts were."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.prompts: list[int] = []

    async def generate(self, request: Request) -> Generation:
        self.prompts.append(len(request.prompt_ids))
        kind = PLAY if request.phase is Phase.PLAY else REFLECT
        return Generation((kind,) * self.length, None, truncated=False)


def played(agent: Agent, config: LamerConfig, said: Sequence[str], reply: int) -> list[int]:
    """Lengths of the prompts of a trial in which every reply says `said`, one of play and one of reflection."""
    replies = Replies(reply)
    task = Task(agent.env, seed=0)
    trial = run_trial(task, agent, replies, Counted(said), config, max_new_tokens=reply, max_length=1 << 30)
    assert asyncio.run(trial).failure is None
    return replies.prompts


def prize_behind(door: str, doors: int) -> Task:
    """The first task of `doors` whose prize is behind this door."""
    for seed in range(1000):
        with closing(envs.make("doors", doors=doors)) as env:
            env.reset(task := Task("doors", seed=seed))
            if env.oracle() == door:
                return task
    raise AssertionError(f"no prize is behind {door}")


def tokens_with_a_meaning(chat: Chat) -> dict[int, str]:
    """All added tokens: in these tokenizers, none of them stands for ordinary text."""
    return {number: str(token) for number, token in chat.tokenizer.added_tokens_decoder.items()}


def control(chat: Chat, ids: tuple[int, ...]) -> list[str]:
    """The control tokens and marks in `ids`, in order."""
    known = tokens_with_a_meaning(chat)
    return [known[number] for number in ids if number in known]


def host_strategy(arguments: Mapping[str, Any]) -> Any:
    """The host's strategy with `arguments`, by their flags' names, such as `train.seed`."""
    args = SimpleNamespace()
    for flag, value in arguments.items():
        *groups, name = flag.split(".")
        at = args
        for group in groups:
            vars(at).setdefault(group, SimpleNamespace())
            at = getattr(at, group)
        setattr(at, name, value)
    return SimpleNamespace(args=args)


def generator_strategy(
    size: int,
    samples: int,
    generated: int,
    *,
    seed: int,
    partial: bool = False,
    seeded: bool = False,
    filtering: bool = False,
    shares: tuple[float, float] = (-1, 2),
    correction: str = "off",
) -> Any:
    """The host's strategy with the arguments that its generator of samples reads."""
    return host_strategy(
        {
            "rollout.batch_size": size,
            "rollout.n_samples_per_prompt": samples,
            "rollout.vllm_generate_batch_size": generated,
            "train.seed": seed,
            "train.partial_rollout_enable": partial,
            "train.full_determinism_enable": seeded,
            "algo.advantage.is_correction_level": correction,
            "algo.dynamic_filtering_enable": filtering,
            "algo.dynamic_filtering_range": shares,
            "vllm.enable_sleep": False,
        }
    )


def engine_output(ids: Sequence[int]) -> Any:
    """An engine's answer in vLLM's form: a reply that ended, without log-probabilities."""
    return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, logprobs=None, finish_reason="stop")])


def answer_under_any_hash_seed(code: str, variables: Callable[[str], Mapping[str, str]] = lambda _: {}) -> str:
    """Output of Python code, which must be the same in two processes with different hash seeds.

    Args:
        code: The code.
        variables: Further environment variables, by hash seed.
    """
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8", **variables(seed)},
            capture_output=True,
            encoding="utf-8",
            check=True,
        ).stdout
        for seed in ("0", "4711")
    }
    assert len(answers) == 1
    return answers.pop()


def played_at_once(
    tasks: Sequence[Task],
    agent: Agent,
    policy: Callable[[Task], Policy],
    chat: Chat,
    config: LamerConfig,
    open_session: OpenSession,
) -> list[Trial]:
    """A trial on each task, all at once, each with a policy of its own."""

    async def together() -> list[Trial]:
        limits: dict[str, Any] = {"max_new_tokens": 64, "max_length": 9000, "open_session": open_session}
        return await asyncio.gather(*(run_trial(task, agent, policy(task), chat, config, **limits) for task in tasks))

    return asyncio.run(together())


class Idle:
    """A policy that never acts, so that every episode takes all of its turns."""

    def __init__(self, chat: Chat) -> None:
        self._ids = chat.encode("nothing")

    async def generate(self, request: Request) -> Generation:
        return Generation(self._ids, None, truncated=False)
