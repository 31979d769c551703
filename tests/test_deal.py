"""Rows on their way to the optimizer: the order in which they are trained, and the count of what was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from stand_ins import host_strategy

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn

pytest.importorskip("openrlhf")
pytest.importorskip("vllm")

import torch

from openrlhf_lamer.integration import cpu

if not cpu.cuda_available():
    cpu.install()  # the host imports CUDA's packages otherwise

from openrlhf_lamer.integration.rollout.sample import TrialExperience
from openrlhf_lamer.integration.training.buffer import PlannedBuffer
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
    """The host's training: for each rank the micro-batches of its dynamic batches, in their order."""
    share = len(experiences) // ranks
    assert share * ranks == len(experiences)
    found = []
    for rank in range(ranks):
        buffer = PlannedBuffer(3, cpu_offload=False)
        for experience in experiences[rank * share : (rank + 1) * share]:
            buffer.append(experience)
        buffer.setup_dynamic_batch(None)
        batches: list[Any] = [buffer.collate_fn([buffer[number]]) for number in range(len(buffer))]
        assert sum(map(len, buffer.dynamic_indices)) == len(buffer.items)
        for number, batch in enumerate(batches):
            batch.step = sum(buffer.dynamic_optimizer_step[:number])
            batch.divisor = buffer.dynamic_batch_num_tokens[number]
        found.append(batches)
    return found


def steps_of(made: LamerExperienceMaker, given: list[TrialExperience], ranks: int) -> list[list[Any]]:
    """Micro-batches of each optimizer step, over all ranks; checks that the ranks keep in step."""
    by_rank = trained(made.make_experience_batch(given), ranks)
    for together in zip(*by_rank, strict=True):
        assert len({batch.step for batch in together}) == 1
    everything = [batch for batches in by_rank for batch in batches]
    return [[b for b in everything if b.step == step] for step in range(1 + max(b.step for b in everything))]


