"""Rows on their way to the optimizer: the order in which they are trained, and the count of what was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn

pytest.importorskip("openrlhf")
pytest.importorskip("vllm")

import torch

from openrlhf_lamer.integration import cpu

if not cpu.cuda_available():
    cpu.install()  # the host imports CUDA's packages otherwise

from openrlhf_lamer.integration.rollout.sample import TrialExperience
from openrlhf_lamer.integration.training.experience_maker import LamerExperienceMaker

Maker = Callable[..., LamerExperienceMaker]
STEP = 8
"""Rows of an optimizer step, as in `maker`."""


def samples(groups: int, seed: int = 0, turns: int = 4) -> list[TrialExperience]:
    """Trials of one episode; prompts and replies get longer from turn to turn."""
    result = []
    for number in range(groups * 4):
        played = tuple(
            Turn(
                Phase.PLAY,
                0,
                t,
                range(number + 1, number + 3 + 9 * t),
                (900,) * (1 + t),
                None,
                "",
                "x",
                True,
                t,
                "s",
                "",
            )
            for t in range(turns)
        )
        trial = Trial(Task("minesweeper", seed=number // 4), (Episode(played, Stop.LOST, ""),), seed=seed + number)
        given = {"prompt": "", "label": "", "reward": 0.0, "scores": 0.0, "truncated": False, "trial": trial}
        result.append(TrialExperience.from_response(given))
    return result


def trained(experiences: list[Any], ranks: int) -> list[list[Any]]:
    """Rows in the order in which the host trains them under tensor parallelism, by optimizer step.

    Each rank keeps its rows as they come, without shuffling them, and takes its share of each step's.
    """
    from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer

    share = len(experiences) // ranks
    buffers = []
    for rank in range(ranks):
        buffer: Any = NaiveReplayBuffer.__new__(NaiveReplayBuffer)
        buffer.cpu_offload, buffer.limit, buffer.items = False, 0, []
        for experience in experiences[rank * share : (rank + 1) * share]:
            buffer.append(experience)
        buffers.append(buffer.items)
    own = STEP // ranks
    return [
        [row for items in buffers for row in items[start : start + own]] for start in range(0, len(buffers[0]), own)
    ]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_steps_are_alike_where_the_host_does_not_shuffle(maker: Maker, ranks: int) -> None:
    """12 real rows and 4 fillers, and larger batches: fillers in all steps, and tokens that weigh about the same."""
    made = maker("lamer_gigpo", ranks=ranks)
    made.args.ds.tensor_parallel_size, made.args.actor.num_gpus_per_node = 2, 2 * ranks
    for groups in (1, 5, 17):
        given = samples(groups, turns=3)
        steps = trained(made.make_experience_batch(given), ranks)
        assert [len(step) for step in steps] == [STEP] * -(-len(given) * 3 // STEP)
        tokens = [sum(int(row.action_mask.sum()) for row in step) for step in steps]
        fillers = [sum(int(row.action_mask.sum()) == 0 for row in step) for step in steps]
        assert max(fillers) - min(fillers) <= 1
        assert max(fillers) < STEP
        assert max(tokens) / min(tokens) < 3
        lengths = [int(row.total_length) for step in steps for row in step]
        if groups > 1:
            correlation = np.corrcoef(np.arange(len(lengths)), lengths)[0, 1]
            assert abs(correlation) < 0.5


def test_what_belongs_to_a_row_stays_with_it(maker: Maker) -> None:
    """Ids, masks, advantages and what is logged: every row once, as it was before it was dealt."""
    made = maker("lamer_gigpo", ranks=2)
    experiences = made.make_experience_batch(samples(5))
    assert made.batch is not None
    assert made.batch.rows is not None
    assert made.batch.advantages is not None
    rows = made.batch.rows
    positions = [p for experience in experiences for p in experience.index]
    assert sorted(positions) == list(range(len(rows.rows) + rows.filled))
    for experience in experiences:
        for line, position in enumerate(experience.index):
            if position >= len(rows.rows):
                assert not experience.action_mask[line].any()
                continue
            row, owner = rows.rows[position], int(rows.owner[position])
            count = int(experience.attention_mask[line].sum())
            assert experience.sequences[line][:count].tolist() == list(row.ids)
            mask = experience.action_mask[line].bool()
            assert int(mask.sum()) == row.sampled == int(experience.response_length[line])
            (span,) = row.spans
            expected = torch.full((row.sampled,), float(made.batch.advantages[owner][span.turn]))
            torch.testing.assert_close(experience.advantages[line][mask], expected)
            earned = made.batch.trials[owner].scalar_return(0.6)
            assert float(experience.info["reward"][line]) == pytest.approx(earned)


def test_the_order_follows_from_the_seeds(maker: Maker) -> None:
    def order(run: int, trials: int) -> list[int]:
        made = maker("lamer_gigpo")
        made.args.train.seed = run
        return [p for experience in made.make_experience_batch(samples(3, trials)) for p in experience.index]

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(run, trials)) for run in (1, 2) for trials in (0, 100)}) == 4


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A process group of this process."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.usefixtures("one_process")
def test_more_tokens_are_counted_than_single_precision_can(monkeypatch: pytest.MonkeyPatch, copies: int) -> None:
    """2^24 + 1 tokens, and more: through the host's own reduction."""
    from openrlhf.utils.deepspeed.deepspeed import DeepspeedStrategy

    from openrlhf_lamer.integration.training.actors import ROWS_TRAINED, TOKENS_TRAINED, LamerPolicyActor

    sampled = [2**24 - 1, 2, 2**26, 13]
    strategy: Any = DeepspeedStrategy.__new__(DeepspeedStrategy)
    strategy.world_size, strategy.ring_attn_size, strategy.ds_tensor_parallel_size = 1, 1, copies
    actor: Any = LamerPolicyActor.__new__(LamerPolicyActor)
    actor.strategy, actor.actor = strategy, SimpleNamespace(model=SimpleNamespace(global_steps=3))

    def step(tokens: int) -> dict[str, Any]:
        return {"num_samples": 4.0, "num_action_tokens": float(tokens), "metrics": {}}

    host = LamerPolicyActor.__mro__[1]
    monkeypatch.setattr(host, "init_model_from_pretrained", lambda self: None)
    monkeypatch.setattr(
        host, "fit", lambda self, kl_ctl: {"n": len([self.trainer.training_step(n) for n in sampled * copies])}
    )
    actor.trainer = SimpleNamespace(training_step=step)
    actor.init_model_from_pretrained()
    status = actor.fit()
    assert status[TOKENS_TRAINED] == sum(sampled)
    assert status[ROWS_TRAINED] == 4 * len(sampled)
