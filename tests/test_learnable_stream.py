"""Tasks drawn by what they taught: order, epochs and resumption, on engines that end trials in any order."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from simulated_engines import SAMPLES, SIZE, TASKS, Make, epoch, loader, tasks

from openrlhf_lamer.integration.rollout.learnable_stream import LearnableStream
from openrlhf_lamer.integration.rollout.task_stream import CheckpointError, Draw, TaskStream
from openrlhf_lamer.learnability import FLOOR, SMOOTHING
from openrlhf_lamer.records import Task


def third(task: Task, sample: int) -> str:
    """A third of the tasks teach: their trials are won at the first, second and third attempt."""
    assert task.seed is not None
    return ["1", "01", "001"][sample] if task.seed % 3 == 0 else "000"


def teaches(name: str) -> bool:
    return int(name.split("=")[1]) % 3 == 0


def drawn(stream: Any) -> list[Draw]:
    return list(iter(stream.draw, None))


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("generated", [SIZE, 3 * SIZE])
def test_an_epoch_has_as_many_draws_as_there_are_tasks(make: Make, partial: bool, generated: int) -> None:
    generator, _ = make(sampling="learnable", partial=partial, generated=generated, outcome=third)
    assert len(generator.prompts_dataloader) == TASKS
    for number in range(3):
        batches = epoch(generator)
        assert [used for _, used, _ in batches] == [SIZE] * (TASKS // SIZE)
        assert batches[-1][2]["lamer_drawn"] == (number + 1) * TASKS
        for batch, _, _ in batches:
            groups = [batch[start : start + SAMPLES] for start in range(0, len(batch), SAMPLES)]
            assert all(len({trial.task.id for trial in group}) == 1 for group in groups)


def test_tasks_that_taught_something_are_drawn_more_often_and_others_still_are(make: Make) -> None:
    """Once all are known, a task weighs 1 if it teaches, else the floor: 8 of 24 tasks share 1 / (1 + 2 · floor)."""
    generator, _ = make(sampling="learnable", outcome=third)
    for _ in range(10):
        epoch(generator)
    known = generator.prompts_dataloader.state_dict()["lamer_known"]
    assert known.keys() == set(range(TASKS)), "every task was played"
    names = [name for _ in range(60) for batch, _, _ in epoch(generator) for name in tasks(batch)[::SAMPLES]]
    expected, count = len(names) / (1 + 2 * FLOOR), sum(map(teaches, names))
    spread = (expected * (1 - expected / len(names))) ** 0.5
    assert abs(count - expected) < 4 * spread
    assert count > 2 * len(names) / 3, "drawn uniformly, it would be a third"
    assert len(set(names)) == TASKS


def test_a_draw_knows_what_was_delivered_before_it() -> None:
    """Weights are worked out by hand from the groups delivered, whatever was drawn ahead of them."""
    stream = LearnableStream(loader(), 7)
    stream.begin()
    first, second = stream.draw(), stream.draw()
    assert first
    assert second
    index = {f"minesweeper:seed={seed}": seed for seed in range(TASKS)}
    stream.deliver(first, 4.0)
    assert stream.state_dict()["lamer_known"] == {index[first.prompt]: 4.0}
    stream.deliver(second, None)
    assert stream.state_dict()["lamer_known"] == {index[first.prompt]: 4.0}, "a group without a result says nothing"
    again = next(draw for draw in drawn(stream) if not stream.deliver(draw, 0.0) and draw.prompt == first.prompt)
    assert again.number > 1
    assert stream.state_dict()["lamer_known"][index[first.prompt]] <= 4.0 * (1 - SMOOTHING)


def test_the_order_follows_from_the_seed_and_what_was_taught() -> None:
    def order(seed: int, taught: float) -> list[str]:
        stream = LearnableStream(loader(), seed)
        names = []
        for _ in range(4):
            stream.begin()
            while draw := stream.draw():
                stream.deliver(draw, taught * (len(names) % 2))
                names.append(draw.prompt)
        return names

    assert order(1, 1.0) == order(1, 1.0)
    assert order(1, 1.0) == order(1, 2.0), "only the proportions count"
    assert order(1, 1.0) != order(2, 1.0)
    assert order(1, 1.0) != order(1, 0.0)
    assert max(Counter(order(1, 0.0)).values()) > 4, "draws are with replacement"


def some_fail(task: Task, sample: int) -> str:
    """As `third`, but one of the tasks that teach nothing always loses a trial, and another all but one."""
    failing = {1: {1}, 2: {0, 1}}.get(task.seed or 0, set())
    return "f" if sample in failing else third(task, sample)


@pytest.mark.parametrize(
    ("partial", "filtering", "generated"),
    [
        *((False, False, SIZE), (False, False, 3 * SIZE), (False, True, SIZE), (False, True, 2 * SIZE)),
        *((True, False, SIZE), (True, False, 3 * SIZE)),
    ],
)
def test_a_run_resumed_after_any_batch_draws_as_one_without_interruption(
    make: Make, partial: bool, filtering: bool, generated: int
) -> None:
    settings = {"partial": partial, "filtering": filtering, "generated": generated, "outcome": some_fail}
    settings |= {"sampling": "learnable"}
    generator, _ = make(**settings)
    whole = [epoch(generator) for _ in range(3)]
    assert sum(map(len, whole)) > 6
    for n, batches in enumerate(whole):
        for place, (_, _, state) in enumerate(batches):
            resumed, _ = make(seed=place + 1, state=state, **settings)
            expected = [batches[place + 1 :], *whole[n + 1 :]]
            # Epoch by epoch: the host ends its epoch, too, when the tasks of one are used up.
            rest = [epoch(resumed) for _ in expected]
            assert [seeds(own) for own in rest] == [seeds(own) for own in expected], f"epoch {n}, after batch {place}"
            assert [[state for *_, state in own] for own in rest] == [[state for *_, state in own] for own in expected]


def seeds(batches: list[Any]) -> list[list[tuple[str, int, int | None]]]:
    return [[(t.task.id, t.sample, t.seed) for t in batch] for batch, _, _ in batches]


def test_with_partial_rollouts_and_filtering_what_was_drawn_ahead_is_played_again(make: Make) -> None:
    """How many draws a batch takes depends on which trials end first then; those of the checkpoint are kept."""
    settings = {"partial": True, "filtering": True, "outcome": third, "sampling": "learnable"}
    generator, _ = make(**settings)
    generator.generate_samples()
    state = generator.prompts_dataloader.state_dict()
    assert len(state["lamer_held"]) >= SIZE
    resumed, simulated = make(seed=9, state=state, **settings)
    assert resumed.prompts_dataloader.state_dict() == state
    resumed.generate_samples()
    names = list(dict.fromkeys((name, seed) for name, sample, seed in simulated.played if sample == 0))
    first = [f"minesweeper:seed={task}" for task in state["lamer_held"]]
    assert [name for name, _ in names][: len(first)] == first


def test_a_checkpoint_of_the_other_order_or_other_data_is_refused() -> None:
    uniform, learnable = TaskStream(loader(), 1), LearnableStream(loader(), 1)
    uniform.begin()
    draw = uniform.draw()
    assert draw
    uniform.deliver(draw, 1.0)
    with pytest.raises(CheckpointError, match=r"--lamer.task_sampling learnable: .*without it"):
        learnable.load_state_dict(uniform.state_dict())
    with pytest.raises(CheckpointError, match=r"with --lamer.task_sampling learnable: add it"):
        TaskStream(loader(), 1).load_state_dict(learnable.state_dict())
    with pytest.raises(CheckpointError, match="24 tasks, but the checkpoint was written with 25"):
        learnable.load_state_dict(learnable.state_dict() | {"lamer_tasks": TASKS + 1})


def test_the_uniform_order_is_that_of_the_hosts_loader(make: Make) -> None:
    host = loader()
    host.sampler.generator.manual_seed(42)  # pyright: ignore[reportOptionalMemberAccess]
    expected = [prompt for _, (prompt,), _, _ in host]
    generator, _ = make(outcome=third)
    assert [name for batch, _, _ in epoch(generator) for name in tasks(batch)[::SAMPLES]] == expected
    assert "lamer_known" not in generator.prompts_dataloader.state_dict()
