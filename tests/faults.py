"""Stand-ins and fixtures of the fault matrix: environment and engine that break as planned, and a training step."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from openrlhf_lamer.agents import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import ENV_VAR, LamerConfig
from openrlhf_lamer.envs import registry
from openrlhf_lamer.envs.base import Observation, Step, TextEnv
from openrlhf_lamer.policies.engine import EnginePolicy
from openrlhf_lamer.records import Task, Trial

pytest.importorskip("openrlhf")
pytest.importorskip("vllm")

import torch
from vllm import SamplingParams
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput

from openrlhf_lamer.integration import cpu

if not cpu.cuda_available():
    cpu.install()  # the host imports CUDA's packages otherwise

from openrlhf_lamer.integration.rollout.executor import executor_class
from openrlhf_lamer.integration.rollout.sample import TrialExperience
from openrlhf_lamer.integration.training.batch import TrialBatch
from openrlhf_lamer.integration.training.credit import assign_credit
from openrlhf_lamer.integration.training.logs import batch_metrics

GROUP = 4
GROUPS = 2
LIMIT = 0.3
"""Seconds of each time limit, where something hangs."""
SLACK = 15.0
"""Seconds that a step with hangs may take besides: far under `HANG`."""
HANG = 60.0
EVER = 1_000_000


@dataclass
class Plan:
    """The fault that happens: where, how, and how often; shared by the environments or the engine of one test."""

    where: str = ""
    how: str = ""
    times: int = 0
    broken: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def due(self, where: str) -> bool:
        """Whether it breaks here and now."""
        if where != self.where or self.broken >= self.times:
            return False
        self.broken += 1
        return True

    def breaks(self, where: str, nonsense: Any) -> Any:
        """Break, if it is due: raise, exit, hang, or return `nonsense`; None otherwise."""
        if not self.due(where):
            return None
        if self.how == "hang":
            self.ended.wait(HANG)
        elif self.how == "exit":
            raise SystemExit(3)
        elif self.how != "nonsense":
            raise ArithmeticError("two and two is five")
        return nonsense


class Faulty(TextEnv):
    """Pays the number that is played, ends at the second turn, is won only by 9, and breaks as planned."""

    name = "faulty"
    plan: Plan = Plan()

    def __init__(self, reward: Any = "sparse") -> None:
        self.plan = type(self).plan  # a call that hangs in one test goes on in the next, which it must not break
        self.plan.breaks("make", None)
        super().__init__(reward)
        self.count = 0

    @property
    def facts(self) -> dict[str, Any]:
        return self.plan.breaks("facts", {"size": object}) or {"size": 6}

    def reset(self, task: Task) -> Observation:
        self.count = 0
        return self.plan.breaks("reset", Observation(None)) or Observation(f"Number {task.seed}.", ("1", "9"))  # pyright: ignore[reportArgumentType]

    def step(self, action: str) -> Step:
        broken = self.plan.breaks("step", Step(Observation("x"), float("nan"), False, False, False, True))
        self.count += 1
        won = action == "9"
        over = won or self.count == 2
        valid = action.isdigit()
        earned = float(action) if valid else 0.0
        return broken or Step(Observation(f"{self.count} played."), earned, over, False, won, valid)

    def anchor(self) -> str:
        return self.plan.breaks("anchor", ["no", "key"]) or str(self.count)

    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        return 0.0, 18.0

    def close(self) -> None:
        self.plan.breaks("close", None)


class Engine:
    """Answers as the host's rollout actor does, with numbers at random and remarks, and breaks as planned.

    Args:
        reply: Token ids that it says instead, where `plan` has it say something.
    """

    def __init__(self, chat: Chat, plan: Plan, reply: Sequence[int] = ()) -> None:
        self._chat, self._plan, self._reply = chat, plan, list(reply)
        self._rng = random.Random(0)
        self.seen: list[list[int]] = []

    async def generate(self, prompt_token_ids: list[int], sampling_params: SamplingParams) -> RequestOutput | None:
        self.seen.append(prompt_token_ids)
        due = self._plan.due("generate")
        ids = list(self._chat.encode(f"<action>{self._rng.randrange(9)}</action>") + self._chat.end_of_reply)
        if "<remark>" in self._chat.tokenizer.decode(prompt_token_ids).rpartition("<|im_start|>user")[2]:
            ids = list(self._chat.encode("<remark>Play higher.</remark>") + self._chat.end_of_reply)
        how = self._plan.how if due else ""
        if how == "reply":
            ids = self._reply
        elif how == "raise":
            raise ArithmeticError("two and two is five")
        elif how == "hang":
            await asyncio.sleep(HANG)
        elif how == "deaf":
            until = time.monotonic() + HANG
            while time.monotonic() < until and not self._plan.ended.is_set():
                try:
                    await asyncio.sleep(0.1)
                except asyncio.CancelledError:
                    continue
        elif how == "nothing":
            return None
        elif how == "foreign ids":
            ids = [-1, *ids]
        ids = ids[: sampling_params.max_tokens]
        probability = float("nan") if how == "nan" else -0.5
        logprobs: Any = [{token: Logprob(probability)} for token in ids]
        if how == "no logprobs":
            logprobs = None
        elif how == "few logprobs":
            logprobs = logprobs[1:]
        elif how == "others' logprobs":
            logprobs = [{token + 1: Logprob(-0.5)} for token in ids]
        reason = "length" if len(ids) == sampling_params.max_tokens else "stop"
        output = CompletionOutput(0, "", ids, -0.5 * len(ids), logprobs, finish_reason=reason)
        outputs = [] if how == "no outputs" else [output]
        return RequestOutput("0", None, prompt_token_ids, None, outputs, finished=True)


@dataclass(frozen=True)
class Rollout:
    """Result of `GROUPS` prompts: the executor's responses in order, and the seconds that they took."""

    responses: list[dict[str, Any]]
    engine: Engine
    config: LamerConfig
    seconds: float

    @property
    def trials(self) -> list[Trial]:
        return [response["trial"] for response in self.responses]

    @property
    def failed(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.failure is not None]

    def samples(self) -> list[TrialExperience]:
        return [TrialExperience.from_response(response) for response in self.responses]


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plan]:
    """The fault of this test; calls that hang are released at its end."""
    plan = Plan()
    monkeypatch.setattr(Faulty, "plan", plan)
    with registry.scoped(faulty=Faulty):
        yield plan
    plan.ended.set()


