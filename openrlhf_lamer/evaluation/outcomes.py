"""Runs to compare: the outcome of each trial, read from the files that `eval` and training wrote.

Outcomes are small, records are not (a long training's take gigabytes), so files are read line by line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from openrlhf_lamer import manifest, metrics, panels, training_files
from openrlhf_lamer.evaluation import viewer
from openrlhf_lamer.evaluation.measured import measured_on
from openrlhf_lamer.evaluation.run import RunError, read_settings
from openrlhf_lamer.panels import Ceilings
from openrlhf_lamer.records import Failure, Phase, SchemaError, Task, Trial
from openrlhf_lamer.text_chat import counts_characters


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a trial.

    Attributes:
        task: The task.
        failure: Why it has no result, or None.
        wins: Numbers of the episodes that were won, from 1.
        paths: For each episode, a number that is equal for equal actions in equal states.
        step: The training step, or None in an evaluation.
        group: The group in its step; None as for `step`.
        play_turns: Turns in the environment.
        invalid_turns: How many of them the environment refused.
        unit: Unit of the next three: characters for a player without a tokenizer, otherwise tokens.
        prompt_length: Length of all prompts together.
        reply_length: Length of what was sampled in play turns.
        reflection_length: Length of what was sampled in reflections.
    """

    task: Task
    failure: Failure | None
    wins: tuple[int, ...]
    paths: tuple[int, ...]
    step: int | None = None
    group: int | None = None
    play_turns: int = 0
    invalid_turns: int = 0
    unit: Literal["tokens", "characters"] = "tokens"
    prompt_length: int = 0
    reply_length: int = 0
    reflection_length: int = 0

    def won_by(self, attempts: int) -> bool:
        """Success at `attempts`, as in `Trial.won_by`."""
        return bool(self.wins) and self.wins[0] <= attempts

    @property
    def goes_on(self) -> bool:
        """Whether an episode follows one that was won."""
        return bool(self.wins) and self.wins[0] < len(self.paths)

    @classmethod
    def of(cls, trial: Trial, step: int | None = None, group: int | None = None) -> Outcome:
        """The outcome of a trial, with its step and group in training."""
        turns = trial.turns
        play = [turn for turn in turns if turn.phase is Phase.PLAY]
        return cls(
            task=trial.task,
            failure=trial.failure,
            wins=trial.wins,
            # Hashes of 64 bits: among a million different paths two are taken for equal once in 40 million files.
            paths=tuple(hash(path) for path in metrics.paths_of(trial)),
            step=step,
            group=group,
            play_turns=len(play),
            invalid_turns=sum(not turn.valid for turn in play),
            unit="characters" if counts_characters(trial) else "tokens",
            prompt_length=sum(len(turn.prompt_ids) for turn in turns),
            reply_length=sum(len(turn.sampled_ids) for turn in play),
            reflection_length=sum(len(turn.sampled_ids) for turn in turns if turn.phase is Phase.REFLECT),
        )


@dataclass(frozen=True)
class Played:
    """The tasks of a run and the version of their panel: tasks of equal ids may differ between versions."""

    tasks: frozenset[str]
    version: int


@dataclass(frozen=True)
class Run:
    """The outcomes of one evaluation or training.

    Attributes:
        label: Its name. Evaluations with one label belong to one method, under several seeds.
        outcomes: One a trial.
        source: The file it was read from, if any.
        settings: Its settings, as far as they are known.
        expected: Its number of trials when it is done, if that is known.
    """

    label: str
    outcomes: tuple[Outcome, ...]
    source: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    expected: int | None = None

    @property
    def live(self) -> tuple[Outcome, ...]:
        """The outcomes of trials that did not fail."""
        return tuple(outcome for outcome in self.outcomes if outcome.failure is None)

    @property
    def trains(self) -> bool:
        """Whether these are a training's trials."""
        return any(outcome.step is not None for outcome in self.outcomes)

    @property
    def panel(self) -> Played:
        """Tasks that were played, and the version of their panel."""
        said = self.settings.get("panel")
        version = said.get("version", 1) if isinstance(said, dict) else 1
        return Played(frozenset(outcome.task.id for outcome in self.outcomes), version)

    @property
    def measured_on(self) -> str:
        """Name of the panel, or a description of the tasks."""
        return measured_on(self.settings, (outcome.task for outcome in self.outcomes))

    @property
    def ceilings(self) -> Ceilings | None:
        """The ceilings of its panel, if it played all tasks of one with the turns that the ceilings are for."""
        said, config = self.settings.get("panel"), self.settings.get("config")
        if not (isinstance(said, dict) and isinstance(config, dict)) or said.get("name") not in manifest.names():
            return None
        frozen = panels.load(said["name"])
        agent = self.settings.get("agent") == {"name": f"openrlhf_lamer.agents.{frozen.env}"}
        known = frozen.ceilings if agent and self.panel == Played(frozenset(frozen.states), frozen.version) else None
        return known if known and config.get("max_turns") in (None, known.turns) else None

    @property
    def attempts(self) -> int:
        """Most episodes of a trial: from its settings or, as under a budget of turns, the most that a trial had."""
        config = self.settings.get("config")
        known = config if isinstance(config, dict) else {}
        said = None if known.get("turn_budget") else known.get("num_episodes")
        return said if isinstance(said, int) else max((len(outcome.paths) for outcome in self.live), default=0)

    @classmethod
    def of(cls, label: str, trials: Iterable[Trial]) -> Run:
        """An evaluation made of trials."""
        return cls(label, tuple(Outcome.of(trial) for trial in trials))


