"""The prompt dataset, checked before anything is started: every row must hold a task of the agent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf_lamer.agents.base import Agent
from openrlhf_lamer.config import ConfigError, LamerConfig
from openrlhf_lamer.envs import TaskError
from openrlhf_lamer.records import SchemaError, Task

REMEDY = "Make one: openrlhf-lamer prepare tasks --env {env} --split train --num 4096 --out data/{env}"


@dataclass(frozen=True)
class Dataset:
    """Contents of a dataset.

    Attributes:
        rows: How many tasks.
        options: The options that its tasks give their environment, each once.
    """

    rows: int
    options: tuple[Mapping[str, Any], ...]


def check_dataset(flag: str, paths: str, split: str, label_key: str, agent: Agent, config: LamerConfig) -> Dataset:
    """Check that every row of a dataset holds a task of the agent, and that the first one can be set up.

    Args:
        flag: The flag that named it, for the message.
        paths: What the flag was given: paths separated by commas.
        split: Which split the host will read.
        label_key: The column of the task.
        agent: The agent.
        config: How it plays.

    Raises:
        ConfigError: naming the flag, the file and row, and the command that makes a dataset.
    """
    env, remedy = agent.env, REMEDY.format(env=agent.env)
    count = 0
    options: dict[str, Mapping[str, Any]] = {}
    for part in paths.split(","):
        path = Path(part.split("@")[0].strip())
        if not path.exists():
            raise ConfigError(f"--{flag} {path}: there is no such file or folder. {remedy}")
        rows = 0
        for rows, row in enumerate(_rows(path, split), start=1):
            where = f"--{flag} {path}, row {rows}"
            if label_key not in row:
                raise ConfigError(f"{where}: no column {label_key!r} with a task. {remedy}")
            try:
                task = Task.from_json(row[label_key])
            except SchemaError as error:
                raise ConfigError(f"{where}: {error}. {remedy}") from error
            if task.env != env:
                raise ConfigError(
                    f"{where}: a task of {task.env!r}, but the agent of --agent_func plays {env!r}. {remedy}"
                )
            options.setdefault(json.dumps(task.options, sort_keys=True), task.options)
            if rows == 1:
                try:
                    agent.try_task(task, reward=config.reward, options=config.env_options)
                except TaskError as error:
                    raise ConfigError(f"{where}: {error}") from error
        if not rows:
            raise ConfigError(f"--{flag} {path}: no rows in split {split!r}. {remedy}")
        count += rows
    return Dataset(count, tuple(options.values()))


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