@pytest.fixture
def rollout(chat: Chat, tokenizer: Any, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rollout]:
    """Plays whole groups on the real executor; keyword arguments become the configuration."""

    def run(
        *,
        agent: Agent | None = None,
        reply: Sequence[int] = (),
        groups: int = GROUPS,
        max_tokens: int = 64,
        max_length: int = 9000,
        **given: Any,
    ) -> Rollout:
        config = LamerConfig(**{"num_episodes": 2, "timeout": HANG, "env_timeout": HANG, **given})
        monkeypatch.setenv(ENV_VAR, config.to_env())
        executor = executor_class(agent or Agent("faulty", max_turns=3, rules="Play a number up to {{ env.size }}."))()
        executor.take(tokenizer)
        engine = Engine(chat, plan, reply)
        params = SamplingParams(max_tokens=max_tokens, logprobs=0)

        async def together() -> list[dict[str, Any]]:
            return await asyncio.gather(
                *(
                    executor.play(
                        "p",
                        Task("faulty", seed=n),
                        EnginePolicy(engine, params),
                        sample=0,
                        seed=None,
                        max_new_tokens=max_tokens,
                        max_length=max_length,
                    )
                    for n in range(groups)
                    for _ in range(GROUP)
                )
            )

        began = time.monotonic()
        loop = asyncio.new_event_loop()  # not `asyncio.run`, which would wait for an engine that is deaf
        try:
            responses = loop.run_until_complete(together())
            return Rollout(responses, engine, config, time.monotonic() - began)
        finally:
            plan.ended.set() if plan.how == "deaf" else None
            loop.run_until_complete(asyncio.sleep(0.2 if plan.how == "deaf" else 0))
            loop.close()

    return run


@pytest.fixture
def train(maker: Callable[..., Any]) -> Callable[..., tuple[TrialBatch, dict[str, float]]]:
    """Takes a rollout through rows and credit, checks the result against the design, and returns the log."""

    def step(rollout: Rollout, estimator: str = "lamer_gigpo") -> tuple[TrialBatch, dict[str, float]]:
        made = maker(estimator, config=rollout.config)
        experiences = made.make_experience_batch(rollout.samples())
        assert made.batch is not None
        check_rows(made.batch, experiences)
        if estimator == "lamer_gigpo":
            check_baselines(made.batch, estimator, rollout.config)
        logged = batch_metrics(made.batch, rollout.config)
        assert all(np.isfinite(value) for value in logged.values())
        return made.batch, logged

    return step


def check_rows(batch: TrialBatch, experiences: list[Any]) -> None:
    """Every sampled token of the live trials is trained once, none of a failed one, and all numbers are finite."""
    assert batch.rows is not None
    live = set(batch.live.tolist())
    assert {i for i, trial in enumerate(batch.trials) if trial.failure is None} == live
    assert set(batch.rows.owner.tolist()) <= live
    trained: dict[int, list[int]] = {i: [] for i in live}
    where = {p: (experience, line) for experience in experiences for line, p in enumerate(experience.index)}
    for position, owner in enumerate(batch.rows.owner.tolist()):
        experience, line = where[position]
        mask = experience.action_mask[line].bool()
        trained[owner] += experience.sequences[line][1:][mask].tolist()
        for values in (experience.advantages, experience.returns, experience.rollout_log_probs):
            assert torch.isfinite(values[line]).all()
        assert (experience.advantages[line][~mask] == 0).all()
    for i in live:
        assert trained[i] == [token for turn in batch.trials[i].turns for token in turn.sampled_ids]


def check_baselines(batch: TrialBatch, estimator: str, config: LamerConfig) -> None:
    """A group with failed trials has the advantages of a group of its live trials alone."""
    assert batch.advantages is not None
    for group in np.unique(batch.groups):
        own = [i for i in batch.live if batch.groups[i] == group]
        found = np.concatenate([batch.advantages[i] for i in own]) if own else np.empty(0)
        alone = assign_credit(estimator, [batch.trials[i] for i in own], [0] * len(own), config, 0.9) if own else None
        np.testing.assert_allclose(found, alone.advantages if alone else [], atol=1e-9)
    for i, trial in enumerate(batch.trials):
        assert len(batch.advantages[i]) == len(trial.turns)