@pytest.mark.parametrize("forest", [True, False])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_steps_hold_about_as_many_rows_and_divide_by_their_own_tokens(maker: Maker, ranks: int, forest: bool) -> None:
    made = maker("lamer_gigpo", ranks=ranks, forest=forest)
    for groups in (1, 5, 17):
        given = samples(groups, turns=3)
        steps = steps_of(made, given, ranks)
        assert len(steps) == -(-len(given) * 3 // STEP)
        for step in steps:
            rows = sum(int((batch.action_mask.sum(1) > 0).sum()) for batch in step)
            assert STEP / 2 <= rows <= 1.5 * STEP
            assert {batch.divisor for batch in step} == {sum(int(batch.action_mask.sum()) for batch in step)}
        lengths = [int(length) for step in steps for batch in step for length in batch.total_length]
        if groups > 1:
            assert abs(np.corrcoef(np.arange(len(lengths)), lengths)[0, 1]) < 0.5


@pytest.mark.parametrize("groups", [2, 3, 5])
def test_updates_are_as_many_as_said_in_batches_of_any_size(maker: Maker, groups: int) -> None:
    made = maker("lamer_gigpo", ranks=2, config=LamerConfig(updates=2))
    steps = steps_of(made, samples(groups), 2)
    assert len(steps) == 2
    assert made.batch is not None
    assert made.batch.rows is not None
    assert sum(len(batch.sequences) for step in steps for batch in step) == len(made.batch.rows.rows) == groups * 4 * 4


def test_a_rank_without_rows_runs_one_that_counts_nowhere(maker: Maker) -> None:
    """Two trials of one row each, on four ranks."""
    made = maker("lamer_gigpo", ranks=4, group=2)
    experiences = made.make_experience_batch(samples(1, turns=1)[:2])
    assert [int(experience.action_mask.sum() > 0) for experience in experiences].count(1) == 2
    fillers = [experience for experience in experiences if not experience.action_mask.any()]
    assert [filler.index for filler in fillers] == [[-1], [-1]]
    assert all(batch.divisor == 2 for batches in trained(experiences, 4) for batch in batches)


@pytest.mark.parametrize("forest", [True, False])
def test_what_belongs_to_a_row_stays_with_it(maker: Maker, forest: bool) -> None:
    """Ids, masks, advantages and what is logged: every row once, as it was before it was dealt."""
    made = maker("lamer_gigpo", ranks=2, forest=forest)
    experiences = made.make_experience_batch(samples(5))
    assert made.batch is not None
    assert made.batch.rows is not None
    assert made.batch.advantages is not None
    rows = made.batch.rows
    positions = [p for experience in experiences for p in experience.index]
    assert sorted(positions) == list(range(len(rows.rows)))
    for experience in experiences:
        for line, position in enumerate(experience.index):
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


def test_advantages_are_weighed(maker: Maker) -> None:
    """By turn: turns of 1 to 4 tokens all have the same total weight."""
    found = {}
    for by in ("token", "turn"):
        made = maker("lamer_gigpo", config=LamerConfig(loss_weight=by))
        made.make_experience_batch(samples(2))
        dealt = {p: (e, line) for e in made.make_experience_batch(samples(2)) for line, p in enumerate(e.index)}
        assert made.batch is not None
        # Turns of 1 to 4 tokens: 2.5 on average.
        assert made.batch.weights == pytest.approx({"token": (1.0, 1.0), "turn": (2.5 / 4, 2.5)}[by])
        found[by] = [dealt[p][0].advantages[dealt[p][1]] for p in range(len(dealt))]
    for plain, weighed in zip(found["token"], found["turn"], strict=True):
        tokens = int((plain != 0).sum())
        if tokens:  # 80 tokens in 32 turns
            torch.testing.assert_close(weighed.sum(), plain.sum() * (80 / 32) / tokens)


def test_forests_process_each_distinct_token_once(maker: Maker) -> None:
    counted = {}
    for forest in (True, False):
        made = maker("lamer_gigpo", forest=forest)
        experiences = made.make_experience_batch(samples(3))
        assert made.batch is not None
        counted[forest] = made.batch.processed
        if forest:
            rows = [
                [
                    tuple(ids[: int(mask.sum())].tolist())
                    for ids, mask in zip(e.sequences, e.attention_mask, strict=True)
                ]
                for e in experiences
            ]
            distinct = sum(len({row[:n] for row in own for n in range(1, len(row) + 1)}) for own in rows)
            assert counted[True] == distinct
        else:
            assert counted[False] == sum(e.sequences.numel() for e in experiences)
    assert counted[True] < counted[False]


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
    """2^24 + 1 tokens, and more: through the host's own reduction. Losses are logged as means over tokens."""
    from openrlhf.utils.deepspeed.deepspeed import DeepspeedStrategy

    from openrlhf_lamer.integration.training.actors import ROWS_TRAINED, TOKENS_TRAINED, LamerPolicyActor

    sampled, sums = [2**24 - 1, 2, 2**26, 13], [-1e6, 3.0, 5e6, 0.5]
    strategy: Any = DeepspeedStrategy.__new__(DeepspeedStrategy)
    strategy.world_size, strategy.ring_attn_size, strategy.ds_tensor_parallel_size = 1, 1, copies
    flags: dict[str, Any] = {"train.micro_batch_size": 1, "ds.lora.rank": 0}
    flags |= {"actor.model_name_or_path": None, "critic.model_name_or_path": None}
    strategy.args, strategy.ds_device_mesh = host_strategy(flags).args, {"dp": SimpleNamespace(size=lambda: 1)}
    actor: Any = LamerPolicyActor.__new__(LamerPolicyActor)
    marked: list[bool] = []
    engine = SimpleNamespace(global_steps=3, set_gradient_accumulation_boundary=marked.append)
    actor.strategy, actor.actor = strategy, SimpleNamespace(model=engine)

    def step(experience: Any, kl_ctl: float, number: int, info: None) -> dict[str, Any]:
        tokens, loss = sampled[number % 4], sums[number % 4] / sum(sampled)
        metrics, weights = {"policy_loss": torch.tensor(loss), "lr": 0.5}, {"policy_loss": "token", "lr": None}
        return {"num_samples": 5.0, "num_action_tokens": float(tokens), "metrics": metrics, "weights": weights}

    logged = []

    def fit(self: Any, kl_ctl: float) -> dict[str, float]:
        rows = SimpleNamespace(action_mask=torch.tensor([[1], [1], [0], [1], [1]]))  # a filler among them
        logged.extend(self.trainer.training_step(rows, 0.0, number, None)["metrics"] for number in range(4 * copies))
        return {}

    host = LamerPolicyActor.__mro__[1]
    monkeypatch.setattr(host, "init_model_from_pretrained", lambda self, strategy: None)
    monkeypatch.setattr(host, "fit", fit)
    actor.trainer = SimpleNamespace(training_step=step)
    actor.init_model_from_pretrained(strategy)
    actor.trainer.replay_buffer.dynamic_batch_num_tokens = [sum(sampled)] * 4 * copies
    actor.trainer.replay_buffer.dynamic_optimizer_step = [0, 0, 0, 1] * copies
    status = actor.fit()
    assert marked == [False, False, False, True] * copies
    assert status[TOKENS_TRAINED] == sum(sampled)
    assert status[ROWS_TRAINED] == 4 * len(sampled)
    for metrics, total, tokens in zip(logged, sums * copies, sampled * copies, strict=True):
        assert float(metrics["policy_loss"]) == pytest.approx(total / tokens, rel=1e-5)
        assert metrics["lr"] == 0.5
