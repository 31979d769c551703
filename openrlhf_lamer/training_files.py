"""Files that a training writes: its trials, a line each, and beside them the settings that it had.

`trials.jsonl` has `trials.settings.json` beside it. Both are in the order of steps. If a training resumes from an
earlier checkpoint and writes a step again, the step replaces what they hold of it and of later ones.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.files import write_json
from openrlhf_lamer.records import SchemaError

SCHEMA = 1

NAMED = {"config": "--lamer.", "host": "--", "agent": "agent ", "packages": ""}
"""Groups of settings, and what stands before a setting's own name."""

DECISIVE = ("agent", "estimator", "config", "host")
"""Settings that a command line decides on; the others are versions."""


@dataclass(frozen=True)
class Part:
    """Steps of a training in which its settings did not change.

    Attributes:
        from_step: The first of them.
        settings: The settings, ready for JSON.
    """

    from_step: int
    settings: Mapping[str, Any]


def settings_file(trials: Path) -> Path:
    """File of the settings that trials were played with."""
    return trials.with_suffix(".settings.json")


def evaluated(settings: Mapping[str, Any], config: LamerConfig) -> dict[str, Any]:
    """A training's settings with the number of episodes of its evaluations, as `LamerConfig.evaluated` says."""
    return {**settings, "config": {**settings["config"], "num_episodes": config.evaluated().num_episodes}}


def write_step(trials: Path, step: int, lines: Iterable[str], settings: Mapping[str, Any]) -> None:
    """Write the trials of a step to the end of a file, in place of those of this and later steps.

    Args:
        trials: The file; its folder is made if need be.
        step: The step, which every line has under `step`.
        lines: JSON objects, without their ends.
        settings: The training's settings, ready for JSON.

    Raises:
        SchemaError: The settings beside the file are of another version.
    """
    trials.parent.mkdir(parents=True, exist_ok=True)
    earlier = [part for part in read_parts(trials) if part.from_step < step]
    now = json.loads(json.dumps(settings))
    if not earlier or earlier[-1].settings != now:
        parts = [asdict(part) for part in (*earlier, Part(step, now))]
        write_json(settings_file(trials), {"schema": SCHEMA, "parts": parts})
    _cut(trials, step)
    with trials.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def read_parts(trials: Path) -> tuple[Part, ...]:
    """Settings that a file of trials has beside it, in the order of steps; empty if it has none.

    Raises:
        SchemaError: They are of another version, or no settings.
    """
    path = settings_file(trials)
    if not path.is_file():
        return ()
    try:
        found = json.loads(path.read_text("utf-8"))
        schema, listed = found["schema"], found["parts"] if found["schema"] == SCHEMA else ()
        parts = tuple(Part(int(part["from_step"]), dict(part["settings"])) for part in listed)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise SchemaError(f"{path} holds no settings of a training ({error!r}); remove it") from error
    if schema != SCHEMA:
        raise SchemaError(f"{path} is of schema {schema}; this version of openrlhf-lamer reads {SCHEMA}")
    return parts


def read_settings(trials: Path) -> dict[str, Any]:
    """The last settings of a file of trials, with earlier values under `before step N`; raises as `read_parts`."""
    parts = read_parts(trials)
    if not parts:
        return {}
    found = dict(parts[-1].settings)
    for part, following in pairwise(parts):
        was, then = named(part.settings), named(following.settings)
        changed = {name: was.get(name) for name in {**was, **then} if was.get(name) != then.get(name)}
        found[f"before step {following.from_step}"] = changed
    return found


def named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings one by one: flags by their names, versions by the package's."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= {f"{NAMED.get(key, f'{key}: ')}{name}": each for name, each in value.items()}
        else:
            found[key] = value
    return found


def shown(value: Any) -> str:
    """A setting for people."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> Iterator[str]:
    """Settings in which two command lines differ, a phrase each."""
    own = json.loads(json.dumps(mine))
    was, now = (named({key: each[key] for key in DECISIVE if key in each}) for each in (theirs, own))
    for name in {**was, **now}:
        if was.get(name) != now.get(name):
            yield f"{name} is {_told(was, name)} there and {_told(now, name)} here"


def _told(settings: Mapping[str, Any], name: str) -> str:
    return shown(settings[name]) if settings.get(name) is not None else "not given"


def last_step(trials: Path) -> int | None:
    """The last step in a file of trials; None if it holds none. Raises `SchemaError` if no training wrote it."""
    if not trials.is_file() or not trials.stat().st_size:
        return None
    with trials.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return next((step for step, _ in _backwards(content)), None)


def _cut(trials: Path, step: int) -> None:
    """Cut off the lines of this and later steps, and a last line without its end, which a killed process left."""
    if not trials.is_file() or not trials.stat().st_size:
        return
    with trials.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            end = next((end for found, end in _backwards(content) if found < step), 0)
        file.truncate(end)


def _backwards(content: mmap.mmap) -> Iterator[tuple[int, int]]:
    """The step of each whole line and where the line ends, from the last one: a file of gigabytes is not read whole."""
    end = content.rfind(b"\n") + 1
    while end:
        begin = content.rfind(b"\n", 0, end - 1) + 1
        line = content[begin:end]
        try:
            step = int(json.loads(line)["step"])
        except (ValueError, LookupError, TypeError) as error:
            raise SchemaError(
                f"it has a line that no training wrote: {line[:80].decode(errors='replace')!r}"
            ) from error
        yield step, end
        end = begin
