"""The registry, `check_env` on every registered environment, and `check_env` on broken ones."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from openrlhf_lamer import envs
from openrlhf_lamer.envs import (
    CheckError,
    EpisodeOverError,
    Observation,
    Step,
    Task,
    TaskError,
    TextEnv,
    check_env,
    make,
    registry,
)
from openrlhf_lamer.envs.base import RewardScheme

NAMES = envs.names(plugins=False)
GENERATED = [name for name in NAMES if name in ("minesweeper", "sokoban")]


@pytest.mark.parametrize("reward", ["sparse", "shaped"])
@pytest.mark.parametrize("name", NAMES)
def test_every_environment_passes_every_check(name: str, reward: RewardScheme) -> None:
    check_env(name, reward=reward)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("minesweeper", {"size": 3, "mines": 7}),
        ("minesweeper", {"size": 10, "mines": 20}),
        ("sokoban", {"boxes": 5, "moves_per_turn": 1}),
        ("sokoban", {"size": 8, "boxes": 3}),
        ("sokoban", {"size": 10, "boxes": 5}),
    ],
)
def test_other_difficulties_pass_every_check(name: str, options: dict[str, Any]) -> None:
    check_env(name, reward="shaped", **options)


def test_importing_the_package_is_light() -> None:
    code = "import sys, openrlhf_lamer.envs as e; print(e.names(plugins=False), *sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydantic", "numpy", "jinja2", "torch", "ray", "openrlhf_lamer.envs.sokoban"} & set(loaded)


def test_levels_do_not_depend_on_the_hash_seed() -> None:
    code = (
        "from openrlhf_lamer.envs import Task, make\n"
        "difficulties = ('sokoban', {'boxes': 3}), ('sokoban', {'size': 10, 'boxes': 5}), ('minesweeper', {})\n"
        "for name, options in difficulties:\n"
        "    env = make(name, **options)\n"
        "    for seed in (-1, 0, 1, 2**70):\n"
        "        print(env.reset(Task(name, seed=seed)).text, env.anchor(), env.oracle())\n"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            encoding="utf-8",
            check=True,
        ).stdout
        for hash_seed in ("0", "1", "4711")
    }
    assert len(answers) == 1


class TestRegistry:
    def test_an_unknown_name_is_answered_with_a_guess_and_the_list(self) -> None:
        with pytest.raises(TaskError, match=r"'sokobann' \(did you mean 'sokoban'\?\); there are: .*minesweeper"):
            make("sokobann")

    @pytest.mark.parametrize("name", GENERATED)
    def test_an_unknown_option_is_named_with_those_there_are(self, name: str) -> None:
        with pytest.raises(
            TaskError, match=rf"{name} has no option 'sise' \(did you mean 'size'\?\); there are: size,"
        ):
            make(name, sise=6)

    @pytest.mark.parametrize(
        ("name", "option", "value"),
        [
            ("minesweeper", "size", 1),
            ("minesweeper", "size", "6"),
            ("minesweeper", "mines", 0),
            ("minesweeper", "mines", 35),
            ("minesweeper", "mines", True),
            ("minesweeper", "reward", "dense"),
            ("sokoban", "size", 5),
            ("sokoban", "boxes", 6),
            ("sokoban", "boxes", 2.0),
            ("sokoban", "max_moves", 20),
            ("sokoban", "moves_per_turn", 0),
            ("sokoban", "reward", "dense"),
        ],
    )
    def test_a_wrong_value_is_refused(self, name: str, option: str, value: Any) -> None:
        with pytest.raises(TaskError, match=f"{name}: {option} is .*{value!r}"):
            make(name, **{option: value})

    def test_register_makes_a_name_known_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry, "_known", dict(registry._known))
        envs.register("counter", Counter)
        envs.register("counter", Counter)
        assert isinstance(make("counter", goal=2), Counter)
        assert "counter" in envs.names()
        with pytest.raises(ValueError, match="registered already"):
            envs.register("sokoban", Counter)

    def test_a_plugin_is_loaded_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plugged(monkeypatch, "minefield", "openrlhf_lamer.envs.minesweeper:MineSweeper")
        assert "minefield" in envs.names()
        assert "minefield" not in envs.names(plugins=False)
        assert make("minefield").name == "minesweeper"

    @pytest.mark.parametrize("target", ["no_such_module_at_all:Env", "json:dumps"])
    def test_a_broken_plugin_is_a_warning_that_names_it(self, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
        plugged(monkeypatch, "broken", target)
        assert make("sokoban").name == "sokoban"
        with pytest.warns(RuntimeWarning, match=f"'broken'.*{target}"), pytest.raises(TaskError, match="'broken'"):
            make("broken")


class TestTasks:
    @pytest.mark.parametrize("name", GENERATED)
    def test_a_task_of_another_environment_is_refused(self, name: str) -> None:
        with pytest.raises(TaskError, match="a task of 'chess'"):
            make(name).reset(Task("chess", seed=1))

    def test_options_of_the_task_must_be_those_of_the_environment(self) -> None:
        make("minesweeper", mines=5).reset(Task("minesweeper", seed=1, options={"mines": 5}))
        with pytest.raises(TaskError, match="needs mines=5, but this environment was made with mines=3"):
            make("minesweeper").reset(Task("minesweeper", seed=1, options={"mines": 5}))
        with pytest.raises(TaskError, match="unknown option 'depth'"):
            make("minesweeper").reset(Task("minesweeper", seed=1, options={"depth": 5}))

    @pytest.mark.parametrize("name", GENERATED)
    def test_after_a_refused_task_no_episode_runs(self, name: str) -> None:
        env = make(name)
        env.reset(Task(name, seed=1))
        with pytest.raises(TaskError):
            env.reset(Task(name, spec={"nonsense": 1}))
        with pytest.raises(EpisodeOverError):
            env.step("(1, 1)")
        env.reset(Task(name, seed=1))

    @pytest.mark.parametrize("name", GENERATED)
    def test_rewards_are_sparse_by_default(self, name: str) -> None:
        env = make(name)
        env.reset(Task(name, seed=3))
        rewards = []
        while (action := env.oracle()) is not None:
            rewards.append(env.step(action).reward)
        assert rewards == [0.0] * (len(rewards) - 1) + [10.0]


def plugged(monkeypatch: pytest.MonkeyPatch, name: str, target: str) -> None:
    """Let the installed packages offer one environment."""
    point = EntryPoint(name, target, registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == registry.GROUP else [])


class Counter(TextEnv):
    """Count up to a goal: as small as an environment can be. Its subclasses each break one rule."""

    name = "counter"

    def __init__(self, goal: int = 9, reward: RewardScheme = "sparse") -> None:
        super().__init__(reward)
        self.goal = goal
        self.count: int | None = None

    def reset(self, task: Task) -> Observation:
        self._check_task(task)
        self.count = (task.seed or 0) % 3
        return Observation(str(self.count), ("add", "wait"))

    def step(self, action: str) -> Step:
        if self.count is None:
            raise EpisodeOverError("call reset first")
        self.count += action == "add"
        won = self.count == self.goal
        step = Step(
            Observation(str(self.count), ("add", "wait")), 10.0 * won, won, False, won, action in ("add", "wait")
        )
        if won:
            self.count = None
        return step

    def anchor(self) -> str:
        return str(self.count)

    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        return 0.0, 10.0


class OtherEachTime(Counter):
    made = 0

    def reset(self, task: Task) -> Observation:
        type(self).made += 1
        super().reset(task)
        self.count = self.made % 3
        return Observation(str(self.count), ("add", "wait"))


class ForgetsNothing(Counter):
    total = 0

    def reset(self, task: Task) -> Observation:
        self.total += 1
        super().reset(task)
        self.count = min(self.total, 4)
        return Observation(str(self.count), ("add", "wait"))


class ListOfActions(Counter):
    def reset(self, task: Task) -> Observation:
        return Observation(super().reset(task).text, ["add", "wait"])  # type: ignore[arg-type]


class BlindAnchor(Counter):
    def anchor(self) -> str:
        return "here"


class RefusesAndMoves(Counter):
    def step(self, action: str) -> Step:
        step = super().step("add")
        return Step(step.observation, step.reward, step.terminated, False, step.won, action in ("add", "wait"))


class NeverOver(Counter):
    def step(self, action: str) -> Step:
        if self.count is None:
            self.count = 0
        return super().step(action)


class Generous(Counter):
    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        return 0.0, 1.0


class TestChecks:
    def test_a_sound_environment_passes(self) -> None:
        check_env(Counter)
        check_env(Counter, tasks=[Task("counter", seed=2)], goal=5)
        check_env(lambda: Counter(3), steps=5)

    @pytest.mark.parametrize(
        ("broken", "check"),
        [
            (OtherEachTime, "same_task_same_state"),
            (ForgetsNothing, "reset_restores"),
            (ListOfActions, "types_are_right"),
            (BlindAnchor, "equal_anchors_are_equal_states"),
            (RefusesAndMoves, "invalid_action_changes_nothing"),
            (NeverOver, "no_step_outside_an_episode"),
            (Generous, "rewards_within_bounds"),
        ],
    )
    def test_each_rule_has_a_check_that_finds_it_broken(self, broken: type[TextEnv], check: str) -> None:
        with pytest.raises(CheckError, match=f"counter: {check}: "):
            check_env(broken)

    def test_what_is_no_environment_is_said_to_be_none(self) -> None:
        with pytest.raises(CheckError, match="not a TextEnv"):
            check_env(dict)  # type: ignore[arg-type]
