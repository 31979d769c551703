"""Which prompts are drawn and which groups make a batch, on engines that end trials in any order."""

from __future__ import annotations

import math
from concurrent.futures import Future
from typing import Any

import pytest
from simulated_engines import (
    SAMPLES,
    SIZE,
    TASKS,
    Make,
    epoch,
    loader,
    some_alike,
    tasks,
)

from openrlhf_lamer.integration.rollout.task_stream import TaskStream, generation_window, trial_seed


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("limit", [None, 1, 3])
@pytest.mark.parametrize("generated", [SIZE, 3 * SIZE])
def test_an_epoch_is_played_in_whole_groups_in_the_order_of_its_prompts(
    make: Make, partial: bool, limit: int | None, generated: int
) -> None:
    generator, simulated = make(limit=limit, partial=partial, generated=generated)
    batches = epoch(generator)
    played = [trial for batch, _, _ in batches for trial in batch]
    assert len(batches) == TASKS // SIZE
    assert [used for _, used, _ in batches] == [SIZE] * len(batches)
    assert [trial.sample for trial in played] == list(range(SAMPLES)) * TASKS
    order = [trial.task.id for trial in played[::SAMPLES]]
    assert order == list(dict.fromkeys(name for name, _, _ in simulated.played))
    assert len(set(order)) == TASKS
    assert [trial.seed for trial in played] == [
        trial_seed(42, "train", number, sample) for number in range(TASKS) for sample in range(SAMPLES)
    ]
    assert sorted(simulated.played) == sorted((t.task.id, t.sample, t.seed) for t in played)
    assert simulated.tokenizers == 2
    assert limit is None or max(simulated.most) == limit

    again = [trial.task.id for batch, _, _ in epoch(generator) for trial in batch]
    assert sorted(again) == sorted(tasks(played))
    assert again != tasks(played)


