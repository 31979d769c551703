"""Task sets and the command that writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from openrlhf_lamer.cli.main import app
from openrlhf_lamer.records import SchemaError, Task
from openrlhf_lamer.tasks import SEEDS, read_dataset, seeded_tasks, write_dataset


def test_training_and_evaluation_never_share_a_seed() -> None:
    train, evaluation = SEEDS["train"], SEEDS["eval"]
    assert train.stop <= evaluation.start
    with pytest.raises(ValueError, match="are not among them"):
        seeded_tasks("minesweeper", "train", 2, first=len(train) - 1)


def test_a_dataset_survives_the_disk(tmp_path: Path) -> None:
    tasks = seeded_tasks("sokoban", "eval", 5, options={"boxes": 3})
    write_dataset(tmp_path / "deep" / "eval.jsonl", tasks)
    assert read_dataset(tmp_path / "deep" / "eval.jsonl") == tasks


def test_prepare_writes_what_the_host_reads(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app,
        ["prepare", "tasks", "--env", "minesweeper", "--num", "7", "--out", str(tmp_path), "--options", '{"mines": 4}'],
    )
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert len(rows) == 7
    for seed, row in enumerate(rows):
        assert set(row) == {"input", "label", "datasource"}
        assert json.loads(row["label"])["schema"] == 1
        assert Task.from_json(row["label"]) == Task("minesweeper", seed=seed, options={"mines": 4}, split="train")


@pytest.mark.parametrize("source", ["file", "folder"])
def test_the_hosts_own_loader_reads_it(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_dataset(tmp_path / "data" / "train.jsonl", seeded_tasks("minesweeper", "train", 3))
    write_dataset(tmp_path / "data" / "eval.jsonl", seeded_tasks("minesweeper", "eval", 2))
    if source == "folder":
        data = datasets.load_dataset(str(tmp_path / "data"))
    else:
        data = datasets.load_dataset("json", data_files=str(tmp_path / "data" / "train.jsonl"))
    assert len(data["train"]) == 3
    assert Task.from_json(data["train"][0]["label"]).seed == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "chess"], "chess"),
        (["--env", "minesweeper", "--options", '{"bombs": 1}'], "bombs"),
        (["--env", "minesweeper", "--options", "mines"], "--options"),
        (["--env", "minesweeper", "--num", str(2**31)], "--num"),
    ],
)
def test_what_cannot_be_prepared_is_said(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["prepare", "tasks", "--out", str(tmp_path), *arguments])
    assert result.exit_code == 2
    assert message in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "not JSON"),
        ("{}", "no schema version"),
        ('{"schema": 2, "env": "x", "seed": 1}', "schema 2"),
        ('{"schema": 1, "env": "x"}', "exactly one of seed and spec"),
        ('{"schema": 1, "seed": 1}', "env"),
    ],
)
def test_what_is_no_task_is_said(text: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        Task.from_json(text)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"label": "{\\"schema\\": 2, \\"env\\": \\"sokoban\\", \\"seed\\": 1}"}', "a task of schema 2; this version"),
        ('{"input": "sokoban"}', "no task in a column 'label'"),
        ('{"label": "{', "no task in a column 'label'"),
    ],
)
def test_a_dataset_of_another_version_is_named_with_its_line_and_the_remedy(
    tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "eval.jsonl"
    write_dataset(path, seeded_tasks("sokoban", "eval", 2))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(SchemaError, match=rf"eval\.jsonl, line 3: {message}.*`openrlhf-lamer prepare tasks`"):
        read_dataset(path)
