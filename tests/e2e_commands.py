"""Flags of the runs of the real host in `test_e2e*.py`, without their files.

They are data, so that `scripts/capabilities.py` can say which combinations of options are tested.
"""

from __future__ import annotations

_TWO = ("--lamer.max_turns", "3", "--lamer.num_episodes", "2")
_ESTIMATOR = "--algo.advantage.estimator"

RUNS: dict[str, tuple[str, ...]] = {
    "gigpo by turn": (*_TWO, "--lamer.max_concurrent_trials", "8"),
    "grpo by episode": (
        *("--lamer.max_turns", "3", "--lamer.context", "episode", _ESTIMATOR, "lamer_grpo"),
        *("--data.max_samples", "12", "--eval.steps", "2", "--lamer.eval_episodes", "2"),
    ),
    "ppo with a critic": (
        *(*_TWO, "--lamer.context", "episode", _ESTIMATOR, "lamer_ppo", "--algo.advantage.lambd", "0.9"),
        *("--critic.freezing_steps", "0", "--critic.adam.lr", "1e-3", "--train.colocate_all", "--ds.enable_sleep"),
        *("--algo.kl.init_coef", "0.1", "--algo.kl.use_loss", "--algo.kl.estimator", "k3", "--actor.dual_clip", "3"),
        *("--algo.advantage.is_correction_level", "seq"),
    ),
    "rloo asynchronously": (
        *(*_TWO, "--lamer.memory", "reflection", _ESTIMATOR, "lamer_rloo", "--actor.adam.lr", "1e-4"),
        *("--train.async_enable", "--train.partial_rollout_enable", "--rollout.vllm_generate_batch_size", "8"),
        *("--eval.steps", "2", "--lamer.eval_episodes", "3"),
    ),
    "hgpo on two actors": (
        *(*_TWO, _ESTIMATOR, "lamer_hgpo", "--lamer.hgpo.depth", "1", "--lamer.train_reflection", "off"),
        *("--actor.num_gpus_per_node", "2", "--ds.zero_stage", "3", "--train.max_epochs", "2"),
        *("--algo.dynamic_filtering_enable", "--train.num_episodes", "2"),
    ),
    "stock group_norm": (
        *("--lamer.max_turns", "3", "--lamer.num_episodes", "1", _ESTIMATOR, "group_norm"),
        *("--data.max_samples", "12", "--actor.policy_loss_type", "gspo", "--lamer.context", "trial"),
    ),
    "sokoban as a job": (
        *("--lamer.max_turns", "2", "--lamer.num_episodes", "2", "--lamer.reward", "shaped", "--data.max_samples", "8"),
    ),
    "forest of gigpo": (*_TWO, _ESTIMATOR, "lamer_gigpo", "--lamer.updates", "2", "--lamer.loss_weight", "turn"),
    "forest of ppo": (
        *(*_TWO, _ESTIMATOR, "lamer_ppo", "--lamer.context", "episode", "--critic.adam.lr", "1e-3"),
        *("--algo.kl.init_coef", "0.1", "--algo.kl.use_loss", "--actor.entropy_coef", "0.01"),
        "--actor.gradient_checkpointing_enable",
    ),
    "adapter": (
        *(
            *_TWO,
            "--ds.lora.rank",
            "8",
            "--ds.lora.alpha",
            "16",
            "--ds.lora.dropout",
            "0.05",
            "--actor.adam.lr",
            "5e-3",
        ),
        *("--algo.kl.init_coef", "0.01", "--algo.kl.use_loss", "--algo.kl.estimator", "k3"),
    ),
    "two games that think and go on": (
        *("--lamer.num_episodes", "3", "--lamer.turn_budget", "5", "--lamer.stop_on_success", "off"),
        *("--lamer.reflect_on_success", "on", "--lamer.thinking", "on", "--lamer.memory", "both"),
        *("--lamer.cross_episode", "difference", "--lamer.gigpo.similarity", "0.9"),
        *("--lamer.task_sampling", "learnable", "--eval.steps", "2", "--rollout.max_new_tokens", "64"),
        *("--actor.adam.lr", "1e-4"),
    ),
}
"""Flags by the run's name."""
