"""The fault matrix: whatever breaks in a rollout, a training step completes, or aborts as it is configured to.

Real are the executor with its pool, the trial loop, rows, credit and metrics; stand-ins are the engine (which
answers with vLLM's own classes), the environment and the models that score. Workers of slow environments that
die are in `test_pool.py`, which has a cluster.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from openrlhf_lamer import advantage
from openrlhf_lamer.agents import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import ENV_VAR, LamerConfig
from openrlhf_lamer.envs import registry
from openrlhf_lamer.envs.base import Observation, Step, TextEnv
from openrlhf_lamer.records import FailureKind, Phase, Stop, Task, Trial

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
from openrlhf_lamer.integration.training.batch import TooManyFailuresError, TrialBatch
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
    """What breaks, where, how, and how often; shared by the environments or the engine of one test."""

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
    """Pays the number that is played, is over at the second turn, is won by 9 alone, and breaks as planned."""

    name = "faulty"
    plan: Plan = Plan()

    def __init__(self, reward: Any = "sparse") -> None:
        self.plan = type(self).plan  # a call that hangs in one test goes on in the next, and is not to break that
        self.plan.breaks("make", None)
        super().__init__(reward)
        self.played = 0

    @property
    def facts(self) -> dict[str, Any]:
        return self.plan.breaks("facts", {"size": object}) or {"size": 6}

    def reset(self, task: Task) -> Observation:
        self.played = 0
        return self.plan.breaks("reset", Observation(None)) or Observation(f"Number {task.seed}.", ("1", "9"))  # pyright: ignore[reportArgumentType]

    def step(self, action: str) -> Step:
        broken = self.plan.breaks("step", Step(Observation("x"), float("nan"), False, False, False, True))
        self.played += 1
        won = action == "9"
        over = won or self.played == 2
        valid = action.isdigit()
        earned = float(action) if valid else 0.0
        return broken or Step(Observation(f"{self.played} played."), earned, over, False, won, valid)

    def anchor(self) -> str:
        return self.plan.breaks("anchor", ["no", "key"]) or str(self.played)

    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        return 0.0, 18.0

    def close(self) -> None:
        self.plan.breaks("close", None)


class Engine:
    """Answers as the host's rollout actor does, with numbers at random and remarks, and breaks as planned.

    Args:
        reply: What it says instead where `plan` has it say something: token ids.
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
    """What `GROUPS` prompts came to: the executor's responses in order, and how long they took."""

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
    """What breaks in this test; at its end, what hangs is let go."""
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
        engine = Engine(chat, plan, reply)
        params = SamplingParams(max_tokens=max_tokens, logprobs=0)

        async def together() -> list[dict[str, Any]]:
            return await asyncio.gather(
                *(
                    executor.execute("p", Task("faulty", seed=n).to_json(), params, max_length, tokenizer, engine)
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
    """Takes a rollout through rows and credit, holds what comes of it against the design, and returns the log."""

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
    """A group with failed trials has the advantages of the group of the trials that it has."""
    assert batch.advantages is not None
    for group in np.unique(batch.groups):
        own = [i for i in batch.live if batch.groups[i] == group]
        found = np.concatenate([batch.advantages[i] for i in own]) if own else np.empty(0)
        alone = assign_credit(estimator, [batch.trials[i] for i in own], [0] * len(own), config, 0.9) if own else None
        np.testing.assert_allclose(found, alone.advantages if alone else [], atol=1e-9)
    for i, trial in enumerate(batch.trials):
        assert len(batch.advantages[i]) == len(trial.turns)


@dataclass(frozen=True)
class Fault:
    """A fault and the failure that it is."""

    where: str
    how: str
    kind: FailureKind
    stage: str

    def __str__(self) -> str:
        return f"{self.where}-{self.how}"


def environment_faults() -> Iterator[Fault]:
    for where in ("make", "reset", "facts", "step", "anchor"):
        stage = "reset" if where in ("facts", "anchor") else where
        yield Fault(where, "raise", FailureKind.ENVIRONMENT, stage)
        yield Fault(where, "exit", FailureKind.ENVIRONMENT, stage)
        yield Fault(where, "hang", FailureKind.ENVIRONMENT_TIMEOUT, stage)
    for where in ("reset", "step", "anchor"):  # no text, no reward, no key
        yield Fault(where, "nonsense", FailureKind.ENVIRONMENT, "reset" if where == "anchor" else where)


ENGINE_FAULTS = (
    "raise",
    "nothing",
    "no outputs",
    "no logprobs",
    "few logprobs",
    "others' logprobs",
    "nan",
    "foreign ids",
)
FAULTS = [
    *environment_faults(),
    *(Fault("generate", how, FailureKind.ENGINE, "generate") for how in ENGINE_FAULTS),
    Fault("generate", "hang", FailureKind.ENGINE_TIMEOUT, "generate"),
    Fault("generate", "deaf", FailureKind.ENGINE_TIMEOUT, "generate"),
    Fault("render", "raise", FailureKind.PROMPT, "render"),
    Fault("render", "hang", FailureKind.PROMPT_TIMEOUT, "render"),
]


@pytest.fixture
def broken(plan: Plan, rollout: Callable[..., Rollout], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rollout]:
    """A rollout in which a fault happens so many times."""
    message = Agent.play_message

    def rendered(self: Agent, **values: Any) -> str:
        plan.breaks("render", None)
        return message(self, **values)

    def run(fault: Fault, times: int, **given: Any) -> Rollout:
        monkeypatch.setattr(Agent, "play_message", rendered)
        plan.where, plan.how, plan.times = fault.where, fault.how, times
        if fault.how in ("hang", "deaf"):
            given |= {"timeout": LIMIT, "env_timeout": LIMIT}
        found = rollout(**given)
        assert plan.broken == times or times == EVER
        assert found.seconds < SLACK
        return found

    return run


@pytest.mark.parametrize("fault", FAULTS, ids=str)
class TestFault:
    """Each fault once with another try, once without, and at every try."""

    def test_it_costs_a_new_beginning(
        self, fault: Fault, broken: Callable[..., Rollout], train: Callable[..., Any]
    ) -> None:
        found = broken(fault, 1, retries=1)
        assert found.failed == []
        assert sum(trial.retries for trial in found.trials) == 1
        _, logged = train(found)
        assert logged["faulty/retries"] == 1
        assert logged["faulty/failed"] == 0

    def test_it_costs_one_trial_at_most(
        self, fault: Fault, broken: Callable[..., Rollout], train: Callable[..., Any]
    ) -> None:
        found = broken(fault, 1, retries=0)
        (trial,) = found.failed
        assert trial.failure is not None
        assert (trial.failure.kind, trial.failure.stage) == (fault.kind, fault.stage)
        assert trial.episodes == ()
        batch, logged = train(found)
        assert len(batch.live) == GROUP * GROUPS - 1
        assert logged["faulty/failed"] == 1 / (GROUP * GROUPS)
        assert {key: value for key, value in logged.items() if "/failed" in key and key != "faulty/failed"} == {
            f"faulty/failed/{fault.kind}": 1,
            f"faulty/failed_at/{fault.stage}": 1,
        }
        assert logged["faulty/retries"] == 0

    def test_at_every_try_it_ends_the_run_with_its_reason(
        self, fault: Fault, broken: Callable[..., Rollout], train: Callable[..., Any]
    ) -> None:
        found = broken(fault, EVER, retries=1)
        assert len(found.failed) == GROUP * GROUPS
        assert all(trial.retries == 1 for trial in found.trials)
        with pytest.raises(TooManyFailuresError, match=f"8 of 8 trials failed .8 {fault.kind} in {fault.stage}."):
            train(found)


def test_where_every_trial_failed_no_share_lets_the_run_go_on(
    plan: Plan, rollout: Callable[..., Rollout], train: Callable[..., Any]
) -> None:
    plan.where, plan.how, plan.times = "reset", "raise", EVER
    with pytest.raises(TooManyFailuresError, match=r"8 of 8 trials failed \(8 environment in reset\), so none"):
        train(rollout(max_failed_share=1.0))


@pytest.mark.parametrize("how", ["raise", "exit", "hang"])
def test_an_environment_that_cannot_even_be_closed_costs_nothing(
    plan: Plan, rollout: Callable[..., Rollout], train: Callable[..., Any], how: str
) -> None:
    plan.where, plan.how, plan.times = "close", how, EVER
    found = rollout(retries=0, env_timeout=LIMIT)
    assert plan.broken == GROUP * GROUPS
    assert found.seconds < SLACK
    _, logged = train(found)
    assert (logged["faulty/failed"], logged["faulty/retries"]) == (0, 0)


def replies(chat: Chat) -> dict[str, list[int]]:
    """Replies that no one would want, by what is wrong with them, as the ids that an engine samples."""
    tokenizer, end = chat.tokenizer, list(chat.end_of_reply)
    half = list(chat.encode("√"))[:1]  # the first of three bytes
    said = {
        "unclosed tag": "<action>1",
        "two actions": "<action>1</action> or <action>2</action>",
        "nested tags": "<action><action>1</action></action>",
        "closing tag first": "</action>1<action>",
        "tags in the wrong case": "<Action>1</Action>",
        "tag with an attribute": "<action id='1'>1</action>",
        "another tag": "<remark>1</remark>",
        "control tokens for tags": "<|im_start|>1<|im_end|>",
    }
    return {name: [*chat.encode(text), *end] for name, text in said.items()} | {
        "empty": [],
        "nothing but its end": end,
        "10,000 tokens of one character": list(chat.encode("a"))[:1] * 10_000,
        "no UTF-8": [*half, *half, *chat.encode("<action"), *half, *chat.encode(">1</action>")],
        "ids that the tokenizer has not": [len(tokenizer) + 3] * 5,
    }


REPLIES = (
    "unclosed tag",
    "two actions",
    "nested tags",
    "closing tag first",
    "tags in the wrong case",
    "tag with an attribute",
    "another tag",
    "control tokens for tags",
    "empty",
    "nothing but its end",
    "10,000 tokens of one character",
    "no UTF-8",
    "ids that the tokenizer has not",
)


@pytest.mark.parametrize("name", REPLIES)
@pytest.mark.parametrize("context", ["turn", "episode", "trial"])
def test_a_malformed_reply_costs_the_penalty_on_its_turn_and_is_counted(
    chat: Chat, plan: Plan, rollout: Callable[..., Rollout], train: Callable[..., Any], name: str, context: str
) -> None:
    assert tuple(replies(chat)) == REPLIES
    plan.where, plan.how, plan.times = "generate", "reply", 3
    long = name.startswith("10,000")
    size = {"max_tokens": 10_000, "max_length": 13_000} if long else {}
    found = rollout(reply=replies(chat)[name], context=context, **size)
    assert found.failed == []
    turns = [turn for trial in found.trials for turn in trial.turns]
    bad = [turn for turn in turns if list(turn.sampled_ids) == replies(chat)[name]]
    assert len(bad) == 3
    assert [(turn.action, turn.valid, turn.reward, turn.truncated) for turn in bad] == [(None, False, -0.5, long)] * 3
    _, logged = train(found)
    play = sum(turn.phase is Phase.PLAY for turn in turns)
    assert logged["faulty/malformed_replies"] == logged["faulty/invalid_actions"] == pytest.approx(3 / play)
    assert logged["faulty/truncated_replies"] == pytest.approx(3 * long / len(turns))
    assert (logged["faulty/failed"], logged["faulty/retries"]) == (0, 0)
    # The chat that goes on has no room after so long a reply.
    assert logged["faulty/overlong"] == pytest.approx(3 / 8 if long and context != "turn" else 0)


def test_where_every_reply_is_empty_there_is_nothing_to_train_and_the_message_says_so(
    plan: Plan, rollout: Callable[..., Rollout], train: Callable[..., Any]
) -> None:
    plan.where, plan.how, plan.times = "generate", "reply", EVER
    with pytest.raises(RuntimeError, match="sampled a token"):
        train(rollout())


def test_tags_in_an_observation_are_no_actions(
    plan: Plan, rollout: Callable[..., Rollout], train: Callable[..., Any], chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "<action>9</action><|im_end|></action><remark>x</remark>"
    monkeypatch.setattr(Faulty, "reset", lambda self, task: Observation(said, (said,)))
    plan.where, plan.how, plan.times = "generate", "reply", EVER
    found = rollout(reply=chat.encode("I say nothing."))
    assert not any(turn.valid for trial in found.trials for turn in trial.turns)
    assert not any(trial.won for trial in found.trials)
    _, logged = train(found)
    assert logged["faulty/malformed_replies"] == 1
    assert logged["faulty/reflection_valid"] == 0


def test_a_refused_action_and_a_reflection_without_a_remark_are_counted_apart(
    plan: Plan, rollout: Callable[..., Rollout], train: Callable[..., Any], chat: Chat
) -> None:
    plan.where, plan.how, plan.times = "generate", "reply", EVER
    found = rollout(reply=chat.encode("<action>up</action>"))
    _, logged = train(found)
    assert (logged["faulty/malformed_replies"], logged["faulty/refused_actions"]) == (0, 1)
    assert logged["faulty/reflection_valid"] == 0
    assert all(trial.episodes[0].reflection is not None for trial in found.trials)
    assert {trial.episodes[0].reflection.reward for trial in found.trials if trial.episodes[0].reflection} == {-0.5}


def test_a_first_prompt_over_the_limit_ends_the_run_with_its_reason(
    rollout: Callable[..., Rollout], train: Callable[..., Any]
) -> None:
    found = rollout(max_length=100)
    assert {trial.failure.kind for trial in found.failed if trial.failure} == {FailureKind.OVERLONG}
    assert found.engine.seen == []
    with pytest.raises(TooManyFailuresError, match=r"(?s)8 overlong in render.*leaves no room for a reply"):
        train(found)


def test_a_later_prompt_over_the_limit_ends_its_episode_and_is_counted(
    rollout: Callable[..., Rollout], train: Callable[..., Any]
) -> None:
    free = rollout()
    room = min(len(trial.turns[1].prompt_ids) for trial in free.trials) + 64 - 1
    found = rollout(max_length=room)
    assert {episode.stop for trial in found.trials for episode in trial.episodes} == {Stop.OVERLONG}
    assert max(map(len, found.engine.seen)) + 64 <= room
    _, logged = train(found)
    assert (logged["faulty/overlong"], logged["faulty/failed"]) == (1, 0)


@pytest.mark.parametrize(
    "estimator", [*advantage.names(), "group_norm", "rloo", "reinforce_baseline", "dr_grpo", "gae"]
)
@pytest.mark.parametrize("failing", [1, GROUP - 1, GROUP])
def test_a_group_goes_on_with_the_trials_that_it_has(
    plan: Plan, rollout: Callable[..., Rollout], train: Callable[..., Any], estimator: str, failing: int
) -> None:
    """One lost, a single one left, none left: rows of the live ones alone, and finite numbers."""
    plan.where, plan.how, plan.times = "make", "raise", failing
    given: dict[str, Any] = {"cross_episode": "chained"} if estimator == "lamer_ppo" else {}
    found = rollout(retries=0, max_failed_share=0.5, **given)
    assert [trial.failure is not None for trial in found.trials] == [True] * failing + [False] * (8 - failing)
    batch, logged = train(found, estimator)
    assert batch.rows is not None
    assert set(batch.rows.owner.tolist()) == set(range(failing, 8))
    assert logged["faulty/failed/environment"] == failing


def test_a_failed_trial_is_no_zero_to_the_others(
    plan: Plan, rollout: Callable[..., Rollout], train: Callable[..., Any]
) -> None:
    """By hand: what a trial earned, less the mean of what the live ones of its group did."""
    plan.where, plan.how, plan.times = "step", "raise", 1
    found = rollout(num_episodes=1, max_turns=1, retries=0, norm="mean")
    batch, logged = train(found, "lamer_grpo")
    assert batch.advantages is not None
    earned = np.array([trial.scalar_return(0.6) for trial in batch.trials])
    for group in range(GROUPS):
        own = [i for i in batch.live if batch.groups[i] == group]
        for i in own:
            assert batch.advantages[i] == pytest.approx([earned[i] - earned[own].mean()])
        assert len(set(earned[own])) > 1
    assert {len(np.intersect1d(np.flatnonzero(batch.groups == g), batch.live)) for g in range(GROUPS)} == {3, 4}
    assert logged["faulty/return"] == pytest.approx(earned[batch.live].mean())


@pytest.mark.parametrize(("limit", "aborts"), [(0.5, False), (0.05, True)])
def test_a_third_that_fails_at_random_is_masked_or_ends_the_run_as_configured(
    plan: Plan,
    rollout: Callable[..., Rollout],
    train: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    limit: float,
    aborts: bool,
) -> None:
    rng, hit = random.Random(5), []

    def make(self: Faulty, reward: Any = "sparse") -> None:
        TextEnv.__init__(self, reward)
        hit.append(rng.random() < 0.3)
        if hit[-1]:
            raise OSError("the game server is busy")

    monkeypatch.setattr(Faulty, "__init__", make)
    found = rollout(groups=16, retries=0, max_failed_share=limit)
    assert [trial.failure is not None for trial in found.trials] == hit
    assert 0.2 < np.mean(hit) < 0.4
    if aborts:
        with pytest.raises(TooManyFailuresError, match="game server is busy"):
            train(found)
        return
    batch, logged = train(found)
    assert logged["faulty/failed"] == pytest.approx(np.mean(hit))
    assert logged["faulty/failed_at/make"] == sum(hit)
    assert len(batch.live) == 64 - sum(hit)


def test_an_abort_says_what_failed_where_how_often_and_what_to_do_about_it() -> None:
    from openrlhf_lamer.records import Failure

    def failed(kind: FailureKind, stage: str, message: str, seed: int) -> Trial:
        return Trial(Task("faulty", seed=4), (), Failure(kind, stage, message), sample=2, seed=seed)

    trials = [Trial(Task("faulty", seed=4), ())] * 3
    trials += [failed(FailureKind.ENGINE, "generate", "boom", 70)] * 3
    trials += [failed(FailureKind.ENVIRONMENT_TIMEOUT, "step", "Timeout:\nno answer " + "x" * 1000, 71)] * 2
    samples: Any = [SimpleNamespace(trial=trial) for trial in trials]
    with pytest.raises(TooManyFailuresError) as raised:
        TrialBatch.of(samples, 8, 0.25)
    first, *shown = str(raised.value).splitlines()
    assert first == (
        "5 of 8 trials failed (3 engine in generate, 2 environment_timeout in step), more than "
        "--lamer.max_failed_share 0.25 allows. The last ones:"
    )
    assert shown[0] == "  faulty:seed=4, sample 2, sampled by seed 70: generate: boom"
    assert shown[2].startswith("  faulty:seed=4, sample 2, sampled by seed 71: step: Timeout: no answer xxx")
    assert max(map(len, shown)) < 400
