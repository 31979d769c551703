"""The host's trainer with trials in place of samples: same loop, same checkpoints, more to log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from openrlhf.trainer.ppo_trainer import PPOTrainer
from openrlhf.utils.logging_utils import init_logger

from openrlhf_lamer import metrics
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.integration.actors import ROWS_TRAINED, TOKENS_TRAINED
from openrlhf_lamer.integration.batch import TrialBatch
from openrlhf_lamer.integration.experience import TrialExperience
from openrlhf_lamer.integration.experience_maker import LamerExperienceMaker
from openrlhf_lamer.integration.remote import plain_class
from openrlhf_lamer.integration.samples import LamerSamplesGenerator
from openrlhf_lamer.records import Phase, Trial

logger = init_logger(__name__)


class LamerTrainer(plain_class(PPOTrainer)):
    """The synchronous trainer. Its loop, checkpoints and resumption are the host's.

    The launcher makes a subclass with the configuration and the estimator's name set, which
    travels to the trainer's process by value.
    """

    config: ClassVar[LamerConfig]
    estimator: ClassVar[str]

    def __init__(self, pretrain: str, strategy: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(pretrain, strategy, *args, **kwargs)
        self.samples_generator = LamerSamplesGenerator(
            strategy=strategy,
            prompts_dataloader=self.prompts_dataloader,
            eval_dataloader=self.eval_dataloader,
            tokenizer=self.tokenizer,
            vllm_engines=self.vllm_engines,
        )
        self.experience_maker = LamerExperienceMaker(
            self.actor_model_group,
            self.critic_model_group,
            self.reward_model_group,
            self.reference_model_group,
            self.kl_ctl,
            self.strategy,
            self.tokenizer,
            config=self.config,
            estimator=self.estimator,
        )

    def train_step(self, rollout_samples: Sequence[TrialExperience], global_step: int) -> tuple[dict[str, Any], int]:
        """One step of the host's, then check what was trained against what was sampled, and record it."""
        status, global_step = super().train_step(rollout_samples, global_step)
        batch = self._batch
        self._check_trained(batch, status)
        status |= {f"lamer/{key}": value for key, value in batch_metrics(batch, self.config).items()}
        if self.config.trials:
            write_trials(Path(self.config.trials), batch, global_step)
        return status, global_step

    @torch.no_grad()
    def evaluate(self, global_step: int, **generate_kwargs: Any) -> dict[str, float]:
        """Play the host's evaluation set and log its metrics under `eval/lamer/<env>/`."""
        samples: list[Any] = self.samples_generator.generate_eval_samples(**generate_kwargs)
        logs = trial_metrics([sample.trial for sample in samples], self.config)
        # The host picks its best checkpoint by the first key that ends in `_pass1`.
        by_env = {key.split("/")[0]: value for key, value in logs.items() if key.endswith("/success@1")}
        logged = {f"lamer/{key}": value for key, value in logs.items()}
        logged |= {f"eval_{env}_pass1": value for env, value in by_env.items()}
        for sink in (self.wandb_logger, self.tensorboard_logger):
            if sink:
                sink.log_eval(global_step, logged)
        logger.info(f"Evaluation at step {global_step}: {logged}")
        return logged

    @property
    def _batch(self) -> TrialBatch:
        batch = self.experience_maker.batch
        assert batch is not None, "asked for a batch before one was made"
        return batch

    def _check_trained(self, batch: TrialBatch, status: dict[str, Any]) -> None:
        """Raise where a row or a sampled token was lost or trained twice."""
        assert batch.rows is not None
        if ROWS_TRAINED not in status:  # the actor is frozen in its first steps
            return
        epochs = self.args.train.max_epochs
        expected = {
            ROWS_TRAINED: epochs * (len(batch.rows.rows) + batch.rows.filled),
            TOKENS_TRAINED: epochs * batch.rows.sampled,
        }
        for key, count in expected.items():
            if status[key] != count:
                raise RuntimeError(
                    f"{key} is {status[key]:.0f}, but the rollout made {count}: rows were lost or repeated"
                )

    def _compute_rollout_stats(self, experiences: Any) -> dict[str, float]:
        """The host's rollout statistics, of trials and not of rows."""
        batch = self._batch
        live = [batch.trials[i] for i in batch.live]
        returns = np.array([trial.scalar_return(self.config.gamma_traj) for trial in live])
        return {
            "rollout/reward_mean": float(returns.mean()),
            "rollout/reward_std": float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
            "rollout/response_length_mean": float(np.mean([sum(len(u.sampled_ids) for u in t.turns) for t in live])),
            "rollout/truncated_rate": float(np.mean([any(u.truncated for u in t.turns) for t in live])),
            "rollout/num_samples": float(len(batch.trials)),
        }


def trial_metrics(trials: Sequence[Trial | None], config: LamerConfig) -> dict[str, float]:
    """`<env>/<metric>` for every environment among the trials."""
    by_env: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial is not None:
            by_env.setdefault(trial.task.env, []).append(trial)
    return {
        f"{env}/{key}": value
        for env, own in by_env.items()
        for key, value in metrics.summarize(own, config.num_episodes, config.gamma_traj).items()
    }


def batch_metrics(batch: TrialBatch, config: LamerConfig) -> dict[str, float]:
    """Metrics of the trials of a batch, of its rows, and of the credit they were given."""
    assert batch.rows is not None
    result = trial_metrics(batch.trials, config)
    result |= {
        "rows": float(len(batch.rows.rows)),
        "rows_filled": float(batch.rows.filled),
        "tokens_per_trial": batch.rows.sampled / max(1, len(batch.live)),
    }
    if batch.advantages is not None:
        result |= _credit_metrics(batch)
    return result


def _credit_metrics(batch: TrialBatch) -> dict[str, float]:
    """Mean and spread of the advantages by phase, and the share of groups that teach nothing."""
    assert batch.advantages is not None
    by_phase: dict[Phase, list[float]] = {phase: [] for phase in Phase}
    for i in batch.live:
        for turn, value in zip(batch.trials[i].turns, batch.advantages[i], strict=True):
            by_phase[turn.phase].append(float(value))
    result: dict[str, float] = {}
    for phase, values in by_phase.items():
        if values:
            result[f"advantage/{phase}/mean"] = float(np.mean(values))
            result[f"advantage/{phase}/std"] = float(np.std(values))
    groups = np.unique(batch.groups[batch.live])
    silent = sum(
        all(np.abs(batch.advantages[i]).max(initial=0.0) < 1e-9 for i in batch.live if batch.groups[i] == group)
        for group in groups
    )
    result["zero_advantage_groups"] = silent / max(1, len(groups))
    return result


def write_trials(path: Path, batch: TrialBatch, step: int) -> None:
    """Append the batch's trials to a JSON lines file, with the step and each turn's return and advantage."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for i, trial in enumerate(batch.trials):
            extra: dict[str, Any] = {"step": step, "group": int(batch.groups[i])}
            if batch.advantages is not None and batch.returns is not None:
                extra |= {"returns": batch.returns[i].tolist(), "advantages": batch.advantages[i].tolist()}
            file.write(f"{trial.to_json()[:-1]},{json.dumps(extra)[1:]}\n")
