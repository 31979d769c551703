"""The prompt dataset, checked before anything is started: every row must hold a task that an agent plays."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openrlhf_lamer.config import ConfigError
from openrlhf_lamer.envs import TaskError
from openrlhf_lamer.games import Game
from openrlhf_lamer.records import SchemaError, Task

REMEDY = "Make one: openrlhf-lamer prepare tasks --env {env} --split {split} --num {num} --out {out}"


@dataclass(frozen=True)
class Dataset:
    """Contents of a dataset.

    Attributes:
        rows: How many tasks.
        options: For each environment among the tasks, the options that its tasks give it, each once.
        first: The first task of each environment in each file, with its place for messages.
    """

    rows: int = 0
    options: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    first: Sequence[tuple[str, Task]] = ()


def check_dataset(flag: str, paths: str, split: str, label_key: str, agents: Mapping[str, str]) -> Dataset:
    """Check that every row of a dataset holds a task that an agent plays.

    Args:
        flag: The flag that named it, for the message.
        paths: What the flag was given: paths separated by commas.
        split: Which split the host will read.
        label_key: The column of the task.
        agents: Names of the agents, by their environment.

    Raises:
        ConfigError: naming the flag, the file and row, and the command that makes a dataset.
    """
    env = next(iter(agents))
    kind = {"split": "eval", "num": 128} if flag == "eval.dataset" else {"split": "train", "num": 4096}
    remedy = REMEDY.format(env=env, out=f"data/{env}", **kind)
    count = 0
    options: dict[str, dict[str, Mapping[str, Any]]] = {}
    first: list[tuple[str, Task]] = []
    for part in paths.split(","):
        path = Path(part.split("@")[0].strip())
        if not path.exists():
            there = REMEDY.format(env=env, out=path, **kind) if path.suffix == ".jsonl" else remedy
            raise ConfigError(f"--{flag} {path}: there is no such file or folder. {there}")
        rows, seen = 0, set()
        for rows, row in enumerate(_rows(path, split), start=1):
            where = f"--{flag} {path}, row {rows}"
            if label_key not in row:
                raise ConfigError(f"{where}: no column {label_key!r} with a task. {remedy}")
            try:
                task = Task.from_json(row[label_key])
            except SchemaError as error:
                raise ConfigError(f"{where}: {error}. {remedy}") from error
            if task.env not in agents:
                given = ", ".join(f"{name} ({env})" for env, name in agents.items())
                raise ConfigError(
                    f"{where}: a task of {task.env!r}, but no agent of --agent_func plays it: {given}. Add one, after "
                    f"a comma, or leave these tasks out. {remedy}"
                )
            options.setdefault(task.env, {}).setdefault(json.dumps(task.options, sort_keys=True), task.options)
            if task.env not in seen:
                seen.add(task.env)
                first.append((where, task))
        if not rows:
            raise ConfigError(f"--{flag} {path}: no rows in split {split!r}. {remedy}")
        count += rows
    return Dataset(count, {env: tuple(own.values()) for env, own in options.items()}, first)


def try_first(dataset: Dataset, played: Mapping[str, Game]) -> None:
    """Set up the first tasks of a dataset, each by its game; raises `ConfigError` where the data differ here."""
    for where, task in dataset.first:
        game = played[task.env]
        try:
            game.agent.try_task(task, reward=game.config.reward, options=game.config.env_options)
        except TaskError as error:
            raise ConfigError(f"{where}: {error}") from error


def check_shares(paths: str, shares: str | None) -> None:
    """Check `--data.prompt_probs`, which the host reads in a process of its own and does not check.

    Raises:
        ConfigError: They are not one share above 0 for each file, with a sum of 1.
    """
    if shares is None:
        return
    try:
        values = [float(share) for share in shares.split(",")]
    except ValueError:
        values = []
    files = len(paths.split(","))
    if len(values) != files or min(values) <= 0 or abs(sum(values) - 1) > 1e-8:
        raise ConfigError(
            f"--data.prompt_probs {shares}: give a share above 0 for each of the {files} files of "
            f"--data.prompt_dataset, with a sum of 1, such as {','.join(_equal(files))}"
        )


def _equal(parts: int) -> list[str]:
    """Equal shares with three digits, whose sum is 1."""
    each = 1000 // parts / 1000
    return [f"{share:.3g}" for share in (*[each] * (parts - 1), 1 - each * (parts - 1))]


def _rows(path: Path, split: str) -> Iterator[dict[str, str]]:
    """Rows of a dataset as the host will read it; JSON lines need no library."""
    file = path if path.is_file() else path / f"{split}.jsonl"
    if file.suffix == ".jsonl" and file.is_file():
        with file.open() as lines:
            for line in lines:
                yield json.loads(line)
        return
    from datasets import load_dataset, load_from_disk

    if (path.is_dir() and (path / "state.json").exists()) or (path / "dataset_dict.json").exists():
        data = load_from_disk(str(path))
    elif path.is_dir():
        data = load_dataset(str(path))
    else:
        data = load_dataset(path.suffix.removeprefix("."), data_files=str(path))
    yield from data[split] if isinstance(data, dict) else data  # pyright: ignore[reportReturnType]
