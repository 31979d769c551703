"""Stages of an experiment as data: commands in their order, and the folders that they fill.

Each starting model has a folder, with a folder for each game in it:
`data/`, `warmstart/seed-N/`, `train/ARM/seed-N/`, `eval/ARM/seed-N/` and `cross/ARM/seed-N/`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from arms import Arm, Experiment
from games import SCRATCH, Game

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.evaluation.cross import cells
from openrlhf_lamer.quickstart.following import StageError
from openrlhf_lamer.quickstart.stages import EVALUATIONS, TRIALS, Stage, ours, task_stages

SAVE_EVERY = 7
"""Steps between checkpoints. Most fall between two evaluations: a training that is cut off in an evaluation repeats
it."""


@dataclass(frozen=True)
class Setup:
    """Place and start of the trainings of a game.

    Attributes:
        game: The game.
        out: Folder of all results.
        model: Folder of a model, in Hugging Face form, for the warm start to train; None for a tiny one that is built.
    """

    game: Game
    out: Path
    model: Path | None = None

    @property
    def home(self) -> Path:
        """Folder of the model's experiments."""
        return self.out / ("tiny" if self.model is None else self.model.resolve().name)

    def claim(self) -> None:
        """Note in `home` which model its experiments start from.

        Raises:
            StageError: They start from another one of the same name.
        """
        start = "a tiny one" if self.model is None else str(self.model.resolve())
        note = self.home / "model.txt"
        if note.is_file() and (other := note.read_text("utf-8")) != start:
            raise StageError(
                f"{self.home} holds experiments that start from another model: {other}. Give another --out"
            )
        self.home.mkdir(parents=True, exist_ok=True)
        note.write_text(start, "utf-8")

    @property
    def folder(self) -> Path:
        """Folder of the game's stages."""
        return self.home / self.game.name

    @property
    def panel(self) -> Path:
        """File of the evaluations' tasks."""
        return self.folder / "data" / "eval" / "eval.jsonl"

    def training(self, arm: Arm, seed: int) -> Path:
        """Folder of a training."""
        return self.folder / "train" / arm.name / f"seed-{seed}"

    def apart(self, arm: Arm, seed: int) -> Path:
        """Folder of the evaluation without memory."""
        return self.folder / "eval" / arm.name / f"seed-{seed}"

    def cross(self, arm: Arm, seed: int) -> Path:
        """Folder of the cross table."""
        return self.folder / "cross" / arm.name / f"seed-{seed}"


def plan(experiment: Experiment, setup: Setup, arms: Sequence[Arm], seeds: Sequence[int]) -> Iterator[Stage]:
    """Stages of an experiment, seed by seed, so that arms can be compared after the first seed."""
    game = setup.game
    number = game.steps * game.tasks
    yield from task_stages(setup.folder / "data", game.env, game.options, number, game.panel, game.panel_size)
    for seed in seeds:
        yield _warm_start(setup, seed)
        for arm in arms:
            yield _training(setup, arm, seed)
            if arm.single:
                yield _apart(setup, arm, seed)
            if experiment.cross and arm == experiment.arms[0]:
                yield _cross(setup, arm, seed)


def _warm_start(setup: Setup, seed: int) -> Stage:
    game, folder = setup.game, setup.folder / "warmstart" / f"seed-{seed}"
    command = ours(
        *("warmstart", "--env", game.env, "--options", json.dumps(game.options), *_play(game, game.memory)),
        *_lengths(game),
        *("--trials", str(game.demonstrations), "--passes", str(game.passes), *game.imitation),
        *(SCRATCH if setup.model is None else ("--model", str(setup.model))),
        *("--seed", str(seed), "--out", str(folder)),
    )
    return Stage(f"seed {seed}: warm start", folder, command)


