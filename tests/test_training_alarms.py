"""Alarms as the trainer says and counts them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from host_stand_ins import samples_of

from openrlhf_lamer.alarms import Alarms
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.integration.rollout.generator import Rollout
from openrlhf_lamer.integration.training import trainer
from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn


def test_the_trainer_warns_once_and_logs_the_number_of_alarms(
    maker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Host:
        def train_step(self, rollout_samples: Any, global_step: int) -> tuple[dict[str, Any], int]:
            return {"vllm_kl": 0.001}, global_step + 1

    class Trainer(trainer.TrialTraining, Host):
        config = LamerConfig(num_episodes=1)

    made = maker("lamer_rloo", config=Trainer.config, group=2)
    made.make_experience_batch(samples_of([played(None), played("a"), played(None), played(None)], 0.6))
    own = Trainer.__new__(Trainer)
    own.experience_maker, own.args, own._alarms = made, SimpleNamespace(), Alarms()
    warned: list[str] = []
    monkeypatch.setattr(trainer.logger, "warning", warned.append)
    logged = []
    for share in (0.5, 0.0, 0.0, 0.0, 0.0):
        status, _ = own.train_step(Rollout([], {"groups_that_teach": share}), 0)
        assert status["lamer/groups_that_teach"] == share
        assert status["lamer/minesweeper/malformed_replies"] == 0.75
        logged.append(status["lamer/alarms"])
    assert logged == [0.0, 0.0, 0.0, 1.0, 1.0]
    assert len(warned) == 1
    assert warned[0].startswith("Alarm: no group taught anything for 3 steps")


def played(action: str | None) -> Trial:
    turn = Turn(Phase.PLAY, 0, 0, (1, 2), (3, 4), (-0.1, -0.2), "", action, action is not None, 0.0, "s", "")
    return Trial(Task("minesweeper", seed=0), (Episode((turn,), Stop.LOST, ""),))