def test_nothing_runs_on_but_with_partial_rollouts_and_then_one_batch_at_most(make: Make) -> None:
    generator, simulated = make(generated=2 * SIZE)
    for _ in range(3):
        generator.generate_samples()
        assert not simulated.running
    generator, simulated = make(partial=True)
    ahead = []
    for delivered in range(1, TASKS // SIZE + 1):
        generator.generate_samples()
        ahead.append(len(simulated.running))
        begun = len({name for name, _, _ in simulated.played})
        assert begun <= (delivered + 1) * SIZE
    assert max(ahead) > 0
    assert ahead[-1] == 0


@pytest.mark.parametrize(
    ("generated", "partial", "ahead"),
    [(SIZE, False, 0), (SIZE + 1, False, 1), (3 * SIZE, False, 2), (SIZE, True, 1), (3 * SIZE, True, 2)],
)
def test_a_trial_is_begun_as_many_batches_ahead_as_the_window_says(
    make: Make, generated: int, partial: bool, ahead: int
) -> None:
    window = generation_window(generated, SIZE, partial=partial)
    assert math.ceil(window / SIZE) - 1 == ahead
    generator, simulated = make(generated=generated, partial=partial)
    begun: dict[str, int] = {}
    earlier = []
    for call in range(TASKS // SIZE):
        samples, *_ = generator.generate_samples()
        begun |= {name: call for name, _, _ in simulated.played if name not in begun}
        earlier += [call - begun[sample.trial.task.id] for sample in samples]
    assert len(earlier) == TASKS * SAMPLES
    assert max(earlier) == ahead


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("filtering", [False, True])
@pytest.mark.parametrize("generated", [SIZE, 2 * SIZE])
def test_a_run_resumed_after_any_batch_goes_on_as_one_without_interruption(
    make: Make, partial: bool, filtering: bool, generated: int
) -> None:
    """The same tasks, the same seeds, nothing skipped or repeated, over the end of an epoch too."""
    settings = {"partial": partial, "filtering": filtering, "generated": generated, "outcome": some_alike}
    generator, _ = make(**settings)
    whole = epoch(generator) + epoch(generator)
    first = next(i for i, (_, _, state) in enumerate(whole) if state["lamer_drawn"] > TASKS)
    for place in range(len(whole) - 1):
        resumed, _ = make(seed=place + 1, state=whole[place][2], **settings)
        rest = epoch(resumed)
        if place < first:  # the epoch's last checkpoint has an empty rest
            rest += epoch(resumed)
        expected = [[(t.task.id, t.sample, t.seed) for t in batch] for batch, _, _ in whole[place + 1 :]]
        assert [[(t.task.id, t.sample, t.seed) for t in batch] for batch, _, _ in rest] == expected


def test_dynamic_filtering_judges_groups_of_trials(make: Make) -> None:
    """A group that is all won is replaced; one with a failed trial passes, and counts towards the limit on failures."""
    generator, simulated = make(filtering=True, outcome=some_alike)
    passed = []
    for batch, used, _ in epoch(generator):
        names = tasks(batch)[::SAMPLES]
        assert names == sorted(names, key=lambda name: [n for n, _, _ in simulated.played].index(name))
        assert used >= len(names)
        passed += names
    assert len(passed) == TASKS - TASKS // 3
    assert "minesweeper:seed=7" in passed
    assert not any(int(name.split("=")[1]) % 3 == 0 for name in passed)


def test_the_share_that_passed_is_in_percent(make: Make) -> None:
    generator, _ = make(filtering=True, outcome=some_alike)
    samples, rate, used, _ = generator.generate_samples()
    assert rate == pytest.approx(100 * len(samples) / SAMPLES / used)


def test_an_evaluation_is_in_the_order_of_its_prompts_and_draws_no_seed_of_training(make: Make) -> None:
    """It may run while trials of training do: these go on, and are delivered after it."""
    generator, simulated = make(partial=True, limit=2)
    first, *_ = generator.generate_samples()
    assert simulated.running
    before = len(simulated.played)
    twice = [generator.generate_eval_samples(n_samples_per_prompt=2, temperature=0.0) for _ in range(2)]
    assert {name for name, _, _ in simulated.played[before : before + 4]} <= set(tasks([s.trial for s in twice[0]]))
    assert len(simulated.evaluated) == 2 * 2 * TASKS
    assert set(simulated.evaluated) == {(s.trial.task.id, s.trial.sample, s.trial.seed) for s in twice[0]}
    one, other = ([(s.trial.task.id, s.trial.sample, s.trial.seed) for s in samples] for samples in twice)
    assert one == other
    assert [name for name, _, _ in one[::2]] == [f"minesweeper:seed={seed}" for seed in range(TASKS)]
    assert [sample for _, sample, _ in one] == [0, 1] * TASKS
    seeds = {seed for _, _, seed in one}
    rest = [trial for batch, _, _ in epoch(generator) for trial in batch]
    trained = [s.trial for s in first] + rest
    assert len(trained) == TASKS * SAMPLES
    assert not seeds & {trial.seed for trial in trained}


@pytest.mark.parametrize("partial", [False, True])
def test_an_evaluation_filters_nothing_and_says_nothing_of_it(
    make: Make, partial: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups of training that end meanwhile are filtered as usual."""
    from openrlhf_lamer.integration.rollout import generator as module

    said: list[str] = []
    monkeypatch.setattr(module.logger, "info", said.append)
    generator, _ = make(filtering=True, partial=partial, outcome=some_alike)
    batches = [[s.trial for s in generator.generate_samples()[0]]]
    samples = generator.generate_eval_samples(n_samples_per_prompt=1)
    assert len(samples) == TASKS
    assert all(sample.trial.won == (sample.trial.task.seed % 3 == 0) for sample in samples)
    batches += [batch for batch, _, _ in epoch(generator)]
    solved = {f"minesweeper:seed={seed}" for seed in range(0, TASKS, 3)}
    judged = sorted(line.split()[2].rstrip(":") for line in said)
    assert judged == sorted(solved), "each group of training that is all won, once"
    assert not solved & {trial.task.id for batch in batches for trial in batch}


def test_what_a_rollout_showed_comes_with_it_through_a_pickle(make: Make) -> None:
    import pickle

    generator, _ = make(limit=2)
    samples, *_ = generator.generate_samples()
    copy = pickle.loads(pickle.dumps(samples))
    assert copy.metrics == samples.metrics
    assert [s.trial for s in copy] == [s.trial for s in samples]
    assert samples.metrics["prefix_cache_hit_rate"] == pytest.approx(0.4)
    assert 0 < samples.metrics["concurrent_trials"] <= 4
    assert 0 <= samples.metrics["idle_slots"] < 1


def test_an_engine_that_dies_ends_the_batch_at_once(make: Make) -> None:
    generator, simulated = make()
    simulated.get = lambda: (0.0, (None, 0), broken())  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ConnectionError, match="the actor died"):
        generator.generate_samples()


def broken() -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(ConnectionError("the actor died"))
    return future


def test_a_checkpoint_of_the_host_itself_can_be_read() -> None:
    """One written before prompts were numbered: the place in the data is right, and the numbers begin again."""
    host = loader()
    prompts = iter(host)
    seen = [next(prompts)[1][0] for _ in range(5)]
    stream = TaskStream(loader(), 42)
    stream.load_state_dict(host.state_dict())
    stream.begin()
    draws = []
    while (draw := stream.draw()) is not None:
        draws.append(draw)
    assert [draw.number for draw in draws] == list(range(TASKS - 5))
    assert not {draw.prompt for draw in draws} & set(seen)
    assert not stream.open


def test_the_order_of_tasks_follows_from_the_seed_of_the_run() -> None:
    def order(seed: int) -> list[str]:
        stream = TaskStream(loader(), seed)
        stream.begin()
        return [draw.prompt for draw in iter(stream.draw, None)]

    assert order(1) == order(1) != order(2)
