"""The inner loop: one trial of up to N episodes on one task.

The loop is pure: it asks a policy for replies and does not know what generates them,
so training, evaluation and tests run the same code. No trial waits for another. A
failure ends only its own trial, and is part of the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from openrlhf_lamer.agents.base import ACTION_LIMIT, REMARK_LIMIT, Agent
from openrlhf_lamer.chat import Chat, parse_tag
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.context import Context
from openrlhf_lamer.envs.base import Observation, Step
from openrlhf_lamer.envs.session import Opening, OpenSession, Session, open_inline
from openrlhf_lamer.memory import recall, shorten, untold
from openrlhf_lamer.offload import off_loop
from openrlhf_lamer.policies.base import EngineGoneError, Generation, Policy, Request
from openrlhf_lamer.records import Episode, Failure, FailureKind, Phase, Stop, Task, Trial, Turn
from openrlhf_lamer.thinking import Reading

T = TypeVar("T")


class TrialError(Exception):
    """A trial failed; holds the failure for its record."""

    def __init__(self, kind: FailureKind, stage: str, cause: BaseException) -> None:
        super().__init__(f"{stage}: {cause!r}")
        self.failure = Failure(kind, stage, f"{type(cause).__name__}: {cause}")


async def run_trial(
    task: Task,
    agent: Agent,
    policy: Policy,
    chat: Chat,
    config: LamerConfig,
    *,
    max_new_tokens: int,
    max_length: int,
    open_session: OpenSession = open_inline,
    sample: int = 0,
    seed: int | None = None,
) -> Trial:
    """Play `task` and return the record, which holds any failure; raises only `EngineGoneError`.

    Args:
        task: Task to play; every episode begins from its initial state.
        agent: The environment's prompts and limits.
        policy: Source of the replies.
        chat: The tokenizer of the model that replies.
        config: Episodes, memory, context, penalties, timeouts and retries.
        max_new_tokens: Most tokens of one reply.
        max_length: Most tokens of a prompt and its reply together. A prompt that leaves no
            room for a full reply ends the episode as `Stop.OVERLONG`.
        open_session: Opens the environment; by default in this process, on its event loop.
        sample: Index of this trial among the task's trials.
        seed: Seed of sampling, which each request's seed follows from; a retry draws the same ones.
    """
    for retry in range(config.retries + 1):
        player = _Player(task, agent, policy, chat, config, max_new_tokens, max_length, open_session, seed)
        failure = None
        episodes: tuple[Episode, ...] = ()
        try:
            episodes = await player.play()
        except TrialError as error:
            failure = error.failure
        finally:
            await player.close()
        if failure is None or retry == config.retries:
            return Trial(
                task, episodes, failure, sample, seed, retry, player.environment_seconds, player.generation_seconds
            )
    raise AssertionError("unreachable: the last retry returns")


class _Player:
    """The state of one run through a trial."""

    def __init__(
        self,
        task: Task,
        agent: Agent,
        policy: Policy,
        chat: Chat,
        config: LamerConfig,
        max_new_tokens: int,
        max_length: int,
        open_session: OpenSession,
        seed: int | None,
    ) -> None:
        self._task, self._agent, self._policy, self._chat, self._config = task, agent, policy, chat, config
        self._max_turns = config.max_turns or agent.max_turns
        self._max_new_tokens, self._room = max_new_tokens, max_length - max_new_tokens
        self._context = Context(config.context, chat)
        self._open_session = open_session
        self._session: Session | None = None
        self._seeds = None if seed is None else random.Random(seed)
        self.environment_seconds = 0.0
        self.generation_seconds = 0.0

    async def play(self) -> tuple[Episode, ...]:
        """All episodes in order, up to the last one that success, their number or the budget of turns allows."""
        config = self._config
        self._session = session = await self._guard("make", self._open())
        episodes: list[Episode] = []
        for number in range(config.num_episodes):
            opening = await self._guard("reset", self._reset(session))
            episode = await self._episode(session, opening, episodes)
            if episode is None:
                break
            last = number == config.num_episodes - 1 or self._budget_left([*episodes, episode]) == 0
            last = last or (episode.won and config.stop_on_success)
            if not last and config.reflects and (config.reflect_on_success or not episode.won):
                episode = await self._reflect(session, opening, episode, number)
            episodes.append(episode)
            if last:
                break
        if not episodes:
            raise TrialError(FailureKind.OVERLONG, "render", ValueError("the first prompt leaves no room for a reply"))
        return tuple(episodes)

    def _budget_left(self, episodes: list[Episode]) -> int | None:
        """Play turns that the trial has left after `episodes`; None without a budget."""
        budget = self._config.turn_budget
        return None if budget is None else budget - sum(len(episode.turns) for episode in episodes)

    async def _open(self) -> Session:
        config, task = self._config, self._task
        make = await off_loop(  # the first one imports the environment
            lambda: self._agent.env_factory(task, reward=config.reward, options=config.env_options), config.env_timeout
        )
        return await self._open_session(make)

    async def _episode(self, session: Session, opening: Opening, earlier: list[Episode]) -> Episode | None:
        """One attempt from the initial state; None if not even its first prompt fits."""
        observation = initial = opening.observation
        anchor = opening.anchor
        turns: list[Turn] = []
        budget = self._budget_left(earlier)
        limit = self._max_turns if budget is None else min(self._max_turns, budget)
        stop = Stop.MAX_TURNS if limit == self._max_turns else Stop.BUDGET
        while len(turns) < limit:
            continuing = self._context.continues(episode_begins=not turns)
            prompt = await self._prompt(
                continuing,
                lambda continuing=continuing, observation=observation: self._agent.play_message(
                    continuing=continuing,
                    env=opening.facts,
                    initial=initial,
                    memory=recall(earlier, self._config.memory),
                    turns=turns,
                    observation=observation,
                    episode=len(earlier),
                    num_episodes=self._config.num_episodes,
                    turns_left=limit - len(turns),
                    budget_left=None if budget is None else budget - len(turns),
                    ended=untold(earlier, self._config.stop_on_success),
                    thinking=self._chat.thinking,
                ),
            )
            if prompt is None:
                stop = Stop.OVERLONG
                break
            reply, read = await self._generate(prompt, Phase.PLAY, session, len(earlier))
            action = parse_tag(read.answer or "", "action")
            before, step = anchor, None
            if action is not None:
                step, anchor = await self._guard("step", self._step(session, action))
            turns.append(
                Turn(
                    phase=Phase.PLAY,
                    episode=len(earlier),
                    index=len(turns),
                    prompt_ids=prompt,
                    sampled_ids=reply.ids,
                    logprobs=reply.logprobs,
                    text=read.text,
                    action=self._kept(action, ACTION_LIMIT),
                    valid=step is not None and step.valid,
                    reward=self._reward(opening, step),
                    anchor=before,
                    observation=observation.text,
                    truncated=reply.truncated,
                    played=None if step is None else step.action,
                    thought_tokens=read.thought_tokens,
                    unclosed=read.unclosed,
                )
            )
            if step is not None:
                observation = step.observation
                if step.terminated or step.truncated:
                    stop = Stop.WON if step.won else Stop.LOST if step.terminated else Stop.CAPPED
                    break
        return Episode(tuple(turns), stop, observation.text) if turns else None

    async def _reflect(self, session: Session, opening: Opening, episode: Episode, number: int) -> Episode:
        """The episode with the model's reflection on it, if the prompt for one fits."""
        continuing = self._context.continues(episode_begins=False)
        initial = Observation(episode.turns[0].observation)
        prompt = await self._prompt(
            continuing,
            lambda: self._agent.reflect_message(
                continuing=continuing,
                env=opening.facts,
                initial=initial,
                turns=episode.turns,
                observation=Observation(episode.final_observation),
                stop=episode.stop,
                episode=number,
                num_episodes=self._config.num_episodes,
                thinking=self._chat.thinking,
            ),
        )
        if prompt is None:
            return episode
        reply, read = await self._generate(prompt, Phase.REFLECT, session, number)
        remark = parse_tag(read.answer or "", "remark") or None
        reflection = Turn(
            phase=Phase.REFLECT,
            episode=number,
            index=len(episode.turns),
            prompt_ids=prompt,
            sampled_ids=reply.ids,
            logprobs=reply.logprobs,
            text=read.text,
            action=self._kept(remark, REMARK_LIMIT),
            valid=remark is not None,
            reward=0.0 if remark is not None else -self._config.invalid_penalty,
            anchor="",
            observation=episode.final_observation,
            truncated=reply.truncated,
            thought_tokens=read.thought_tokens,
            unclosed=read.unclosed,
        )
        return Episode(episode.turns, episode.stop, episode.final_observation, reflection)

    async def close(self) -> None:
        """Give the environment back; an error in doing so is ignored."""
        if self._session is not None:
            with contextlib.suppress(Exception):
                await self._session.close()

    def _reward(self, opening: Opening, step: Step | None) -> float:
        """Reward of a turn: the environment's, less the penalty for an invalid action."""
        if step is None:
            return -self._config.invalid_penalty
        charged = not step.valid and not opening.penalises_invalid
        return step.reward - self._config.invalid_penalty * charged

    async def _prompt(self, continuing: bool, render: Callable[[], str]) -> tuple[int, ...] | None:
        """Ids of the next prompt; None if they leave no room for a reply."""
        try:
            prompt = await off_loop(
                lambda: self._context.prompt(render(), continuing=continuing), self._config.env_timeout
            )
        except TimeoutError as error:
            raise TrialError(FailureKind.PROMPT_TIMEOUT, "render", error) from error
        except Exception as error:
            raise TrialError(FailureKind.PROMPT, "render", error) from error
        return prompt if len(prompt) <= self._room else None

    async def _generate(
        self, prompt: tuple[int, ...], phase: Phase, session: Session, episode: int
    ) -> tuple[Generation, Reading]:
        """A reply to `prompt`, as it was sampled and as it was read."""
        began = time.perf_counter()
        seed = None if self._seeds is None else self._seeds.getrandbits(31)
        request = Request(prompt, self._max_new_tokens, phase, session.env, seed, episode)
        asked = asyncio.ensure_future(self._policy.generate(request))
        try:
            # Not `wait_for`: it would go on waiting for an engine that ignores cancellation.
            await asyncio.wait({asked}, timeout=self._config.timeout)
            if not asked.done():
                raise TimeoutError(f"no reply within {self._config.timeout:g} s")
            reply = asked.result()
            read = self._chat.read(reply.ids)
        except TimeoutError as error:
            raise TrialError(FailureKind.ENGINE_TIMEOUT, "generate", error) from error
        except EngineGoneError:
            raise
        except Exception as error:
            raise TrialError(FailureKind.ENGINE, "generate", error) from error
        finally:
            asked.cancel()
            self.generation_seconds += time.perf_counter() - began
        self._context.replied(prompt, reply.ids)
        return reply, read

    async def _reset(self, session: Session) -> Opening:
        """Begin an episode; its texts are cleaned for prompts."""
        opening = await session.reset(self._task)
        _check_anchor(opening.anchor)
        facts = {name: self._clean(value) for name, value in opening.facts.items()}
        return replace(opening, observation=self._clean_observation(opening.observation), facts=facts)

    async def _step(self, session: Session, action: str) -> tuple[Step, str]:
        """Play an action; its texts are cleaned for prompts, and its reward is finite."""
        step, anchor = await session.step(action)
        _check_anchor(anchor)
        if not math.isfinite(step.reward):
            raise ValueError(f"the environment paid {step.reward}, which is no reward")
        observation = self._clean_observation(step.observation)
        return replace(step, observation=observation, action=self._kept(step.action, ACTION_LIMIT)), anchor

    async def _guard(self, stage: str, call: Awaitable[T]) -> T:
        """Wait for the environment; its errors become the trial's failure."""
        began = time.perf_counter()
        try:
            return await call
        except TimeoutError as error:
            raise TrialError(FailureKind.ENVIRONMENT_TIMEOUT, stage, error) from error
        except Exception as error:
            raise TrialError(FailureKind.ENVIRONMENT, stage, error) from error
        finally:
            self.environment_seconds += time.perf_counter() - began

    def _kept(self, text: str | None, limit: int) -> str | None:
        """An action or a remark as it is recorded: clean, and cut to the length that prompts have room for."""
        return None if text is None else shorten(self._chat.clean(text), limit)

    def _clean_observation(self, observation: Observation) -> Observation:
        clean = self._chat.clean
        return Observation(clean(observation.text), tuple(clean(action) for action in observation.admissible))

    def _clean(self, fact: Any) -> Any:
        """A plain value with the texts in it cleaned."""
        if isinstance(fact, str):
            return self._chat.clean(fact)
        if isinstance(fact, Mapping):
            return {self._clean(name): self._clean(value) for name, value in fact.items()}
        if isinstance(fact, (list, tuple)):
            return [self._clean(value) for value in fact]
        return fact


def _check_anchor(anchor: str) -> None:
    if not isinstance(anchor, str):
        raise TypeError(f"the environment's anchor is a {type(anchor).__name__}, not a str")
