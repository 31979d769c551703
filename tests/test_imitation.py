"""Imitation of demonstrations, against plain passes over each row, and the tokenizer of a model from scratch."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lamp_doors import RULES, doors, finder

from openrlhf_lamer.chat import Chat
from openrlhf_lamer.packed import Tokens
from openrlhf_lamer.records import Failure, FailureKind, Trial
from openrlhf_lamer.rows import Row, Span, trial_rows

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from openrlhf_lamer.update.model import unable
from openrlhf_lamer.warmstart import imitation, measures
from openrlhf_lamer.warmstart.imitation import Imitation, imitate, scored
from openrlhf_lamer.warmstart.model import build_model, build_tokenizer

pytest_plugins = "lamp_doors"


def small(chat: Chat, layers: int = 1, hidden: int = 32) -> Any:
    return build_model(chat.tokenizer, hidden=hidden, layers=layers, heads=2, max_length=2048, seed=0)


class TestTokenizer:
    @pytest.mark.parametrize("word", ["d3", "(2, 3)", "<action>", "</action>", "<remark>"])
    def test_what_replies_copy_is_one_token_with_or_without_a_space_before(self, word: str) -> None:
        tokenizer: Any = build_tokenizer([f"at {word}", word] * 20, 300, 64)
        (bare,), spaced = tokenizer.tokenize(word), tokenizer.tokenize(f"at {word}")
        assert spaced == (["at", f"Ġ{bare}"] if word.startswith("<") else ["at", "Ġ", bare])

    def test_cells_and_tags_of_a_board(self) -> None:
        tokenizer: Any = build_tokenizer(["Row 1: ? . 1 2 *", "Not (1, 2). <action>(1, 2)</action>"] * 10, 300, 64)
        assert tokenizer.tokenize(" ? . 1 2 *") == ["Ġ?", "Ġ.", "Ġ1", "Ġ2", "Ġ*"]
        text = "Not (1, 2). <action>(1, 2)</action>"
        assert tokenizer.tokenize(text) == ["Not", "Ġ", "(1,Ġ2)", ".", "Ġ<action>", "(1,Ġ2)", "</action>"]
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def row_of(ids: Sequence[int], spans: Sequence[Span] = ()) -> Row:
    return Row(Tokens(ids), tuple(spans))


def some_rows(vocabulary: int, number: int = 7) -> list[Row]:
    """Rows of different lengths that begin alike, with one span or two."""
    rng = random.Random(3)
    head = [rng.randrange(vocabulary) for _ in range(5)]
    rows = []
    for _ in range(number):
        ids = head + [rng.randrange(vocabulary) for _ in range(rng.randrange(3, 12))]
        middle = rng.randrange(4, len(ids) - 1)
        spans = [Span(0, middle, middle + 1, None), Span(1, len(ids) - 1, len(ids), None)]
        rows.append(row_of(ids, spans[rng.randrange(2) :]))
    return rows


def plainly(model: Any, row: Row) -> Any:
    """Log-probability of each token of a row but the first, from a pass over the row by itself."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row.ids])).logits[0, :-1]
    return logits.log_softmax(-1)[range(len(row.ids) - 1), list(row.ids[1:])]


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imitation in float32 throughout, so that its numbers can be compared closely."""
    monkeypatch.setattr(torch, "autocast", lambda *others, **named: nullcontext())


WINDOWED: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "sliding_window": 4,
}


def windowed() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**WINDOWED))


def gemma() -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    return Gemma3ForCausalLM(Gemma3TextConfig(**WINDOWED, head_dim=16))


class Sized(list[int]):
    """A tokenizer that has a size and control tokens, which is all that a model needs from it."""

    eos_token_id, pad_token_id = 1, 0


def forested() -> Any:
    return build_model(Sized(range(50)), hidden=32, layers=2, heads=2, max_length=64, seed=0)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("make", "able"), [(forested, True), (windowed, False), (gemma, False)])
@pytest.mark.parametrize("prompts", [True, False])
def test_tokens_score_as_in_a_pass_over_each_row(make: Callable[[], Any], able: bool, prompts: bool) -> None:
    model, rows = make().eval(), some_rows(50)
    assert (unable(model.config) == "") == able
    expected = [plainly(model, row) for row in rows]
    with torch.no_grad():
        found, sampled, others = scored(model, rows, prompts=prompts)
    assert found.shape == sampled.shape == others.shape == (len(rows), max(len(row.ids) for row in rows) - 1)
    for i, row in enumerate(rows):
        for place in range(found.shape[1]):
            token = place + 1
            in_reply = any(span.start <= token < span.end for span in row.spans)
            assert sampled[i, place] == in_reply
            assert others[i, place] == (token < len(row.ids) and not in_reply)
            if in_reply or (prompts and others[i, place]):
                assert float(found[i, place]) == pytest.approx(float(expected[i][place]), abs=1e-5)


def test_a_loss_is_computed_in_bfloat16_as_the_host_trains() -> None:
    """Mixed precision has 8 bits of mantissa: scores differ from float32's by some hundredths, and do differ."""
    model, rows = forested().eval(), some_rows(50)
    expected = [plainly(model, row) for row in rows]
    with torch.no_grad():
        found, sampled, _ = scored(model, rows)
    gaps = [abs(float(found[i, p]) - float(expected[i][p])) for i, p in sampled.nonzero().tolist()]
    assert 0 < max(gaps) < 0.05


