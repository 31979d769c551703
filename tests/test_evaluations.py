"""Evaluations during training: before the first step, and with episodes and a file of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from host_stand_ins import failed, samples_of

from openrlhf_lamer import room
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.evaluation import viewer
from openrlhf_lamer.games import games
from openrlhf_lamer.integration.launch import tasks as launch_tasks
from openrlhf_lamer.integration.launch.dataset import Dataset
from openrlhf_lamer.integration.remote import plain_class
from openrlhf_lamer.integration.training import trainer as training
from openrlhf_lamer.integration.training.logs import evaluation_metrics, write_evaluation
from openrlhf_lamer.integration.training.trainer import (
    LamerGenerateSamplesActor,
    LamerTrainer,
    LamerTrainingActor,
)
from openrlhf_lamer.policies.scripted import RandomPolicy
from openrlhf_lamer.records import Trial

SINGLE = LamerConfig(num_episodes=1, eval_episodes=3)
NEVER = float("inf")


@pytest.fixture
def trials(play: Callable[..., Trial], chat: Chat) -> list[Trial]:
    return [play(RandomPolicy(chat, seed), seed=seed, num_episodes=3, max_turns=4) for seed in range(12)]


def test_metrics_count_the_episodes_of_an_evaluation(trials: list[Trial]) -> None:
    found = evaluation_metrics(samples_of([*trials, failed(9)], 0.6), SINGLE)
    for k in (1, 2, 3):
        share = sum(any(e.won for e in trial.episodes[:k]) for trial in trials) / len(trials)
        assert found[f"lamer/minesweeper/success@{k}"] == pytest.approx(share)
    assert "lamer/minesweeper/success@4" not in found
    assert found["eval_minesweeper_pass1"] == found["lamer/minesweeper/success@1"]
    assert "lamer/minesweeper/success@2" not in evaluation_metrics(samples_of(trials, 0.6), LamerConfig(num_episodes=1))


def test_trials_are_added_to_the_file_with_their_step(trials: list[Trial], tmp_path: Path) -> None:
    file = tmp_path / "new" / "evaluations.jsonl"
    for step in (0, 5):
        write_evaluation(file, samples_of(trials[step : step + 4], 0.6), step, {"config": {}}, SINGLE)
    with file.open() as lines:
        found = [(entry.step, entry.group, entry.trial) for entry in viewer.each(lines)]
    assert found == [(step, None, trial) for step in (0, 5) for trial in trials[step : step + 4]]


@pytest.mark.parametrize(
    ("trained", "evaluated", "most"), [(1, 3, 3), (3, 1, 3), (2, None, 2), (1, 8, 8)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("has_set", [True, False])
def test_prompts_have_room_for_the_larger_number_of_episodes(
    trained: int, evaluated: int | None, most: int, has_set: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LEAST", 256)
    agent = load_agent("openrlhf_lamer.agents.sokoban")[0]
    config = LamerConfig(num_episodes=trained, eval_episodes=evaluated)

    class Line(dict[str, Any]):
        """The flags that are read, and the configuration."""

    line: Any = Line(
        {
            "eval.dataset": "some" if has_set else None,
            "actor.model_name_or_path": str(tmp_path),
            "rollout.max_new_tokens": 512,
            "data.max_len": None,
        }
    )
    line.config = config
    episodes = most if has_set else trained
    expected = room.needed(agent, config.model_copy(update={"num_episodes": episodes}), 512)
    dataset = Dataset(1, {"sokoban": [{}]})
    tasks = launch_tasks.Tasks(dataset, dataset if has_set else Dataset())
    assert launch_tasks.max_len(line, games({"sokoban": agent}, config), tasks) == (expected, "")
    if evaluated == 8 and has_set:
        assert expected > room.needed(agent, config, 512)


class TestBeforeTheFirstStep:
    """The host's loops are replaced by ones that only note when they begin."""

    @pytest.fixture
    def trainer(self, trials: list[Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
        def made(*, steps: float = 10, resumed: int = 0, has_set: bool = True) -> Any:
            host = plain_class(training.PPOTrainer)
            own: Any = LamerTrainer.__new__(LamerTrainer)
            own.events = []
            monkeypatch.setattr(host, "fit", lambda self, step: self.events.append(("fit", step)))

            def generate(**given: Any) -> Sequence[Any]:
                own.events.append(("played", given))
                return samples_of(trials, 0.6)

            own.settings = {"config": {"num_episodes": 1}}
            own.config = SINGLE.model_copy(update={"eval_trials": str(tmp_path / "evaluations.jsonl")})
            own.args = SimpleNamespace(eval=SimpleNamespace(steps=steps, temperature=0.7, n_samples_per_prompt=2))
            own.eval_dataloader = ["a task"] if has_set else None
            own.generate_kwargs = {"temperature": 1.0, "n_samples_per_prompt": 8, "max_len": 100}
            own.samples_generator = SimpleNamespace(generate_eval_samples=generate)
            own.init_checkpoint_states = lambda: {"global_step": resumed}
            logged = SimpleNamespace(log_eval=lambda step, logs: own.events.append(("logged", step, logs)))
            own.wandb_logger, own.tensorboard_logger = None, logged
            return own

        return made

    def test_the_model_that_training_starts_from_is_evaluated_once(
        self, trainer: Callable[..., Any], trials: list[Trial], tmp_path: Path
    ) -> None:
        own = trainer()
        own.fit()
        played, logged, fitted = own.events
        assert played == ("played", {"temperature": 0.7, "n_samples_per_prompt": 2, "max_len": 100})
        assert logged == ("logged", 0, evaluation_metrics(samples_of(trials, 0.6), SINGLE))
        assert fitted == ("fit", 0)
        with (tmp_path / "evaluations.jsonl").open() as lines:
            assert [(entry.step, entry.trial) for entry in viewer.each(lines)] == [(0, trial) for trial in trials]

    @pytest.mark.parametrize("given", [{"resumed": 4}, {"steps": NEVER}, {"has_set": False}])
    def test_not_if_training_goes_on_or_evaluates_nothing(
        self, given: dict[str, Any], trainer: Callable[..., Any]
    ) -> None:
        own = trainer(**given)
        own.fit()
        assert own.events == [("fit", 0)]

    @pytest.fixture
    def generating(self, trials: list[Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
        """The generating half of the asynchronous trainer, whose loop asks at these steps whether to evaluate."""

        def made(told: Sequence[int], *, steps: float = 2, has_set: bool = True) -> Any:
            own: Any = LamerGenerateSamplesActor.__new__(LamerGenerateSamplesActor)
            own.evaluated = []

            def fit(self: Any, episode: int, total_consumed_prompts: int) -> None:
                for step in told:
                    if self._should_eval(step):
                        self._last_eval_step = step
                        self.evaluated.append((step, self._run_eval()))

            monkeypatch.setattr(plain_class(training.GenerateSamplesActor), "fit", fit)
            own._last_eval_step = -1
            own.settings = {"config": {"num_episodes": 1}}
            own.config = SINGLE.model_copy(update={"eval_trials": str(tmp_path / "evaluations.jsonl")})
            own.args = SimpleNamespace(eval=SimpleNamespace(steps=steps, temperature=0.7, n_samples_per_prompt=1))
            own.eval_dataloader = ["a task"] if has_set else None
            own.generate_kwargs = {}
            played = samples_of(trials[:3], 0.6)
            own.samples_generator = SimpleNamespace(generate_eval_samples=lambda **given: played)
            return own

        return made

    @pytest.mark.parametrize(
        ("told", "prompts", "options", "expected"),
        [
            ([0, 0, 1, 2, 2, 3, 4], 0, {}, [0, 2, 4]),
            ([0, 0, 5, 6], 20, {}, [6]),  # resumed from a checkpoint: the first steps that it is told are 0 here too
            ([0, 1, 2], 0, {"steps": NEVER}, []),
            ([0, 1, 2], 0, {"has_set": False}, []),
        ],
    )
    def test_asynchronous_training_does_so_too(
        self,
        told: list[int],
        prompts: int,
        options: dict[str, Any],
        expected: list[int],
        generating: Callable[..., Any],
        trials: list[Trial],
        tmp_path: Path,
    ) -> None:
        own = generating(told, **options)
        own.fit(0, prompts)
        metrics = evaluation_metrics(samples_of(trials[:3], 0.6), SINGLE)
        assert own.evaluated == [(step, metrics) for step in expected]
        if expected:
            with (tmp_path / "evaluations.jsonl").open() as lines:
                assert [entry.step for entry in viewer.each(lines)] == [step for step in expected for _ in range(3)]

    def test_no_checkpoint_is_the_best_before_a_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        saved: list[tuple[Any, ...]] = []
        host = plain_class(training.TrainingActor)
        monkeypatch.setattr(host, "save_best_checkpoint", lambda self, *given: saved.append(given))
        own: Any = LamerTrainingActor.__new__(LamerTrainingActor)
        own.save_best_checkpoint({"a_pass1": 0.5}, 0, {"global_step": 0})
        own.save_best_checkpoint({"a_pass1": 0.4}, 2, {"global_step": 2})
        assert saved == [({"a_pass1": 0.4}, 2, {"global_step": 2})]