def read_runs(arguments: Sequence[str]) -> list[Run]:
    """Read runs, each given by a folder of `eval`, or a file of trials; `LABEL=` before it names it.

    A run without a given label is called by the method and model in its `run.json`, else by its path. Runs get the
    same label where they are given it, or where their settings differ only in the seed. A training's settings are those
    beside its trials.

    Args:
        arguments: Folders or files.

    Raises:
        RunError: naming the argument, and what is wrong with it.
    """
    sources = [_source(argument) for argument in arguments]
    if twice := {each.trials for n, each in enumerate(sources) if each.trials in [s.trials for s in sources[:n]]}:
        raise RunError(f"{min(twice)} is given twice; give each run once")
    labels = _labels(sources)
    runs: list[Run] = []
    for source, label in zip(sources, labels, strict=True):
        outcomes = _read(source.trials)
        envs = sorted({outcome.task.env for outcome in outcomes})
        for env in envs:
            own = tuple(outcome for outcome in outcomes if outcome.task.env == env)
            named = label if len(envs) == 1 else f"{label} · {env}"
            expected = source.expected if len(envs) == 1 else None
            runs.append(Run(named, own, str(source.trials), source.settings, expected))
    return runs


@dataclass(frozen=True)
class _Source:
    """The place of a run, and its settings, before its trials are read."""

    given: str | None
    trials: Path
    settings: Mapping[str, Any]
    expected: int | None

    @property
    def path(self) -> str:
        """The path that names it: the folder's, if the file has the same name in every run."""
        return str(self.trials.parent if self.trials.stem == "trials" else self.trials.with_suffix(""))

    @property
    def key(self) -> str:
        """Equal where runs differ only in their seed."""
        if self.given is not None:
            return self.given
        if not self.settings:
            return str(self.trials)
        return json.dumps({k: v for k, v in self.settings.items() if k not in ("seed", "version")}, sort_keys=True)


def _source(argument: str) -> _Source:
    given, equals, rest = argument.partition("=")
    label, path = (given, Path(rest)) if equals and not Path(argument).exists() else (None, Path(argument))
    if label is not None and not label.strip():
        raise RunError(f"{argument!r} has no label before the equals sign; give LABEL=RUN, or only the run")
    trials = path / "trials.jsonl" if path.is_dir() else path
    if not trials.is_file():
        what = "holds no trials.jsonl" if path.is_dir() else "is not there"
        raise RunError(f"{path} {what}; give a folder that `eval --out` made, or a file of trials")
    settings, expected = {}, None
    if trials.name == "trials.jsonl" and trials.with_name("run.json").is_file():
        settings, expected = read_settings(trials.parent)
    else:
        try:
            settings = training_files.read_settings(trials)
        except SchemaError as error:
            raise RunError(str(error)) from error
    return _Source(label, trials.resolve(), settings, expected)


def _labels(sources: Sequence[_Source]) -> list[str]:
    """A label for each source; two share one only if their keys are equal."""
    paths = _tails({source.path for source in sources})
    models = _tails({str(source.settings["model"]) for source in sources if source.settings.get("model")})

    def plain(source: _Source) -> str:
        said = [source.settings.get("method"), models.get(str(source.settings.get("model")))]
        return source.given or " · ".join(str(part) for part in said if part) or paths[source.path]

    keys: dict[str, set[str]] = {}
    for source in sources:
        keys.setdefault(plain(source), set()).add(source.key)
    first = {source.key: source for source in reversed(sources)}
    return [
        plain(source) if len(keys[plain(source)]) == 1 else f"{plain(source)} ({paths[first[source.key].path]})"
        for source in sources
    ]


def _tails(paths: set[str]) -> dict[str, str]:
    """The shortest end of each path that no other path has."""
    parts = {path: Path(path).parts for path in paths}
    for depth in range(1, max(map(len, parts.values()), default=1) + 1):
        ends = {path: "/".join(own[-depth:]) for path, own in parts.items()}
        if len(set(ends.values())) == len(ends):
            return ends
    return {path: path for path in paths}


def _read(path: Path) -> list[Outcome]:
    try:
        with path.open(encoding="utf-8") as lines:
            outcomes = [Outcome.of(entry.trial, entry.step, entry.group) for entry in viewer.each(lines)]
    except (OSError, UnicodeDecodeError, SchemaError) as error:
        raise RunError(f"{path}: {error}") from error
    if not outcomes:
        raise RunError(f"{path}: no trials there; give a file that `eval` or --lamer.trials wrote")
    if len({outcome.step is None for outcome in outcomes}) > 1:
        raise RunError(f"{path}: some trials have a training step and others none; give them as two files")
    return outcomes
