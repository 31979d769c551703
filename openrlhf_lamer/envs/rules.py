"""Rules of the contract of `TextEnv`, each with the check that tries it on an environment.

A check raises `BrokenError`. The first line of its docstring is the rule, as messages name it.
"""

from __future__ import annotations

import inspect
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from openrlhf_lamer.envs.base import EpisodeOverError, Observation, Step, TextEnv, draw_action
from openrlhf_lamer.envs.probing import (
    BrokenError,
    Subject,
    UnreadableError,
    differences,
    different,
    equal,
    kind,
    over,
    raw_step,
    read_observation,
    read_step,
    require,
    reset,
    short,
    step,
    where,
)
from openrlhf_lamer.records import Task

SPELLINGS: Sequence[Callable[[str], str]] = (
    str,
    str.upper,
    lambda action: f" {action} ",
    lambda action: action.replace(" ", ""),
    lambda action: action.replace(" ", "  "),
)
"""Other ways to write an action. An environment may read them as the same action, as another one, or refuse them."""

ENOUGH = 20
"""An episode that does not end is given up after this many times the steps of a check."""


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
        check: Function that tries it.
        remedy: What to do where it is broken.
    """

    check: Callable[[Subject], None]
    remedy: str

    @property
    def name(self) -> str:
        """Name of its check."""
        return self.check.__name__

    @property
    def text(self) -> str:
        """The rule in a sentence."""
        return (inspect.getdoc(self.check) or "").partition("\n")[0]


def takes_a_reward_scheme(subject: Subject) -> None:
    """The constructor takes `reward`, which every training and evaluation gives."""
    takes = inspect.signature(subject.build).parameters
    require(
        "reward" in takes or any(each.kind is each.VAR_KEYWORD for each in takes.values()),
        f"the constructor takes {', '.join(takes) or 'nothing'}, and not reward",
    )


def same_task_same_state(subject: Subject) -> None:
    """Two instances begin a task in the same state."""
    for task, one, other in subject.twins():
        equal("observations after reset", reset(one, task), reset(other, task), task)
        equal("anchors after reset", one.anchor(), other.anchor(), task)


def twins_agree(subject: Subject) -> None:
    """Two instances given the same actions answer the same, step for step."""
    for task, one, other in subject.twins():
        rng = random.Random(subject.seed)
        observation = reset(one, task)
        reset(other, task)
        for _ in range(subject.steps):
            action = subject.action(one, observation, rng)
            answer = step(one, action)
            equal(f"answers to {action!r}", answer, step(other, action), task)
            equal(f"anchors after {action!r}", one.anchor(), other.anchor(), task)
            observation = answer.observation
            if over(answer):
                observation = reset(one, task)
                equal("observations after a later reset", observation, reset(other, task), task)


def reset_restores(subject: Subject) -> None:
    """After some play, or another task in between, `reset` leads back to the same state."""
    for number, task in enumerate(subject.tasks):
        between = subject.tasks[number - 1]
        with subject.opened() as env:
            first, anchor = reset(env, task), env.anchor()
            opening = subject.play(env, first)
            for again in (task, between):
                subject.play(env, reset(env, again))
                equal("observations of first and later resets", first, reset(env, task), task)
                equal("anchors of first and later resets", anchor, env.anchor(), task)
            equal("answers in a first and a later episode", opening, subject.play(env, reset(env, task)), task)


def offers_actions(subject: Subject) -> None:
    """It lists possible actions with its observations, or draws one in `random_action`."""
    for task in subject.tasks:
        with subject.opened() as env:
            observation = reset(env, task)
            try:
                action = draw_action(env, observation, random.Random(subject.seed))
            except NotImplementedError:
                listed = observation.admissible
                raise BrokenError(f"Observation.admissible is {listed!r}, and there is no random_action") from None
            require(isinstance(action, str), f"random_action drew {kind(action)}, not a text")


def types_are_right(subject: Subject) -> None:
    """Observations, steps and anchors have the types they are declared with, and finite rewards."""
    wrong: dict[str, str] = {}  # each once, even if its value differs at another step
    for task in subject.tasks:
        with subject.opened() as env:
            try:
                for what, message in _wrong_types(env, subject, task):
                    wrong.setdefault(what, message)
            except (BrokenError, UnreadableError):
                pass  # other rules report an error in a step, and unreadable answers were reported above
    if wrong:
        raise BrokenError("\n".join(wrong.values()))


def _wrong_types(env: TextEnv, subject: Subject, task: Task) -> Iterator[tuple[str, str]]:
    """Parts that have a wrong type in the course of an episode, each with a message."""
    rng = random.Random(subject.seed)
    first: Any = env.reset(task)
    if not isinstance(first, Observation):
        yield "reset", f"reset returned {kind(first)}, not an Observation"
    observation = read_observation(first)
    yield from _observation_types(observation)
    if not isinstance(env.anchor(), str) or not env.anchor():
        yield "anchor", f"anchor is {kind(env.anchor())}, not a text"
    if not isinstance(env.penalises_invalid, bool):
        yield "penalises_invalid", f"penalises_invalid is {kind(env.penalises_invalid)}, not a bool"
    for _ in range(subject.steps):
        raw = raw_step(env, subject.action(env, observation, rng))
        if not isinstance(raw, Step):
            yield "step", f"step returned {kind(raw)}, not a Step"
        elif not isinstance(raw.observation, Observation):
            yield "Step.observation", f"Step.observation is {kind(raw.observation)}, not an Observation"
        answer = read_step(raw)
        yield from _step_types(answer)
        observation = answer.observation
        if over(answer):
            break


def _observation_types(observation: Observation) -> Iterator[tuple[str, str]]:
    if not isinstance(observation.text, str):
        yield "text", f"Observation.text is {kind(observation.text)}, not a text"
    listed: Any = observation.admissible
    if not (isinstance(listed, tuple) and all(isinstance(each, str) for each in listed)):
        yield "admissible", f"Observation.admissible is {kind(listed)}, not a tuple of texts"


def _step_types(answer: Step) -> Iterator[tuple[str, str]]:
    yield from _observation_types(answer.observation)
    for field in ("terminated", "truncated", "won", "valid"):
        if not isinstance(getattr(answer, field), bool):
            yield field, f"Step.{field} is {kind(getattr(answer, field))}, not a bool"
    if not (isinstance(answer.reward, float) and math.isfinite(answer.reward)):
        yield "reward", f"Step.reward is {kind(answer.reward)}, not a finite float"
    if answer.won and not answer.terminated:
        yield "win", f"a step has won={answer.won!r} and terminated={answer.terminated!r}: a win ends an episode"
    if answer.won and not answer.valid:
        yield "refused win", f"a step has won={answer.won!r} and valid={answer.valid!r}: a refused action wins nothing"
    if answer.action is not None and not isinstance(answer.action, str):
        yield "action", f"Step.action is {kind(answer.action)}, neither a text nor None"
    if answer.action is not None and not answer.valid:
        yield "refused", f"a step has valid=False and action={answer.action!r}: a refused action did nothing"
    try:
        json.dumps(dict(answer.info))
    except (TypeError, ValueError) as error:
        yield "info", f"Step.info is {kind(answer.info)}, which cannot be written as JSON: {error}"


def equal_anchors_are_equal_states(subject: Subject) -> None:
    """States with one anchor answer the same action in the same way, and lead to one anchor again.

    This finds an anchor that leaves out part of the state, even a part that no observation shows.
    A count of steps, for the environment's step limit, need not be part of the anchor.
    """
    found: list[str] = []  # each part that an anchor leaves out shows in different values
    shown: set[str] = set()
    for task in subject.tasks:
        rng = random.Random(subject.seed)
        answers: dict[tuple[str, str], tuple[Step, str]] = {}
        with subject.opened() as env:
            # A few actions are tried again and again, so that states with one anchor meet the same ones.
            observation = reset(env, task)
            favourites = [subject.action(env, observation, rng) for _ in range(4)]
            ended = False
            for number in range(4 * subject.steps):
                if ended or number % subject.steps == 0:
                    observation = reset(env, task)
                anchor = env.anchor()
                action = rng.choice(favourites) if rng.random() < 0.5 else subject.action(env, observation, rng)
                made = step(env, action)
                observation, ended = made.observation, over(made)
                if made.truncated:
                    continue
                answer = (replace(made, info={}), env.anchor())
                known = answers.setdefault((anchor, action), answer)
                what = f"two states with the anchor {short(anchor)}, in each of which {action!r} is played,"
                places = {line.partition(":")[0] for line in differences(known[0], answer[0])}
                places |= {"anchor"} if known[1] != answer[1] else set()
                if not places <= shown:
                    shown |= places
                    found.append(different(f"answers in {what}", known[0], answer[0], task))
                    found.append(different(f"anchors after {what}", known[1], answer[1], task))
    if any(found):
        raise BrokenError("\n".join(filter(None, found)))


def normal_actions_do_the_same(subject: Subject) -> None:
    """`Step.action` as an action does what the typed one did, so actions with one normal form do the same."""
    for task, one, other in subject.twins():
        rng = random.Random(subject.seed)
        observation = reset(one, task)
        reset(other, task)
        for _ in range(subject.steps):
            action = rng.choice(SPELLINGS)(subject.action(one, observation, rng))
            answer = step(one, action)
            normal = action if answer.action is None else answer.action
            equal(f"answers to {action!r} and to its normal form {normal!r}", answer, step(other, normal), task)
            equal(f"anchors after {action!r} and after its normal form {normal!r}", one.anchor(), other.anchor(), task)
            observation = answer.observation
            if over(answer):
                observation = reset(one, task)
                reset(other, task)


def invalid_action_changes_nothing(subject: Subject) -> None:
    """A refused action leaves the state as it was, ends nothing and is answered the same again."""
    invalid = subject.invalid_action
    for task, one, other in subject.twins():
        rng = random.Random(subject.seed)
        observation = reset(one, task)
        reset(other, task)
        for _ in range(subject.steps):
            anchor = one.anchor()
            refused = step(one, invalid)
            if refused.valid:
                break  # a free-text environment may take anything
            require(
                not over(refused),
                f"a refused action, {invalid!r}, ended the episode: terminated={refused.terminated!r}, "
                f"truncated={refused.truncated!r}",
            )
            why = one.why_refused(invalid)
            require(isinstance(why, str), f"why_refused({invalid!r}) returned {kind(why)}, not a text")
            equal(f"anchors before and after a refused action, {invalid!r},", anchor, one.anchor(), task)
            equal(f"answers to an action refused twice, {invalid!r},", refused, step(one, invalid), task)
            action = subject.action(other, observation, rng)
            answer = step(one, action)
            what = f"answers to {action!r} with and without a refused action before"
            equal(what, answer, step(other, action), task)
            observation = answer.observation
            if over(answer):
                break


def no_step_before_reset(subject: Subject) -> None:
    """Before `reset`, `step` raises `EpisodeOverError`."""
    with subject.opened() as env:
        _refuses_step(env, subject.invalid_action, "before reset")


def no_step_after_the_end(subject: Subject) -> None:
    """After the end of an episode, `step` raises `EpisodeOverError`; `reset` begins again."""
    for task in subject.tasks:
        with subject.opened() as env:
            rng = random.Random(subject.seed)
            observation = reset(env, task)
            for _ in range(ENOUGH * subject.steps):
                action = env.oracle() or subject.action(env, observation, rng)
                answer = step(env, action)
                observation = answer.observation
                if over(answer):
                    _refuses_step(env, action, "after the end of an episode")
                    reset(env, task)
                    step(env, action)
                    break


def _refuses_step(env: TextEnv, action: str, when: str) -> None:
    try:
        answer = env.step(action)
    except EpisodeOverError:
        return
    except Exception as error:
        raise BrokenError(f"step {when} raised {error!r}, {where(error)}, not EpisodeOverError") from error
    raise BrokenError(f"step {when} returned {short(answer)}, and raised no EpisodeOverError")


def rewards_within_bounds(subject: Subject) -> None:
    """No episode pays more or less than `reward_bounds` says for its number of turns."""
    for task in subject.tasks:
        with subject.opened() as env:
            for pick in (lambda: None, env.oracle):
                rng = random.Random(subject.seed)
                observation = reset(env, task)
                total = 0.0
                for turn in range(1, subject.steps + 1):
                    answer = step(env, pick() or subject.action(env, observation, rng))
                    observation = answer.observation
                    total += answer.reward
                    low, high = env.reward_bounds(turn)
                    require(
                        low - 1e-6 <= total <= high + 1e-6,
                        f"an episode of {turn} turns paid {total:g} in task {task.id}; "
                        f"reward_bounds({turn}) is {(low, high)}",
                    )
                    if over(answer):
                        break


def no_state_is_longer_than_the_long_ones(subject: Subject) -> None:
    """No observation is longer than the longest of `long_states`, so prompts get the room they need."""
    for task in subject.tasks:
        with subject.opened() as env:
            first = reset(env, task)
            longest = max(map(_length, env.long_states()))
            for observation in (first, *(answer.observation for answer in subject.play(env, first))):
                require(
                    _length(observation) <= longest,
                    f"an observation of {_length(observation)} characters with its actions in task {task.id}, but the "
                    f"longest of long_states has {longest}",
                )


def _length(observation: Observation) -> int:
    return len("\n".join((observation.text, *observation.admissible)))


_DRAW = "draw what is random from generator(...) of your options and task.seed, and set everything in reset"

RULES: tuple[Rule, ...] = (
    Rule(takes_a_reward_scheme, 'add reward="sparse" to __init__, and call super().__init__(reward)'),
    Rule(same_task_same_state, _DRAW),
    Rule(twins_agree, _DRAW),
    Rule(reset_restores, _DRAW),
    Rule(offers_actions, "write random_action(rng), or list the actions in Observation(text, actions)"),
    Rule(types_are_right, "return Observation(text, actions), and Step(...) with bool(...) and float(...) values"),
    Rule(equal_anchors_are_equal_states, "put into anchor everything that later answers depend on, hidden or not"),
    Rule(normal_actions_do_the_same, "give Step.action only where step takes it for the same, or leave it out"),
    Rule(
        invalid_action_changes_nothing,
        "look at the action first; where you refuse it, return Step(..., valid=False) with the present state",
    ),
    Rule(no_step_before_reset, "set a flag in __init__ that step looks at first, and raise EpisodeOverError"),
    Rule(no_step_after_the_end, "set a flag at the end that step looks at first, and raise EpisodeOverError"),
    Rule(rewards_within_bounds, "let reward_bounds return the least and most that max_turns turns can pay together"),
    Rule(no_state_is_longer_than_the_long_ones, "let long_states return states as long as they get"),
)
"""Rules that `check_env` tries, in this order."""