def _training(setup: Setup, arm: Arm, seed: int) -> Stage:
    game, folder = setup.game, setup.training(arm, seed)
    episodes, group = (1, game.attempts * game.group) if arm.single else (game.attempts, game.group)
    command = (
        *(sys.executable, "-m", "openrlhf.cli.train_ppo_ray", "--agent_func", game.agent_func),
        *("--actor.model_name_or_path", str(_warm_start(setup, seed).folder / "model")),
        *("--data.prompt_dataset", str(setup.folder / "data" / "train" / "train.jsonl")),
        *("--eval.dataset", str(setup.panel), "--eval.steps", str(game.every), "--eval.n_samples_per_prompt", "1"),
        *("--eval.temperature", "1"),
        *("--lamer.num_episodes", str(episodes), "--lamer.eval_episodes", str(game.attempts)),
        *("--lamer.context", game.context, "--lamer.memory", arm.memory or game.memory),
        *(() if game.max_turns is None else ("--lamer.max_turns", str(game.max_turns))),
        *("--lamer.trials", str(folder / TRIALS), "--lamer.eval_trials", str(folder / EVALUATIONS)),
        *("--rollout.batch_size", str(game.tasks), "--rollout.n_samples_per_prompt", str(group)),
        *("--rollout.micro_batch_size", "16", "--rollout.max_new_tokens", str(game.max_new_tokens)),
        *("--rollout.temperature", "1", "--data.max_len", str(game.max_length)),
        *("--lamer.updates", "1", "--train.seed", str(seed), "--actor.adam.lr", str(game.learning_rate)),
        *("--algo.advantage.is_correction_level", "token"),
        *("--ckpt.output_dir", str(folder / "model"), "--ckpt.path", str(folder / "checkpoints")),
        *("--ckpt.save_steps", str(SAVE_EVERY), "--ckpt.max_num", "1", "--ckpt.load_enable"),
        *game.flags,
        *arm.flags,
    )
    resumes = folder / "checkpoints" / "_actor" / "latest"
    trials = game.steps * game.tasks * group
    return Stage(f"seed {seed}: training of {arm.name}", folder, command, folder / TRIALS, trials, resumes)


def _apart(setup: Setup, arm: Arm, seed: int) -> Stage:
    game, folder = setup.game, setup.apart(arm, seed)
    command = ours(
        *("eval", "--method", "rl", "--samples", str(game.attempts)),
        *("--model", str(setup.training(arm, seed) / "model"), "--tasks", str(setup.panel)),
        *_play(game, None),
        *_lengths(game),
        *("--temperature", "1", "--seed", str(seed), "--out", str(folder)),
    )
    trials, results = game.panel_size * game.attempts, folder / TRIALS
    return Stage(f"seed {seed}: {arm.name} without memory", folder, command, results, trials, folder / "run.json")


def _cross(setup: Setup, arm: Arm, seed: int) -> Stage:
    game, folder, memory = setup.game, setup.cross(arm, seed), arm.memory or setup.game.memory
    command = ours(
        *("cross", "--base", str(_warm_start(setup, seed).folder / "model")),
        *("--trained", str(setup.training(arm, seed) / "model"), "--tasks", str(setup.panel)),
        *_play(game, memory),
        *_lengths(game),
        *("--seed", str(seed), "--out", str(folder)),
    )
    # The results of the last cell: cells are played one after the other.
    last = folder / cells(LamerConfig(num_episodes=game.attempts, memory=memory))[-1].folder / TRIALS
    return Stage(f"seed {seed}: cross table of {arm.name}", folder, command, last, game.panel_size, folder)


def _play(game: Game, memory: str | None) -> tuple[str, ...]:
    return (
        *("--attempts", str(game.attempts), "--context", game.context),
        *(() if memory is None else ("--memory", memory)),
        *(() if game.max_turns is None else ("--max-turns", str(game.max_turns))),
    )


def _lengths(game: Game) -> tuple[str, ...]:
    return ("--max-new-tokens", str(game.max_new_tokens), "--max-length", str(game.max_length))
