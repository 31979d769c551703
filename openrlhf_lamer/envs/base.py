"""Contract of an environment: text in, text out, deterministic in its task.

The registry finds built-in environments by name and those of other packages
through the entry-point group `openrlhf_lamer.envs`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from openrlhf_lamer import LamerError
from openrlhf_lamer.envs.mistakes import Played, mentions_text, played_as_text
from openrlhf_lamer.envs.seeding import choose
from openrlhf_lamer.records import Episode, Task
from openrlhf_lamer.splits import split_tasks
from openrlhf_lamer.tasks import SEEDS
from openrlhf_lamer.vocabulary import RewardScheme

if TYPE_CHECKING:
    from openrlhf_lamer.doctor import Check

SUCCESS_REWARD = 10.0


@dataclass(frozen=True, slots=True)
class Observation:
    """Text that the agent sees of the state, and the actions that it may take, where the environment lists them."""

    text: str
    admissible: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """Result of one action.

    Attributes:
        observation: The state after the action.
        reward: Payment under the environment's reward scheme, without the penalty for invalid actions, which the
            trial loop adds.
        terminated: The episode is over: won, lost or dead.
        truncated: The environment's own step limit ended the episode.
        won: The episode ended in success.
        valid: The environment accepted the action. A refused action changes nothing.
        info: Anything else worth recording, JSON-ready.
        action: The action in the environment's normal form: one text for all spellings, without parts that were not
            carried out. Played as an action it does the same. None if nothing was done, or if the environment has no
            normal form beyond the typed text.
    """

    observation: Observation
    reward: float
    terminated: bool
    truncated: bool
    won: bool
    valid: bool
    info: Mapping[str, Any] = field(default_factory=dict)
    action: str | None = None


class EpisodeOverError(LamerError, RuntimeError):
    """`step` was called before `reset` or after the episode ended."""


class TaskError(LamerError, ValueError):
    """A task that the environment cannot set up: a wrong spec, an unknown option."""


class TextEnv(ABC):
    """One environment; an instance plays one episode at a time.

    `reset` with the same task gives the same initial state on every machine, which is how
    the later episodes of a trial begin. Options of the constructor fix the difficulty.
    """

    name: ClassVar[str]
    """The name it is registered under."""
    slow: bool = False
    """Whether calls may take longer than a few milliseconds, hang or crash, or must all come from one thread.
    Then they run in another process while a model is trained. An instance may set it, where that depends on
    its options."""
    splits: ClassVar[Sequence[str]] = tuple(SEEDS)
    """Names of its task sets, as `tasks` takes them."""
    holds_out: ClassVar[bool] = True
    """Whether training leaves out seeds that begin in the state of an evaluation seed. False where no two seeds begin
    alike, and where they are meant to: if the start shows nothing of the hidden state, there is nothing to memorise.
    """
    difficulties: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
    """Options to check and measure it with, from easy to hard."""
    legend: ClassVar[str] = ""
    """A line that explains the signs of its observations to people who play; empty if observations are in words."""

    @classmethod
    def tasks(
        cls, split: str, num: int | None = None, *, first: int = 0, options: Mapping[str, Any] | None = None
    ) -> list[Task]:
        """Tasks number `first` to `first + num` of a split; the same on every machine, in the same order.

        By default a split is a range of seeds, without those whose initial state belongs to the other split, see
        `openrlhf_lamer.splits`. An environment that plays a data set overrides this along with `splits`, and gives
        the tasks of a split of its data in a fixed order.

        Args:
            split: One of `splits`.
            num: Number of tasks; None for all from `first` on. For a range of seeds, which has practically no end, None
                gives 128, or all if there are fewer.
            first: Number of the first one.
            options: Options of the environment that belong to the tasks.

        Raises:
            TaskError: There is no such split, it has fewer tasks, or its data is missing.
        """
        if split not in cls.splits:
            raise TaskError(f"{cls.name} has no split {split!r}; there are: {', '.join(cls.splits)}")
        try:
            return split_tasks(cls, split, num, first=first, options=options)
        except ValueError as error:
            raise TaskError(str(error)) from error

    @classmethod
    def played(cls, episode: Episode) -> Played:
        """Moves of a recorded episode and its mistake, for `openrlhf-lamer analyze`.

        By default the whole sequence of actions is one move: repeating it cannot turn out differently. A game in which
        a single move is to blame overrides this, and `mentions` where remarks name moves in other words.
        """
        return played_as_text(episode)

    @classmethod
    def mentions(cls, remark: str, action: str) -> bool:
        """Whether a remark names an action: the content of an action tag, or the `words` of a move."""
        return mentions_text(remark, action)

    @classmethod
    def data_check(cls) -> Check | None:
        """State of the data set that the user's variable names, for `openrlhf-lamer doctor`; None without data sets.

        It says which folder was looked at, what is missing there, and by which command to get it.
        """
        return None

    @classmethod
    def prepare_command(cls) -> Callable[..., None] | None:
        """Function that Typer runs as `openrlhf-lamer prepare NAME`; None where there is nothing to prepare.

        The command line shows an error of the package, such as `TaskError`, as a message.
        """
        return None

    def __init__(self, reward: RewardScheme = "sparse") -> None:
        if reward not in ("sparse", "shaped"):
            raise TaskError(f"{self.name}: reward is 'sparse' or 'shaped', not {reward!r}")
        self.reward = reward

    @property
    def penalises_invalid(self) -> bool:
        """Whether `step` itself charges for a refused action, so that the loop must not."""
        return False

    @property
    def beginnings(self) -> int | None:
        """Upper bound on the initial states that its seeds have under the present options; None if unknown."""
        return None

    @property
    def facts(self) -> Mapping[str, Any]:
        """Values that prompts may use as `env.<name>`: the options as they are in the present task.

        An environment that has more facts, or takes `**options`, overrides this. Facts are sent to another process,
        so they are small and plain.
        """
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters if hasattr(self, name)}

    def references(self, attempts: int, turns: int) -> Mapping[str, Sequence[float]]:
        """Success within 1 to `attempts` attempts of known players under the present options, by name.

        The first is called "optimum": no player of `attempts` attempts exceeds its last figure. Empty where no player
        is known.

        Args:
            attempts: Most attempts of a trial.
            turns: Turns of each attempt.
        """
        return {}

    @abstractmethod
    def reset(self, task: Task) -> Observation:
        """Begin an episode of `task`. Raises `TaskError` for a task it cannot set up."""

    @abstractmethod
    def step(self, action: str) -> Step:
        """Play the content of an action tag. Raises `EpisodeOverError` outside an episode."""

    @abstractmethod
    def anchor(self) -> str:
        """Key of the present state: equal for equal states, different for different ones."""

    @abstractmethod
    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        """Least and most reward of an episode of `max_turns` turns, without penalties."""

    def long_states(self) -> tuple[Observation, ...]:
        """The longest states of this environment, from which `room` computes the length of prompts.

        The first is an initial state. The others are the states of an attempt that reads much, and repeat in turn;
        without others, the first stands for every state. By default one text of some 400 tokens.
        """
        return (Observation("word " * 400),)

    def oracle(self) -> str | None:
        """A good next action from the present state, where one is known."""
        return None

    @property
    def found(self) -> str | None:
        """The oracle's action where the present observation shows what the game hides; None where nothing is shown."""
        return None

    def wanted(self) -> str:
        """The goal of the present task in a sentence, for people who play; empty where the rules say it all."""
        return ""

    def why_refused(self, action: str) -> str:
        """Why `step` refuses `action` in the present state, and what it would take; empty where nothing is known.

        For people who play. It changes nothing.
        """
        return ""

    def random_action(self, rng: Any) -> str:
        """A legal action drawn with `rng` (a `random.Random`), for tests and scripted players."""
        raise NotImplementedError(f"{self.name} offers no random actions")

    def _check_task(self, task: Task) -> None:
        """Refuse a task of another environment, or one with other options than this instance has.

        Options are looked up as attributes of the same name. Subclasses call it first in `reset`.
        """
        if task.env != self.name:
            raise TaskError(f"{self.name}: this is a task of {task.env!r}: {task.id}")
        for key, value in task.options.items():
            if not hasattr(self, key):
                raise TaskError(f"{self.name}: the task has an unknown option {key!r}: {task.id}")
            if getattr(self, key) != value:
                raise TaskError(
                    f"{self.name}: the task needs {key}={value!r}, but this environment was made with "
                    f"{key}={getattr(self, key)!r}; make it with the task's options"
                )

    def _whole(self, option: str, value: Any, low: int, high: int) -> int:
        """`value` if it is a whole number from `low` to `high`; raises `TaskError` otherwise."""
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise TaskError(f"{self.name}: {option} is a whole number from {low} to {high}, not {value!r}")
        return value

    def close(self) -> None:  # noqa: B027  (most environments hold nothing)
        """Release resources of the environment."""


def draw_action(env: TextEnv, observation: Observation, rng: Any) -> str:
    """A random action in the state that `observation` shows: one that `env` draws with `rng`, or a listed one.

    Raises NotImplementedError where `env` draws none and lists none.
    """
    try:
        return env.random_action(rng)
    except NotImplementedError:
        if not observation.admissible:
            raise
        return choose(rng, observation.admissible)