class TestBatches:
    @pytest.mark.parametrize(("passes", "expected"), [(1.0, {1}), (2.0, {2}), (1.5, {1, 2}), (0.25, {0, 1})])
    def test_every_trial_is_read_as_often_as_there_are_passes(
        self, door_trials: list[Trial], passes: float, expected: set[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its rows stay together."""
        rows = [[row_of((0, n, k)) for k in range(1 + n % 3)] for n in range(40)]
        own = {trial.task.id: rows[n] for n, trial in enumerate(door_trials[:40])}
        monkeypatch.setattr(imitation, "trial_rows", lambda trial: own[trial.task.id])
        batches = imitation._batches(door_trials[:40], Imitation(passes=passes, batch_tokens=20, seed=5))
        flat = [row for batch in batches for row in batch]
        counts = dict.fromkeys(range(40), 0)
        while flat:
            number = flat[0].ids[1]
            counts[number] += 1
            assert flat[: len(rows[number])] == rows[number]
            del flat[: len(rows[number])]
        assert {*counts.values()} == expected
        assert sum(counts.values()) == 40 * passes

    def test_batches_hold_whole_trials_and_as_many_as_have_room(self, door_trials: list[Trial]) -> None:
        rows = [row for trial in door_trials for row in trial_rows(trial)]
        head = next(n for n in range(10_000) if len({tuple(row.ids[: n + 1]) for row in rows}) > 1)

        def size(batch: Sequence[Row]) -> int:
            return sum(len(row.ids) - head for row in batch)

        biggest = max(size(trial_rows(trial)) for trial in door_trials)
        batches = imitation._batches(door_trials, Imitation(batch_tokens=3 * biggest))
        assert all(size(batch) <= 3 * biggest for batch in batches)
        assert all(size(batch) > 2 * biggest for batch in batches[:-1])
        assert sum(map(len, batches)) == len(rows)
        alone = imitation._batches(door_trials, Imitation(batch_tokens=1))
        assert len(alone) == len(door_trials)

    def test_the_order_follows_from_the_seed(self, door_trials: list[Trial]) -> None:
        first, again, other = (imitation._batches(door_trials, Imitation(seed=seed)) for seed in (1, 1, 2))
        assert first == again != other

    def test_failed_trials_are_left_out(self, door_trials: list[Trial]) -> None:
        failed = Trial(door_trials[0].task, door_trials[0].episodes, Failure(FailureKind.ENGINE, "generate", "boom"))
        (batch,) = imitation._batches([failed, door_trials[1]], Imitation(batch_tokens=10_000))
        assert batch == trial_rows(door_trials[1])

    def test_one_row_is_a_batch_though_all_of_it_begins_every_row(self, door_trials: list[Trial]) -> None:
        first = next(trial for trial in door_trials if len(trial.turns) == 1)
        for passes in (0.01, 1.0, 2.0):
            batches = imitation._batches([first], Imitation(passes=passes))
            assert [row for batch in batches for row in batch] == trial_rows(first) * max(1, int(passes))

    @given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=6))
    def test_the_common_beginning(self, ids: list[list[int]]) -> None:
        shortest = min(map(len, ids))
        expected = next((n for n in range(shortest) if len({each[n] for each in ids}) > 1), shortest)
        assert imitation._common_head([row_of(each) for each in ids]) == expected


class TestImitation:
    def test_it_lowers_the_loss_and_teaches_to_read_the_memory(self, door_chat: Chat, door_trials: list[Trial]) -> None:
        model, rules, held_out = small(door_chat, hidden=64), RULES, doors(5000, 60)
        before = measures._certain(model, door_chat, rules, held_out, finder(door_chat))
        losses: list[tuple[float, float]] = []
        settings = Imitation(passes=4, batch_tokens=1024, learning_rate=5e-3)
        last = imitate(model, door_trials, settings, lambda done, loss: losses.append((done, loss)))
        after = measures._certain(model.eval(), door_chat, rules, held_out, finder(door_chat))
        assert last == losses[-1][1] < losses[0][1] / 4
        assert [done for done, _ in losses] == pytest.approx([(n + 1) / len(losses) for n in range(len(losses))])
        assert len(before) == len(after) > 20
        assert fmean(before) < 1e-4
        assert fmean(after) > 1 / 9  # a choice of any action in the right form

    @pytest.mark.usefixtures("exact")
    @pytest.mark.parametrize("weight", [0.0, 0.5])
    def test_a_step_is_the_gradient_of_the_mean_over_tokens(
        self, door_chat: Chat, door_trials: list[Trial], weight: float
    ) -> None:
        """A single batch: the reported loss is that of replies, before the step, with prompts weighed beside it."""
        model, plain = small(door_chat), small(door_chat)
        settings = Imitation(batch_tokens=1 << 30, prompt_weight=weight, learning_rate=1.0)
        loss = imitate(model, door_trials[:6], settings)
        replies, prompts = [], []
        for row in (row for trial in door_trials[:6] for row in trial_rows(trial)):
            logits = plain(input_ids=torch.tensor([row.ids])).logits[0, :-1]
            for place, score in enumerate(logits.log_softmax(-1)[range(len(row.ids) - 1), list(row.ids[1:])]):
                inside = any(span.start <= place + 1 < span.end for span in row.spans)
                (replies if inside else prompts).append(score)
        expected = -torch.stack(replies).mean()
        assert loss == pytest.approx(float(expected.detach()), abs=1e-4)
        (expected - weight * torch.stack(prompts).mean()).backward()
        # A single step is taken at the least rate. Adam's first one moves each weight against its gradient's sign.
        for (name, trained), own in zip(model.named_parameters(), plain.parameters(), strict=True):
            assert own.grad is not None
            clear = own.grad.abs() > 1e-4
            moved = trained.detach() - own.detach()
            assert torch.equal(moved[clear].sign(), -own.grad[clear].sign()), name

    @pytest.mark.parametrize("number", [1, 2, 9, 10, 11])
    def test_any_number_of_batches_will_do(self, door_chat: Chat, door_trials: list[Trial], number: int) -> None:
        steps: list[float] = []
        imitate(
            small(door_chat), door_trials[:number], Imitation(batch_tokens=1), lambda done, loss: steps.append(done)
        )
        assert len(steps) == number
