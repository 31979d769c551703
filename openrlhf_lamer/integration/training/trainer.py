"""The host's trainers on trials in place of samples: same loops, same checkpoints, more logs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import ray
import torch
from openrlhf.trainer.ppo_trainer import PPOTrainer
from openrlhf.trainer.ppo_trainer_async import GenerateSamplesActor, TrainingActor
from openrlhf.utils.logging_utils import init_logger

from openrlhf_lamer.alarms import Alarms
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.integration.remote import plain_class
from openrlhf_lamer.integration.rollout.generator import LamerSamplesGenerator, Rollout
from openrlhf_lamer.integration.training.actors import ROWS_TRAINED, TOKENS_TRAINED
from openrlhf_lamer.integration.training.batch import TrialBatch
from openrlhf_lamer.integration.training.experience_maker import LamerExperienceMaker
from openrlhf_lamer.integration.training.forests import why_padded
from openrlhf_lamer.integration.training.logs import (
    batch_metrics,
    evaluation_metrics,
    log_settings,
    write_evaluation,
    write_trials,
)

logger = init_logger(__name__)


class TrialTraining:
    """Mixin for both trainers of the host, placed before the host's class: how they train on trials.

    The launcher makes subclasses with the configuration, the estimator's name and all settings set, which travel to the
    trainer's process by value.
    """

    config: ClassVar[LamerConfig]
    estimator: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]]
    args: Any
    experience_maker: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Rows come in the micro-batches that are trained; the host would deal them again.
        self.args.train.dynamic_batch_enable = False
        padded = why_padded(self.config, self.args)
        if padded and self.config.forward != "padded":
            logger.warning(f"Rows are padded, and every token is run as often as rows repeat it: {padded}")
        host: Any = self.experience_maker
        self.experience_maker = LamerExperienceMaker(
            host.actor_model_group,
            host.critic_model_group,
            host.reward_model_group,
            host.initial_model_group,
            host.kl_ctl,
            host.strategy,
            host.tokenizer,
            config=self.config,
            estimator=self.estimator,
            forest=not padded,
        )
        self._alarms = Alarms()
        own: Any = self
        log_settings(own.tensorboard_logger, own.wandb_logger, self.settings)

    def init_checkpoint_states(self) -> dict[str, Any]:
        """States of the host's checkpoint; those of a fresh start if a kill cut off the first one."""
        host: Any = super()
        return host.init_checkpoint_states() or {
            "episode": 0,
            "global_step": 0,
            "total_consumed_prompts": 0,
            "data_loader_state_dict": {},
        }

    def train_step(self, rollout_samples: Rollout, global_step: int) -> tuple[dict[str, Any], int]:
        """Take the host's step, check the trained rows and tokens against the rollout, and log the batch and alarms."""
        host: Any = super()
        status, global_step = host.train_step(rollout_samples, global_step)
        batch = self._batch
        self._check_trained(batch, status)
        found = batch_metrics(batch, self.config) | rollout_samples.metrics
        status |= {f"lamer/{key}": value for key, value in found.items()}
        alarms = self._alarms.step(status)
        for alarm in alarms:
            if alarm.new:
                logger.warning(alarm.message)
        status["lamer/alarms"] = float(len(alarms))
        if self.config.trials:
            write_trials(Path(self.config.trials), batch, global_step, self.settings)
        return status, global_step

    def ppo_train(self, global_steps: int) -> dict[str, Any]:
        """Take the host's step. While it trains only the critic, discard the actor's rows."""
        host: Any = super()
        status = host.ppo_train(global_steps)
        if global_steps <= self.args.critic.freezing_steps:
            group: Any = self.experience_maker.actor_model_group
            ray.get(group.async_run_method(method_name="discard"))
        return status

    @property
    def _batch(self) -> TrialBatch:
        batch = self.experience_maker.batch
        assert batch is not None, "no batch was made yet"
        return batch

    def _check_trained(self, batch: TrialBatch, status: dict[str, Any]) -> None:
        """Raise where a row or a sampled token was lost or trained twice."""
        assert batch.rows is not None
        if ROWS_TRAINED not in status:  # the actor is frozen in its first steps
            return
        epochs = self.args.train.max_epochs
        expected = {
            ROWS_TRAINED: epochs * len(batch.rows.rows),
            TOKENS_TRAINED: epochs * batch.rows.sampled,
        }
        for key, count in expected.items():
            if status[key] != count:
                raise RuntimeError(
                    f"{key} is {status[key]:.0f}, but the rollout made {count}: rows were lost or repeated"
                )

    def _compute_rollout_stats(self, experiences: Any) -> dict[str, float]:
        """The host's rollout statistics, over trials and not over rows."""
        batch = self._batch
        live = batch.live_trials
        returns = np.array([trial.scalar_return(self.config.gamma_traj) for trial in live])
        return {
            "rollout/reward_mean": float(returns.mean()),
            "rollout/reward_std": float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
            "rollout/response_length_mean": float(np.mean([sum(len(u.sampled_ids) for u in t.turns) for t in live])),
            "rollout/truncated_rate": float(np.mean([any(u.truncated for u in t.turns) for t in live])),
            "rollout/num_samples": float(len(batch.trials)),
        }


