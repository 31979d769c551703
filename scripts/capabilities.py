"""Write the table of docs/capabilities.md: which options go with which estimators and contexts.

    python scripts/capabilities.py [--docs docs]

Every cell is a command line that is put through the checks of every training (`launcher.prepare`). A cell is *tested*
if a run of the real host in the tests has these flags (`tests/e2e_commands.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from openrlhf_lamer import LamerError, advantage
from openrlhf_lamer.integration.launch import launcher
from openrlhf_lamer.tasks import seeded_tasks, write_dataset
from openrlhf_lamer.warmstart.model import build_tokenizer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from e2e_commands import RUNS
from thinking_model import SWITCHED, thinking

CONTEXTS = ("turn", "episode", "trial")
HOSTS = ("group_norm", "rloo", "gae")
"""Estimators of the host beside ours: one with groups, one that leaves a trial out, one with a critic."""

ESTIMATOR = "--algo.advantage.estimator"
BEGIN, END = "<!-- written by scripts/capabilities.py -->", "<!-- end -->"
TESTED, WORKS = "T", "w"

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "defaults": (),
    "memory `history`": ("--lamer.memory", "history"),
    "memory `reflection`": ("--lamer.memory", "reflection"),
    "reflections not trained": ("--lamer.train_reflection", "off"),
    "single episodes": ("--lamer.num_episodes", "1"),
    "shaped rewards": ("--lamer.reward", "shaped"),
    "returns `paper`": ("--lamer.cross_episode", "paper"),
    "returns `chained`": ("--lamer.cross_episode", "chained"),
    "returns `difference`": ("--lamer.cross_episode", "difference"),
    "trials that go on after a success": ("--lamer.stop_on_success", "off"),
    "a budget of turns": ("--lamer.turn_budget", "5"),
    "reflections on won episodes": ("--lamer.stop_on_success", "off", "--lamer.reflect_on_success", "on"),
    "thinking, a template that forgets thoughts": ("--lamer.thinking", "on"),
    "anchors by similarity (`lamer_gigpo`)": ("--lamer.gigpo.similarity", "0.9"),
    "divided by the spread": ("--lamer.norm", "mean_std"),
    "quirks of the reference code": ("--lamer.reference",),
    "equal weight of turns": ("--lamer.loss_weight", "turn"),
    "steps of whole groups": ("--lamer.updates", "2"),
    "padded rows": ("--lamer.forward", "padded"),
    "dynamic filtering": ("--algo.dynamic_filtering_enable",),
    "learnable tasks first": ("--lamer.task_sampling", "learnable"),
    "asynchronous": ("--train.async_enable",),
    "partial rollouts": ("--train.async_enable", "--train.partial_rollout_enable"),
    "two actors, ZeRO-3": ("--actor.num_gpus_per_node", "2", "--ds.zero_stage", "3"),
    "shared GPUs": ("--train.colocate_all", "--ds.enable_sleep"),
    "LoRA": ("--ds.lora.rank", "8"),
    "KL as loss": ("--algo.kl.init_coef", "0.1", "--algo.kl.use_loss"),
    "KL in the reward": ("--algo.kl.init_coef", "0.1"),
    "dual clip": ("--actor.dual_clip", "3"),
    "GSPO's loss": ("--actor.policy_loss_type", "gspo"),
    "correction by sequence": ("--algo.advantage.is_correction_level", "seq"),
}
"""Flags of each row."""


@dataclass(frozen=True)
class Cell:
    """An option with an estimator in a context.

    Attributes:
        option: Key of `OPTIONS`.
        estimator: The estimator.
        context: The context.
    """

    option: str
    estimator: str
    context: str

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags of the command."""
        two_actors = "--actor.num_gpus_per_node" in OPTIONS[self.option] and self.estimator in ("lamer_ppo", "gae")
        critics = ("--critic.num_gpus_per_node", "2") if two_actors else ()
        return (ESTIMATOR, self.estimator, "--lamer.context", self.context, *OPTIONS[self.option], *critics)

    @property
    def tested(self) -> bool:
        """Whether a run of the tests has these flags."""
        return any(_pairs(self.flags) <= _pairs(run) for run in RUNS.values())


def cells() -> list[Cell]:
    """All cells, row by row."""
    estimators = (*advantage.names(), *HOSTS)
    return [Cell(option, each, context) for option in OPTIONS for each in estimators for context in CONTEXTS]


def refusal(cell: Cell, base: Sequence[str]) -> str | None:
    """The message with which a command is refused, without names of this command; None if it passes every check.

    Args:
        cell: The options.
        base: The rest of the command; the model's folder comes last.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            launcher.prepare([*base, *cell.flags])
    except LamerError as error:
        said = str(error).replace(base[-1], "MODEL").replace(f"the host's {cell.estimator}", "this estimator")
        return said.replace(cell.estimator, "this estimator")
    return None


@contextmanager
def stage() -> Iterator[list[str]]:
    """Files that a command needs, and the part of it that names them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "train.jsonl", seeded_tasks("sokoban", "train", 16))
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text(json.dumps({"max_position_embeddings": 32768}))
        (folder / "model" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
        thinking(build_tokenizer(["x"], 300, 32768), SWITCHED).save_pretrained(folder / "model")
        before = {key: os.environ.get(key) for key in ("RAY_TMPDIR", "RAY_ADDRESS")}
        os.environ |= {"RAY_TMPDIR": name, "RAY_ADDRESS": "local"}
        try:
            yield [
                *(
                    "--agent_func",
                    "openrlhf_lamer.agents.sokoban",
                    "--data.prompt_dataset",
                    str(folder / "train.jsonl"),
                ),
                *("--actor.model_name_or_path", str(folder / "model")),
            ]
        finally:
            for key, value in before.items():
                os.environ.pop(key, None)
                os.environ |= {} if value is None else {key: value}


def table(found: Mapping[Cell, str | None]) -> str:
    """Markdown of the table, with the reasons of refusals as numbered notes."""
    notes: dict[str, int] = {}

    def mark(cell: Cell) -> str:
        reason = found[cell]
        if reason is None:
            return TESTED if cell.tested else WORKS
        return str(notes.setdefault(reason, len(notes) + 1))

    estimators = list(dict.fromkeys(cell.estimator for cell in found))
    lines = [f"| option | {' | '.join(f'`{each}`' for each in estimators)} |", "|---|" + "---|" * len(estimators)]
    for option in dict.fromkeys(cell.option for cell in found):
        row = (" ".join(mark(Cell(option, each, context)) for context in CONTEXTS) for each in estimators)
        lines.append(f"| {option} | {' | '.join(row)} |")
    reasons = (f"{number}. {reason}" for reason, number in notes.items())
    return "\n".join([*lines, "", "Refused because:", "", *reasons])


def _pairs(flags: Sequence[str]) -> set[tuple[str, str]]:
    """Flags with their values, those of `lamer_gigpo` by turn where they are not given."""
    found = {ESTIMATOR: "lamer_gigpo", "--lamer.context": "turn"}
    for flag, value in zip(flags, (*flags[1:], "--"), strict=True):
        if flag.startswith("--"):
            found[flag] = "" if value.startswith("--") else value
    return set(found.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    page = parser.parse_args().docs / "capabilities.md"
    with stage() as base:
        found = {cell: refusal(cell, base) for cell in cells()}
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
