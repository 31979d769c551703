"""Task sets mixed from others: proportions, draws, and what the host makes of several files."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from openrlhf_lamer.cli.main import app
from openrlhf_lamer.mixing import mixed
from openrlhf_lamer.records import Task
from openrlhf_lamer.tasks import read_dataset, seeded_tasks, write_dataset

SETS = {name: seeded_tasks(name, "train", size) for name, size in (("sokoban", 30), ("minesweeper", 20), ("doors", 7))}


def counts(tasks: list[Task]) -> dict[str, int]:
    return dict(Counter(task.env for task in tasks))


@pytest.mark.parametrize(
    ("weights", "num", "expected"),
    [
        (None, None, {"sokoban": 30, "minesweeper": 20, "doors": 7}),
        ([2, 2, 1], None, {"sokoban": 14, "minesweeper": 14, "doors": 7}),
        ([4, 2, 1], None, {"sokoban": 28, "minesweeper": 14, "doors": 7}),
        ([1, 1, 1], 10, {"sokoban": 4, "minesweeper": 3, "doors": 3}),  # 3.33 each: one is left over
        ([0.5, 0.3, 0.2], 10, {"sokoban": 5, "minesweeper": 3, "doors": 2}),
        ([0.7, 0.2, 0.1], 30, {"sokoban": 21, "minesweeper": 6, "doors": 3}),
        ([90, 9, 1], 10, {"sokoban": 9, "minesweeper": 1}),
        (None, 57 // 3, {"sokoban": 10, "minesweeper": 7, "doors": 2}),  # 10, 6.67 and 2.33
    ],
)
def test_sets_are_mixed_in_the_proportions_asked_for(
    weights: list[float] | None, num: int | None, expected: dict[str, int]
) -> None:
    found = mixed(SETS, weights, num, seed=0)
    assert counts(found) == expected
    assert len({task.id for task in found}) == len(found)
    assert all(task in SETS[task.env] for task in found)


def test_a_seed_decides_draws_and_order_and_both_are_random() -> None:
    once, again, other = (mixed(SETS, [1, 1, 1], 12, seed) for seed in (3, 3, 4))
    assert once == again
    assert {task.id for task in once} != {task.id for task in other}
    # Of 1,000 mixtures, each of 30 tasks is in 4 of 30, and each place holds each game as often.
    seen, places = Counter[int](), Counter[int]()
    for seed in range(1000):
        for place, task in enumerate(mixed(SETS, [1, 1, 1], 12, seed)):
            if task.env == "sokoban":
                seen[task.seed or 0] += 1
                places[place] += 1
    assert all(abs(seen[n] - 1000 * 4 / 30) < 5 * (1000 * 4 / 30) ** 0.5 for n in range(30))
    assert all(abs(places[n] - 1000 / 3) < 5 * (1000 * 2 / 9) ** 0.5 for n in range(12))


def test_no_task_is_repeated_to_fill_a_share() -> None:
    with pytest.raises(ValueError, match=r"doors has 7 tasks, and 8 of 24 would be its; at most 2[12] fit"):
        mixed(SETS, [1, 1, 1], 24, seed=0)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{name}.jsonl" for name in ("sokoban", "minesweeper")]
    for path in paths:
        write_dataset(path, SETS[path.stem])
    return list(map(str, paths))


def prepare(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["prepare", "mix", *arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_the_command_writes_a_dataset(files: list[str], tmp_path: Path) -> None:
    told = prepare(*files, "--weights", "1,3", "--num", "16", "--seed", "5", "--out", str(tmp_path / "both"))
    assert told.startswith("16 tasks (12 minesweeper, 4 sokoban) in ")
    found = read_dataset(tmp_path / "both" / "train.jsonl")
    assert found == mixed({name: SETS[name] for name in ("sokoban", "minesweeper")}, [1, 3], 16, 5)
    held_out = tmp_path / "held.jsonl"
    write_dataset(held_out, seeded_tasks("doors", "eval", 2))
    write_dataset(tmp_path / "more.jsonl", seeded_tasks("sokoban", "eval", 2))
    prepare(str(held_out), str(tmp_path / "more.jsonl"), "--out", str(tmp_path / "both"))
    assert counts(read_dataset(tmp_path / "both" / "eval.jsonl")) == {"doors": 2, "sokoban": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{0}"], "is one file; give two or more"),
        (["{0}", "{0}"], "given twice"),
        (["{0}", "{1}", "--weights", "1"], "--weights 1: give a number above 0 for each of the 2 files, such as 1,1"),
        (["{0}", "{1}", "--weights", "1,0"], "--weights 1,0: give a number above 0"),
        (["{0}", "{1}", "--weights", "1,inf"], "--weights 1,inf: give a number above 0"),
        (["{0}", "{1}", "--weights", "one,two"], "--weights one,two: give a number above 0"),
        (["{0}", "{1}", "--num", "51"], "--num 51: .* has 30 tasks, and .*; at most 50 fit; prepare more of its tasks"),
        (["{0}", "nowhere.jsonl"], "nowhere.jsonl: No such file"),
        (["{0}", "{dir}/empty.jsonl"], "empty.jsonl: no tasks there; make some with `openrlhf-lamer prepare tasks`"),
        (["{0}", "{dir}/eval.jsonl"], "some tasks are of the split train and others are not"),
        (["{0}", "{1}", "--out", "{1}"], "would overwrite .*minesweeper.jsonl"),
    ],
)
def test_what_cannot_be_mixed_is_refused(files: list[str], tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    write_dataset(tmp_path / "eval.jsonl", seeded_tasks("doors", "eval", 2))
    given = [each.format(*files, dir=tmp_path) for each in arguments]
    told = prepare(*given, *([] if "--out" in given else ["--out", str(tmp_path / "out")]), code=2)
    assert re.search(message, told), told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shares", [None, "0.75,0.25"])
def test_the_host_blends_files_and_keeps_every_task(
    files: list[str], tmp_path: Path, shares: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's own code, from the files to what its loader gives: a task that is repeated is the same task."""
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("openrlhf")
    from openrlhf.datasets.prompts_dataset import PromptDataset
    from openrlhf.datasets.utils import blending_datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = SimpleNamespace(input_key="input", label_key="label", apply_chat_template=False)
    strategy: Any = SimpleNamespace(
        print=lambda *_: None, is_rank_0=lambda: False, args=SimpleNamespace(data=data, use_ms=False)
    )
    rows = PromptDataset(blending_datasets(",".join(files), shares, strategy, 42), None, strategy)
    found = [Task.from_json(rows[n][2]) for n in range(len(rows))]
    assert [rows[n][:2] for n in range(len(rows))] == [(task.env, task.id) for task in found]
    expected = SETS["sokoban"] + SETS["minesweeper"]
    assert {task.to_json() for task in found} == {task.to_json() for task in expected}
    games = counts(found)
    if shares is None:
        assert games == {"sokoban": 30, "minesweeper": 20}
    else:  # until the tasks of both files have been drawn: those of the first again
        assert games["minesweeper"] == 20
        assert games["sokoban"] / 20 == pytest.approx(3, rel=0.35)
        assert json.loads(rows[0][2])["split"] == "train"