class LamerTrainer(TrialTraining, plain_class(PPOTrainer)):
    """The synchronous trainer. Its loop, checkpoints and resumption are the host's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.samples_generator = LamerSamplesGenerator.instead_of(self.samples_generator, self.config, self.estimator)
        self.prompts_dataloader = self.samples_generator.prompts_dataloader

    def fit(self, global_step: int = 0) -> None:
        """Train as the host does, after an evaluation of the model that training starts from."""
        args: Any = self.args
        wanted = self.eval_dataloader and args.eval.steps != float("inf")
        if wanted and not (global_step or self.init_checkpoint_states()["global_step"]):
            own = {"temperature": args.eval.temperature, "n_samples_per_prompt": args.eval.n_samples_per_prompt}
            self.evaluate(0, **(self.generate_kwargs | own))
        super().fit(global_step)

    @torch.no_grad()
    def evaluate(self, global_step: int, **generate_kwargs: Any) -> dict[str, float]:
        """Play the host's evaluation set and log its metrics under `eval/lamer/<env>/`."""
        samples = self.samples_generator.generate_eval_samples(**generate_kwargs)
        logs = evaluation_metrics(samples, self.config)
        if self.config.eval_trials:
            write_evaluation(Path(self.config.eval_trials), samples, global_step, self.settings, self.config)
        for sink in (self.wandb_logger, self.tensorboard_logger):
            if sink:
                sink.log_eval(global_step, logs)
        logger.info(f"Evaluation at step {global_step}: {logs}")
        return logs


class LamerTrainingActor(TrialTraining, plain_class(TrainingActor)):
    """The training half of the asynchronous trainer."""

    def save_best_checkpoint(
        self, eval_metrics: dict[str, float], global_step: int, client_states: dict[str, Any] | None = None
    ) -> None:
        """Save as the host does, but not the initial model: no batch is known that a run could go on from."""
        host: Any = super()
        if global_step:
            host.save_best_checkpoint(eval_metrics, global_step, client_states)


class LamerGenerateSamplesActor(plain_class(GenerateSamplesActor)):
    """The generating half of the asynchronous trainer; its trials travel through the host's queue."""

    config: ClassVar[LamerConfig]
    estimator: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.samples_generator = LamerSamplesGenerator.instead_of(self.samples_generator, self.config, self.estimator)
        self.prompts_dataloader = self.samples_generator.prompts_dataloader

    def fit(self, episode: int, total_consumed_prompts: int) -> None:
        """Generate as the host does."""
        host: Any = super()
        self._resumed = total_consumed_prompts > 0  # in a resumed run, the first steps reported are 0 too
        host.fit(episode, total_consumed_prompts)

    def _should_eval(self, global_step: int) -> bool:
        """Evaluate when the host does, and the model that training starts from."""
        host: Any = super()
        first = not global_step and self._last_eval_step < 0 and not self._resumed
        wanted = self.eval_dataloader is not None and self.args.eval.steps != float("inf")
        return host._should_eval(global_step) or (first and wanted)

    def _run_eval(self) -> dict[str, float]:
        """Play the host's evaluation set; the training half logs the metrics."""
        given = self.args.eval
        own = {"temperature": given.temperature, "n_samples_per_prompt": given.n_samples_per_prompt}
        samples = self.samples_generator.generate_eval_samples(**(self.generate_kwargs | own))
        if self.config.eval_trials:
            step = self._last_eval_step
            write_evaluation(Path(self.config.eval_trials), samples, step, self.settings, self.config)
        return evaluation_metrics(samples, self.config)
