"""Costs of training: trials, tokens and time of an update, and success by episodes played.

They come from the `trials.jsonl` of trainings. A trial's time is the time that it waited for the engine and the
environment. The rollout of an update takes at least as long as its slowest trial, since all its trials run at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from plans import PANELS, TITLES, Setup, Training
from tables import Folders, page, paper

from openrlhf_lamer.evaluation import viewer
from openrlhf_lamer.evaluation.plots import Panel, Series, draw
from openrlhf_lamer.evaluation.run import RunError
from openrlhf_lamer.evaluation.statistics import Estimate, share
from openrlhf_lamer.evaluation.tables import Table
from openrlhf_lamer.records import SchemaError

NAME = "budget"
TITLE = "What training costs"
ROWS = {"GiGPO": "gigpo", "LaMer": "lamer"}
TRAININGS = {(row, TITLES[env]): Training(env, model) for env in PANELS for row, model in ROWS.items()}
STRETCHES = 10
"""Points of a learning curve."""


@dataclass(frozen=True)
class Update:
    """The rollout of one update.

    Attributes:
        episodes: Episodes played.
        tokens: Sampled tokens.
        seconds: Time of its slowest trial.
        won: Attempt at which each trial was won, or None; failed trials are left out.
    """

    episodes: int
    tokens: int
    seconds: float
    won: Sequence[int | None]


def read(file: Path) -> list[Update]:
    """Updates of a training, in order; steps that a resumed training repeated count once, as repeated.

    Raises:
        RunError: The file cannot be read, or does not come from a training.
    """
    steps: dict[int, list[viewer.Entry]] = {}
    try:
        with file.open(encoding="utf-8") as lines:
            for entry in viewer.each(lines):
                if entry.step is None:
                    raise RunError(f"{file} has trials without a training step; give what --lamer.trials wrote")
                if steps and entry.step < next(reversed(steps)):
                    steps = {step: own for step, own in steps.items() if step < entry.step}
                steps.setdefault(entry.step, []).append(entry)
    except (OSError, UnicodeDecodeError, SchemaError) as error:
        raise RunError(f"{file}: {error}") from error
    return [_update(own) for own in steps.values()]


def _update(entries: Sequence[viewer.Entry]) -> Update:
    trials = [entry.trial for entry in entries]
    live = [trial for trial in trials if trial.failure is None]
    return Update(
        episodes=sum(len(trial.episodes) for trial in trials),
        tokens=sum(len(turn.sampled_ids) for trial in trials for turn in trial.turns),
        seconds=max(trial.generation_seconds + trial.environment_seconds for trial in trials),
        won=[next((n for n, episode in enumerate(trial.episodes, 1) if episode.won), None) for trial in live],
    )


def write(setup: Setup, folders: Folders, out: Path) -> list[Path]:
    """Write CSV, Markdown and PNG; returns their paths."""
    found: dict[tuple[str, str], list[list[Update]]] = {}
    missing: list[str] = []
    for place, training in TRAININGS.items():
        planned = [training.folder(setup, seed) for seed in setup.seeds]
        given = folders.get(f"{training.env}/{training.model}")
        there = [each for each in given or planned if given or (each / "trials.jsonl").is_file()]
        found[place] = [read(each / "trials.jsonl" if each.is_dir() else each) for each in there]
        lacking = [] if given else [seed for seed, each in zip(setup.seeds, planned, strict=True) if each not in there]
        missing += training.data(setup) if lacking else []
        missing += [training.command(setup, seed) for seed in lacking]
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"{NAME}.{suffix}" for suffix in ("csv", "md", "png")]
    table = costs(found)
    files[0].write_text(table.to_csv(), "utf-8")
    note = (
        "Means of an update. Its rollout takes at least as long as its slowest trial, since all trials run at once; "
        f"compare times on the same machines only. Paper: {paper(NAME).source}."
    )
    files[1].write_text(page(table, note, files[2].name, list(dict.fromkeys(missing))), "utf-8")
    files[2].write_bytes(draw(curves(found), "png"))
    return files


def costs(found: Mapping[tuple[str, str], Sequence[Sequence[Update]]]) -> Table:
    """Means over the updates of all seeds, and time as a multiple of GiGPO's."""
    rows = []
    for (row, task), runs in found.items():
        updates = [update for run in runs for update in run]
        baseline = [update for run in found["GiGPO", task] for update in run]
        published = paper(NAME).figures[row]["Time of GiGPO's"]
        if not updates:
            rows.append((row, task, 0, 0, None, None, None, None, published))
            continue
        episodes, tokens = (fmean(getattr(update, name) for update in updates) for name in ("episodes", "tokens"))
        seconds = fmean(update.seconds for update in updates)
        times = seconds / fmean(update.seconds for update in baseline) if baseline else None
        rows.append((row, task, len(runs), len(updates), episodes, tokens, seconds, times, published))
    columns = ("row", "task", "runs", "updates", "episodes", "tokens", "slowest trial, s", "of GiGPO's time", "paper")
    return Table(NAME, TITLE, columns, tuple(rows))


def curves(found: Mapping[tuple[str, str], Sequence[Sequence[Update]]]) -> list[Panel]:
    """Success in training against episodes played, in stretches of a tenth of the training."""
    panels = []
    for task in dict.fromkeys(task for _, task in found):
        series = []
        for row in ROWS:
            runs = found[row, task]
            most = max((n for run in runs for update in run for n in update.won if n), default=1)
            for attempts in sorted({1, most}):
                points = _curve(runs, attempts)
                series.append(Series(f"{row}, p@{attempts}", [x for x, _ in points], [y for _, y in points]))
        panels.append(Panel(task, "episodes played", "solved in training", tuple(series), share=True))
    return panels


def _curve(runs: Sequence[Sequence[Update]], attempts: int) -> list[tuple[float, Estimate]]:
    length = max((-(-len(run) // STRETCHES) for run in runs), default=0)
    points = []
    for low in range(0, max(map(len, runs), default=0), max(1, length)):
        parts = [run[low : low + length] for run in runs if len(run) > low]
        played = fmean(sum(update.episodes for update in run[: low + length]) for run in runs)
        # Each trial of a stretch counts as a task, since most are of different tasks.
        values = [
            {
                f"{u}/{i}": [float(won is not None and won <= attempts)]
                for u, update in enumerate(part)
                for i, won in enumerate(update.won)
            }
            for part in parts
        ]
        points.append((played, share(values)))
    return points
