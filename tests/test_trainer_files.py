"""Files of the trainer beside the host's own: trials by step, settings, and states where no checkpoint is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from host_stand_ins import samples_of

from openrlhf_lamer.alarms import Alarms
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.evaluation import viewer
from openrlhf_lamer.integration.rollout.generator import Rollout
from openrlhf_lamer.integration.training import trainer as training
from openrlhf_lamer.integration.training.batch import TrialBatch
from openrlhf_lamer.integration.training.logs import write_evaluation, write_trials
from openrlhf_lamer.integration.training.trainer import LamerTrainer, LamerTrainingActor, TrialTraining
from openrlhf_lamer.policies.scripted import RandomPolicy
from openrlhf_lamer.records import Trial
from openrlhf_lamer.training_files import read_parts, read_settings

SETTINGS = {
    "estimator": "lamer_gigpo",
    "config": {"num_episodes": 1, "env_options": {"a|b": 1}},
    "host": {"train.seed": 7},
}


@pytest.fixture
def trials(play: Callable[..., Trial], chat: Chat) -> list[Trial]:
    return [play(RandomPolicy(chat, seed), seed=seed, num_episodes=2, max_turns=3) for seed in range(8)]


def test_a_resumed_run_replaces_the_steps_that_it_repeats(trials: list[Trial], tmp_path: Path) -> None:
    """Steps 1 to 3, killed in writing step 4; then from a checkpoint of step 2 with other trials."""
    file, zeros = tmp_path / "trials.jsonl", np.zeros(2, dtype=int)
    for step in (1, 2, 3):
        write_trials(file, TrialBatch(tuple(trials[:2]), zeros, zeros), step, SETTINGS)
    with file.open("a") as half:
        half.write(trials[0].to_json()[:100])
    resumed = {**SETTINGS, "host": {"train.seed": 8}}
    for step in (3, 4):
        write_trials(file, TrialBatch(tuple(trials[4:6]), zeros, zeros), step, resumed)
    with file.open() as lines:
        found = [(entry.step, entry.trial) for entry in viewer.each(lines)]
    assert found == [(step, trial) for step in (1, 2) for trial in trials[:2]] + [
        (step, trial) for step in (3, 4) for trial in trials[4:6]
    ]
    assert [(part.from_step, part.settings["host"]["train.seed"]) for part in read_parts(file)] == [(1, 7), (3, 8)]


def test_evaluations_are_replaced_too_with_their_own_episodes(trials: list[Trial], tmp_path: Path) -> None:
    file, config = tmp_path / "evaluations.jsonl", LamerConfig(num_episodes=1, eval_episodes=2)
    for step, own in ((0, trials[:3]), (2, trials[:3]), (4, trials[:3]), (2, trials[5:]), (4, trials[5:])):
        write_evaluation(file, samples_of(own, 0.6), step, SETTINGS, config)
    with file.open() as lines:
        found = [(entry.step, entry.trial) for entry in viewer.each(lines)]
    assert found == [
        (step, trial) for step, own in ((0, trials[:3]), (2, trials[5:]), (4, trials[5:])) for trial in own
    ]
    assert read_settings(file)["config"]["num_episodes"] == 2
    assert len(read_parts(file)) == 1


def test_the_trainer_writes_its_steps_with_its_settings(
    maker: Callable[..., Any], trials: list[Trial], tmp_path: Path
) -> None:
    class Host:
        def train_step(self, rollout_samples: Any, global_step: int) -> tuple[dict[str, Any], int]:
            return {}, global_step + 1

    class Trainer(TrialTraining, Host):
        config = LamerConfig(num_episodes=2, trials=str(tmp_path / "trials.jsonl"))
        settings = SETTINGS

    made = maker("lamer_rloo", config=Trainer.config, group=4)
    made.make_experience_batch(samples_of([trials[0]] * 4 + [trials[1]] * 4, 0.6))
    own: Any = Trainer.__new__(Trainer)
    own.experience_maker, own.args, own._alarms = made, SimpleNamespace(), Alarms()
    for before in (0, 1, 1):
        own.train_step(Rollout([], {}), before)
    records = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1] * 8 + [2] * 8
    assert all(len(record["advantages"]) == len(record["returns"]) > 0 for record in records)
    assert read_settings(tmp_path / "trials.jsonl") == SETTINGS


def test_settings_go_to_the_hosts_loggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's own TensorBoard logger; for Weights & Biases, its module is a stand-in."""
    from openrlhf.utils.logging_utils import TensorboardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    named = SimpleNamespace(run_name="run")
    args = SimpleNamespace(logger=SimpleNamespace(tensorboard_dir=str(tmp_path), wandb=named))
    updates: list[tuple[Any, Any]] = []
    run = SimpleNamespace(update=lambda values, allow_val_change: updates.append((values, allow_val_change)))
    nothing = dict.fromkeys(("actor_model_group", "critic_model_group", "reward_model_group", "initial_model_group"))

    class Host:
        def __init__(self) -> None:
            self.args = SimpleNamespace(train=SimpleNamespace(dynamic_batch_enable=True))
            self.experience_maker = SimpleNamespace(**nothing, kl_ctl=None, strategy=None, tokenizer=None)
            self.tensorboard_logger = TensorboardLogger(args)
            self.wandb_logger = SimpleNamespace(handle=SimpleNamespace(config=run))

    class Trainer(TrialTraining, Host):
        config, estimator, settings = LamerConfig(), "lamer_gigpo", SETTINGS

    monkeypatch.setattr(training, "why_padded", lambda config, args: None)
    monkeypatch.setattr(training, "LamerExperienceMaker", lambda *args, **kwargs: None)
    own: Any = Trainer()
    own.tensorboard_logger.close()
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    (tag,) = events.Tags()["tensors"]
    assert tag.startswith("lamer/settings")
    (event,) = events.Tensors(tag)
    (text,) = event.tensor_proto.string_val
    assert text.decode().splitlines() == [
        "| setting | value |",
        "| --- | --- |",
        "| estimator | lamer_gigpo |",
        "| --lamer.num_episodes | 1 |",
        '| --lamer.env_options | {"a\\|b": 1} |',
        "| --train.seed | 7 |",
    ]
    assert updates == [({"lamer": SETTINGS}, True)]


@pytest.mark.parametrize("kind", [LamerTrainer, LamerTrainingActor])
@pytest.mark.parametrize("whole", [True, False])
def test_a_run_that_was_killed_in_its_first_checkpoint_begins_again(
    kind: Any, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host finds its folder, in which DeepSpeed finds nothing to load."""
    (tmp_path / "_actor").mkdir()
    states = {"episode": 0, "global_step": 4, "total_consumed_prompts": 8, "data_loader_state_dict": {"at": 8}}
    loaded = states if whole else {}
    monkeypatch.setattr(training.ray, "get", lambda refs: refs)
    own: Any = kind.__new__(kind)
    own.args = SimpleNamespace(ckpt=SimpleNamespace(path=str(tmp_path), load_enable=True))
    own.actor_model_group = SimpleNamespace(async_run_method=lambda method_name: [loaded])
    fresh = {"episode": 0, "global_step": 0, "total_consumed_prompts": 0, "data_loader_state_dict": {}}
    assert own.init_checkpoint_states() == (states if whole else fresh)
    own.args.ckpt.load_enable = False
    assert own.init_checkpoint_states() == fresh, "as the host's own"
