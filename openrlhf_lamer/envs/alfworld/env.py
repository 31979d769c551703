"""ALFWorld: do household tasks in a house of text."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from openrlhf_lamer.doctor import Check, Verdict, error, ok, told, warning
from openrlhf_lamer.envs.alfworld import catalogue, games, generator, wheel
from openrlhf_lamer.envs.base import SUCCESS_REWARD, EpisodeOverError, Observation, Step, TaskError, TextEnv
from openrlhf_lamer.envs.seeding import choose
from openrlhf_lamer.records import Task
from openrlhf_lamer.tasks import SEEDS
from openrlhf_lamer.vocabulary import RewardScheme

HELP = "help"

ASKED = "Your task is to: "
"""Words before the request in a game's opening."""

OFFICIAL_SPLITS = {"official_train": "train", "valid_seen": "valid_seen", "valid_unseen": "valid_unseen"}
"""Splits of the official data, and their folders; "train" is the range of seeds that all environments have."""


class AlfWorld(TextEnv):
    """Find things in a house, treat them, and put them where they are wanted.

    Description:
        TextWorld's engine with ALFWorld's rules and sentences. A room has receptacles (cabinets,
        a fridge, a desk), some of them closed, with things in or on them; one thing can be
        carried. There are six types of task: put a thing somewhere, look at one under a lamp,
        put a cleaned, heated or cooled one somewhere, and put two of a kind somewhere.

    Actions:
        One command, as listed in the observation's `admissible`, such as `go to fridge 1`,
        `open fridge 1`, `take apple 1 from fridge 1`, `heat apple 1 with microwave 1`, `move apple 1
        to desk 1`, `use desklamp 1`, `examine book 2`, `inventory`, `look`; capitals and spaces
        do not matter. `help` is accepted though not listed. Anything else is answered
        "Nothing happens." and refused.

    Observation:
        The engine's answer to the command; at the start the room's receptacles and the task.

    Rewards:
        sparse: 10 for the command that fulfils the task, else 0.
        shaped: the same; the engine knows no partial success.

    Termination:
        The task is fulfilled (won). `max_steps` accepted commands without that truncate the episode.

    Options:
        task_types: Types that a seed's game is drawn from: "id" (put, look, clean, heat, which the paper trains
            on), "ood" (cool, two), "all", or names of task types, in a sequence or with commas between.
        max_steps: Commands in an episode, 1 to 1000.
        reward: "sparse" or "shaped".

    A task with a seed is a generated game, made when it is first asked for and kept on disk, see
    `storage.folder`. A task's spec is `{"game": "valid_seen/pick_.../trial_...", "sha256": "..."}`: a
    game of any type in the official data under `$ALFWORLD_DATA/json_2.1.1`, and the digest of its
    `game.tw-pddl`, which may be left out.

    An instance is not thread-safe, but several may live in one process, each driven by one thread
    at a time. It holds 3 to 8 MB of the planner until `close`.
    """

    name = "alfworld"
    slow = True
    splits = (*SEEDS, *OFFICIAL_SPLITS)
    holds_out = False  # every seed draws where dozens of things lie
    difficulties = ({"task_types": "id"}, {"task_types": "ood"})

    @classmethod
    def tasks(
        cls, split: str, num: int | None = None, *, first: int = 0, options: Mapping[str, Any] | None = None
    ) -> list[Task]:
        """Tasks number `first` to `first + num` of a split: a range of seeds, or official games by name.

        Args:
            split: "train" or "eval" for generated games; "official_train", "valid_seen" or "valid_unseen".
            num: Number of tasks; None for all official games, or for 128 seeds.
            first: Number of the first one.
            options: Options of the environment that belong to the tasks. Without `task_types` among them,
                official games are of all types.

        Raises:
            TaskError: There is no such split, it has fewer tasks, or its data is missing or incomplete.
        """
        if split not in OFFICIAL_SPLITS:
            return super().tasks(split, num, first=first, options=options)
        options = dict(options or {})
        found = catalogue.official_tasks(OFFICIAL_SPLITS[split], options.get("task_types", "all"))
        num = len(found) - first if num is None else num
        if num < 1 or first < 0 or first + num > len(found):
            raise TaskError(
                f"alfworld: {split} has {len(found)} tasks; {num} from number {first} on are not among them"
            )
        return [replace(task, options=options, split=split) for task in found[first : first + num]]

    @classmethod
    def data_check(cls) -> Check:
        """State of the official games in the folder that ALFWORLD_DATA names; generated ones need no data.

        Games are counted, not read: `openrlhf-lamer prepare alfworld` does that.
        """
        name, data = "ALFWorld's data", os.environ.get(catalogue.VARIABLE)
        try:
            wheel.require()
        except TaskError as problem:
            return told(name, Verdict.WARNING, problem)
        if not data:
            return ok(name, f"{catalogue.VARIABLE} is not set: generated games, which need no data")
        folder = Path(data) / catalogue.FOLDER
        download = f"{catalogue.DOWNLOAD} --data-dir {data}, then openrlhf-lamer prepare alfworld --data {data}"
        if not folder.is_dir():
            return error(name, f"{catalogue.VARIABLE}={data} holds no folder {catalogue.FOLDER}", download)
        counts = {split: _games(split, folder) for split in catalogue.COUNTS}
        official = {split: sum(types.values()) for split, types in catalogue.COUNTS.items()}
        # The download also has unsolvable games, which only reading would reveal: there may be more files than games.
        short = [f"{split} {count} of {official[split]}" for split, count in counts.items() if count < official[split]]
        if not any(counts.values()):
            return error(name, f"no games in {folder}", download)
        if short:
            return warning(name, f"{folder} lacks games: {', '.join(short)}", download)
        return ok(name, f"{folder}: {', '.join(f'{count} {split}' for split, count in counts.items())}")

    @classmethod
    def prepare_command(cls) -> Callable[..., None]:
        """Command that checks official games, and makes generated ones ahead of time."""
        from openrlhf_lamer.envs.alfworld.command import alfworld

        return alfworld

    def __init__(
        self, task_types: str | Sequence[str] = "id", max_steps: int = 50, reward: RewardScheme = "sparse"
    ) -> None:
        super().__init__(reward)
        self.task_types = catalogue.family(task_types)
        self.max_steps = self._whole("max_steps", max_steps, 1, 1000)
        wheel.require()
        self._play: games.Play | None = None
        self._task: Task | None = None
        self._asked = ""
        self._over = True

    def reset(self, task: Task) -> Observation:
        """Begin an episode: the game of the task's seed, or the official one its spec names."""
        self._over = True
        if "task_types" in task.options:
            normal = catalogue.family(task.options["task_types"])
            self._check_task(replace(task, options={**task.options, "task_types": normal}))
        else:
            self._check_task(task)
        if task != self._task:  # the later episodes of a trial need no new game
            self._task = None
            self._game = self._load(task)
            self._task = task
        if self._play is None:
            self._play = games.Play()
        text = self._play.begin(self._game)
        self._plan = {self._play.anchor: 0}
        self._steps = 0
        self._over = False
        self._asked = text.rpartition(ASKED)[2].strip()
        return self._observe(self._play, text)

    def step(self, action: str) -> Step:
        """Carry out one command, as in `take apple 1 from fridge 1`."""
        if self._over or self._play is None:
            raise EpisodeOverError("alfworld: no episode is running; call reset first")
        command = " ".join(action.lower().split())
        planned = self._plan.get(self._play.anchor)
        answer = self._play.do(command)
        won = False
        if answer is not None:
            self._steps += 1
            won = self._play.won
            if planned is not None and command == self._planned(planned):
                self._plan[self._play.anchor] = planned + 1
            self._over = won or self._steps == self.max_steps
        return Step(
            observation=self._observe(self._play, games.NOTHING_HAPPENS if answer is None else answer),
            reward=SUCCESS_REWARD * won,
            terminated=won,
            truncated=self._over and not won,
            won=won,
            valid=answer is not None,
            action=None if answer is None else command,
        )

    def anchor(self) -> str:
        """Digest of the game and of all facts that matter in its state, but not of the commands so far."""
        assert self._play is not None
        return self._play.anchor

    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        """Nothing, or the success reward."""
        return 0.0, SUCCESS_REWARD

    def long_states(self) -> tuple[Observation, ...]:
        """A large room, in which 70 commands are possible, and a receptacle that holds much."""
        places = [f"{kind} {number}" for kind in ("cabinet", "countertop", "drawer", "shelf") for number in range(14)]
        things = [f"{kind} {number}" for kind in ("butterknife", "saltshaker", "tomato") for number in range(4)]
        here = places[-1]
        goings, takings = (f"go to {place}" for place in places), (f"take {thing} from {here}" for thing in things)
        admissible = (*goings, *takings, "inventory", "look")
        room = f"You are in the middle of a room. Looking quickly around you, you see a {', a '.join(places)}."
        task = "Your task is to: put a clean butterknife in countertop."
        return (
            Observation(f"-= Welcome to TextWorld, ALFRED! =-\n\n{room}\n\n{task}", admissible),
            Observation(f"You arrive at {here}. On the {here}, you see a {', a '.join(things)}.", admissible),
        )

    def oracle(self) -> str | None:
        """The next command of the game's walkthrough; None off its path and where the game has none."""
        if self._over or self._play is None:
            return None
        planned = self._plan.get(self._play.anchor)
        return None if planned is None else self._planned(planned)

    def wanted(self) -> str:
        """The request in the opening."""
        return self._asked

    def random_action(self, rng: Any) -> str:
        """Any admissible command."""
        assert self._play is not None
        return choose(rng, self._play.commands)

    def close(self) -> None:
        """Let another instance use this one's copy of the planner."""
        if self._play is not None:
            self._play.close()
        self._play = None
        self._over = True

    def _load(self, task: Task) -> games.Game:
        if task.spec is None:
            assert task.seed is not None
            return generator.game(task.seed, self.task_types)
        content = catalogue.official_content(task.spec)
        try:
            return games.compiled(content)
        except games.GameError as error:
            path = catalogue.official_folder() / str(task.spec["game"]) / catalogue.FILE
            raise TaskError(f"alfworld: {path}: {error}; run `{catalogue.DOWNLOAD}`") from error

    def _observe(self, play: games.Play, text: str) -> Observation:
        return Observation(text, tuple(command for command in play.commands if command != HELP))

    def _planned(self, number: int) -> str | None:
        walkthrough = self._game.walkthrough
        return walkthrough[number] if number < len(walkthrough) else None


def _games(split: str, folder: Path) -> int:
    try:
        return len(catalogue.official_names(split, folder=folder))
    except TaskError:  # none
        return 0
