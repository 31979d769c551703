"""The registry, `check_env` on every registered environment, and `check_env` on broken ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
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
from openrlhf_lamer.vocabulary import RewardScheme

NAMES = envs.names(plugins=False)
GENERATED = [name for name in NAMES if name in ("minesweeper", "sokoban")]
DIFFICULTIES = [(name, options) for name in NAMES for options in envs.lookup(name).difficulties]


@pytest.mark.parametrize("reward", ["sparse", "shaped"])
@pytest.mark.parametrize(("name", "options"), DIFFICULTIES, ids=lambda value: str(value).strip("{}"))
def test_every_environment_passes_every_check(
    name: str, options: dict[str, Any], reward: RewardScheme, need: Callable[[str], None]
) -> None:
    need(name)
    check_env(name, reward=reward, **options)


@pytest.mark.parametrize("size", [6, 7, 8, 9, 10])
@pytest.mark.parametrize("boxes", [2, 3, 4, 5])
def test_sokoban_of_every_size_passes_every_check(size: int, boxes: int) -> None:
    check_env("sokoban", steps=30, size=size, boxes=boxes, reward="shaped")


@pytest.mark.parametrize("size", [6, 7, 8, 9, 10])
@pytest.mark.parametrize("mines", range(3, 11))
def test_minesweeper_of_every_size_passes_every_check(size: int, mines: int) -> None:
    check_env("minesweeper", steps=30, size=size, mines=mines, reward="shaped")


def test_extremes_pass_every_check() -> None:
    check_env("minesweeper", size=3, mines=7)
    check_env("minesweeper", size=10, mines=20)
    check_env("sokoban", boxes=5, moves_per_turn=1)


def test_importing_the_package_is_light() -> None:
    code = "import sys, openrlhf_lamer.envs as e; print(e.names(plugins=False), *sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydantic", "numpy", "jinja2", "torch", "ray", "openrlhf_lamer.envs.sokoban"} & set(loaded)


def test_two_hundred_transcripts_are_the_same_in_every_process_and_version(other_python: str) -> None:
    def hashes(python: str, hash_seed: str) -> dict[str, str]:
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(envs.__file__).parents[2])}
        command = [python, str(Path(__file__).parent / "transcripts.py"), "200", "10"]
        lines = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()
        return {name: found for name, found in (line.split(" ", 1) for line in lines) if "not installed" not in found}

    here = hashes(sys.executable, "0")
    assert set(GENERATED) <= set(here)
    assert hashes(sys.executable, "4711") == here
    there = hashes(other_python, "1")
    assert set(GENERATED) <= set(there)
    assert there == {name: here[name] for name in there}


@pytest.mark.parametrize(
    ("name", "typed", "done"),
    [
        ("darkroom", " UP", "up"),
        ("darkroom", "up, up", None),
        ("doors", "Door 3", "d3"),
        ("doors", "d9", None),
        ("minesweeper", "({},{})", "({}, {})"),
        ("minesweeper", " 0{} , {} ", "({}, {})"),
        ("minesweeper", "(0, 7)", None),
        ("sokoban", "RIGHT,none", "right, none"),
        ("sokoban", " up ,up", "up, up"),
        ("sokoban", "up, jump", None),
        ("alfworld", " Look ", "look"),
        ("alfworld", "go  to\tnowhere", None),
        ("webshop", "search[Red  Scarf ] please", "search[red scarf]"),
        ("webshop", "search[  ]", "search[ ]"),
        ("webshop", "click[Buy Now]", None),
    ],
)
def test_a_step_says_what_was_done_in_one_normal_form(
    name: str, typed: str, done: str | None, need: Callable[[str], None]
) -> None:
    need(name)
    env = make(name)
    env.reset(Task(name, seed=0))
    if name == "minesweeper":
        cell = eval(env.oracle() or "")  # a closed cell, as its row and column
        typed, done = typed.format(*cell), done and done.format(*cell)
    step = env.step(typed)
    assert (step.action, step.valid) == (done, done is not None)


def test_sokoban_says_the_moves_that_were_played_before_the_level_ended() -> None:
    rows = ("#####", "#P__#", "#_X_#", "#O__#", "#####")
    level = Task("sokoban", spec={"board": "\n".join(f"{row}: {' '.join(cells)}" for row, cells in enumerate(rows))})
    env = make("sokoban")
    env.reset(level)
    lost = env.step("Down,right,up")
    assert (lost.terminated, lost.won, lost.info["moves"], lost.action) == (True, False, 2, "down, right")
    env = make("sokoban", max_moves=21, moves_per_turn=20)
    env.reset(level)
    assert env.step(", ".join(["none"] * 20)).info["moves"] == 20
    capped = env.step("up, up, up")
    assert (capped.truncated, capped.info["moves"], capped.action) == (True, 1, "up")


def test_clicks_of_the_shop_have_one_form() -> None:
    env = make("webshop")
    listed = [env.reset(Task("webshop", seed=0)), env.step("search[shampoo]").observation][1].admissible
    code = next(each for each in listed if each.startswith("click[b0"))
    assert env.step(code.upper().replace("CLICK", "click")).action == code


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
            ("darkroom", "size", 6),
            ("doors", "doors", 1),
            ("doors", "lamp", 0),
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

    def test_register_makes_a_name_known_once(self) -> None:
        with registry.scoped():
            envs.register("counter", Counter)
            envs.register("counter", Counter)
            assert isinstance(make("counter", goal=2), Counter)
            assert "counter" in envs.names()
            with pytest.raises(ValueError, match="registered already"):
                envs.register("sokoban", Counter)
        assert "counter" not in envs.names()

    def test_another_environment_may_stand_in_for_one_of_ours_for_a_while(self) -> None:
        with registry.scoped(sokoban=Counter):
            assert isinstance(make("sokoban"), Counter)
        assert make("sokoban").name == "sokoban"

    def test_a_file_that_is_imported_twice_registers_the_same_environment(self) -> None:
        again = type("Counter", (Counter,), {"__module__": Counter.__module__, "__qualname__": Counter.__qualname__})
        with registry.scoped(counter=Counter):
            envs.register("counter", again)
            assert envs.lookup("counter") is again

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
    @pytest.mark.parametrize("name", NAMES)
    def test_a_split_gives_the_same_tasks_again_and_none_of_another(
        self, name: str, need: Callable[[str], None]
    ) -> None:
        need(name)
        seen: set[str] = set()
        for split in ("train", "eval"):
            tasks = envs.lookup(name).tasks(split, 20)
            assert tasks == envs.lookup(name).tasks(split, 20)
            assert tasks[5:8] == envs.lookup(name).tasks(split, 3, first=5)
            assert {(task.env, task.split) for task in tasks} == {(name, split)}
            assert len({task.id for task in tasks} - seen) == 20
            seen |= {task.id for task in tasks}

    def test_all_of_a_range_of_seeds_is_a_panel(self) -> None:
        tasks = envs.lookup("sokoban").tasks("eval", options={"boxes": 4})
        assert (len(tasks), tasks[-1].options) == (128, {"boxes": 4})

    def test_a_split_that_is_not_there_is_named_with_those_there_are(self) -> None:
        with pytest.raises(TaskError, match="sokoban has no split 'test'; there are: train, eval"):
            envs.lookup("sokoban").tasks("test", 1)
        with pytest.raises(TaskError, match="are not among them"):
            envs.lookup("sokoban").tasks("eval", 2**31)

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


class SaysOtherwise(Counter):
    """Takes `add` in any case for one action, and does it in lower case only."""

    def step(self, action: str) -> Step:
        step = super().step(action)
        spelled = action.lower() in ("add", "wait")
        return replace(step, valid=spelled, action=action.lower() if spelled else None)


class RefusesAndSays(Counter):
    def step(self, action: str) -> Step:
        return replace(super().step(action), valid=False, action=action)


class NeverOver(Counter):
    def step(self, action: str) -> Step:
        if self.count is None:
            self.count = 0
        return super().step(action)


class Generous(Counter):
    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        return 0.0, 1.0


class Talkative(Counter):
    def long_states(self) -> tuple[Observation, ...]:
        return (Observation("1", ("add",)),)


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
            (SaysOtherwise, "normal_actions_do_the_same"),
            (RefusesAndSays, "types_are_right"),
            (NeverOver, "no_step_after_the_end"),
            (Generous, "rewards_within_bounds"),
            (Talkative, "no_state_is_longer_than_the_long_ones"),
        ],
    )
    def test_each_rule_has_a_check_that_finds_it_broken(self, broken: type[TextEnv], check: str) -> None:
        with pytest.raises(CheckError, match=rf"\d\. {check}: "):
            check_env(broken)

    def test_what_is_no_environment_is_said_to_be_none(self) -> None:
        with pytest.raises(CheckError, match="not a TextEnv"):
            check_env(dict)  # type: ignore[arg-type]
