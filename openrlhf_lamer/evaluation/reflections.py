"""Content of reflections, and whether the next episode heeds them: pure functions over trials.

Failed trials are left out, and so are reflections on episodes that were won, which have no mistake. Every figure is a
mean over tasks, with an interval for tasks like these: the many reflections on one task, which depend on each other,
count as one task.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from openrlhf_lamer.envs import TaskError, TextEnv, registry
from openrlhf_lamer.envs.mistakes import Played
from openrlhf_lamer.evaluation.statistics import Estimate, mean, share
from openrlhf_lamer.records import Episode, Trial
from openrlhf_lamer.text_chat import counts_characters

WORDS = 3
"""Words of an n-gram."""

_WORD = re.compile(r"\w+")

Gram = tuple[str, ...]


NAMED, UNNAMED, SILENT = "named", "not named", "no remark"
"""Mention of a mistake: a remark named it, a remark did not, or no remark was shown."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure, and how many reflections or lost episodes it was taken from."""

    estimate: Estimate
    cases: int

    def __str__(self) -> str:
        return f"{self.estimate} ({self.cases})" if self.cases else ""


@dataclass(frozen=True, slots=True)
class Reflections:
    """Figures of the reflections of some trials.

    Attributes:
        trials: Trials that did not fail.
        failed: Trials that failed.
        lost: Lost episodes that another episode followed.
        reflections: Those with a reflection.
        figures: By name:

            - `tokens`: length of a reflection, in sampled tokens.
            - `characters`: the same for players without a tokenizer, which sample characters.
            - `valid`: share of reflections in which a remark was found.
            - `novelty`: share of a remark's trigrams (of words) that stand in no earlier remark of its trial, and in
              no action or state of the episodes so far: in nothing that a memory could hold.
            - `sameness`: share of a remark's trigrams that a random remark on another task has too. It does not
              depend on the number of remarks: 1 where all are alike, near 0 where each is about its own task.
              Without an interval.
            - `overlap`: share of the lost episode's different actions that the remark names.
            - `known`: share of the lost episodes whose mistake is known.
            - `names`: share of the remarks on these episodes that name the mistake.
            - `avoided/SAID`: share of next episodes that did not make the mistake again, where SAID is what was
              said of it: `NAMED`, `UNNAMED` or `SILENT`.
            - `faced/SAID`: the same share of the next episodes that came to the mistake's state again.
    """

    trials: int
    failed: int
    lost: int
    reflections: int
    figures: Mapping[str, Measure]


def analyse(trials: Iterable[Trial], attempt: int | None = None) -> Reflections:
    """Figures of the reflections of `trials`.

    Args:
        trials: Trials of one run, or of one stretch of training.
        attempt: Count only reflections on this attempt, from 1.
    """
    live: list[Trial] = []
    failed = 0
    for trial in trials:
        if trial.failure is None:
            live.append(trial)
        else:
            failed += 1
    reads = {env: reading(env) for env in {trial.task.env for trial in live}}
    cases = [
        case for trial in live for case in _cases(trial, reads[trial.task.env]) if attempt in (None, case.episode + 1)
    ]
    reflected = [case for case in cases if case.length is not None]
    remarks = [case for case in reflected if case.remark is not None]
    known = [case for case in cases if case.said is not None]
    tasks = len({case.task for case in remarks})
    alike = Estimate(sameness([(case.task, case.grams) for case in remarks]), math.nan, math.nan, tasks, "%")
    figures = {
        "tokens": _measure(reflected, lambda case: None if case.characters else case.length, "tokens"),
        "characters": _measure(reflected, lambda case: case.length if case.characters else None, "characters"),
        "valid": _measure(reflected, lambda case: case.remark is not None),
        "novelty": _measure(remarks, lambda case: case.novelty, "%"),
        "sameness": Measure(alike, len(remarks)),
        "overlap": _measure(remarks, lambda case: case.overlap, "%"),
        "known": _measure(cases, lambda case: case.said is not None),
        "names": _measure([case for case in known if case.remark is not None], lambda case: case.said == NAMED),
    }
    for name, faced in (("avoided", False), ("faced", True)):
        for said in (NAMED, UNNAMED, SILENT):
            own = [case for case in known if case.said == said and (case.faced or not faced)]
            figures[f"{name}/{said}"] = _measure(own, lambda case: not case.repeated)
    return Reflections(len(live), failed, len(cases), len(reflected), figures)


def reading(env: str) -> type[TextEnv]:
    """Class that reads the episodes and remarks of `env`; one that only reads texts if `env` is not installed."""
    try:
        return registry.lookup(env)
    except TaskError:
        return TextEnv


def _measure(cases: Sequence[_Case], value: Callable[[_Case], float | bool | None], unit: str | None = None) -> Measure:
    """The mean of a value over tasks, or without a unit the share of true ones; cases without a value are left out."""
    by_task: dict[str, list[float]] = {}
    for case in cases:
        if (found := value(case)) is not None:
            by_task.setdefault(case.task, []).append(float(found))
    estimate = share([by_task]) if unit is None else mean([by_task], unit)
    if unit == "%":
        estimate = replace(estimate, low=max(0.0, estimate.low), high=min(1.0, estimate.high))
    return Measure(estimate, sum(map(len, by_task.values())))


@dataclass(frozen=True, slots=True)
class _Case:
    """A lost episode that another one followed.

    Attributes:
        task: Id of the task.
        episode: Index of the lost episode.
        length: Length of the reflection, if there is one.
        characters: Whether its unit is characters, not tokens.
        remark: Its remark, if one was found.
        grams: The remark's n-grams.
        novelty: Share of them that were never seen in the trial.
        overlap: Share of the lost episode's actions that the remark names; None where there was none.
        said: Remark on the mistake: `NAMED`, `UNNAMED` or `SILENT`; None where the mistake is not known.
        faced: Whether the next episode came to the mistake's state.
        repeated: Whether it made the mistake again.
    """

    task: str
    episode: int
    length: int | None
    characters: bool
    remark: str | None
    grams: frozenset[Gram] = field(default_factory=frozenset)
    novelty: float = 0.0
    overlap: float | None = None
    said: str | None = None
    faced: bool = False
    repeated: bool = False


def _cases(trial: Trial, read: type[TextEnv]) -> Iterable[_Case]:
    played = [read.played(episode) for episode in trial.episodes] if len(trial.episodes) > 1 else []
    seen: set[Gram] = set()
    characters = counts_characters(trial)
    for n, (episode, now, then) in enumerate(zip(trial.episodes, played, played[1:], strict=False)):
        reflection, remark = episode.reflection, episode.remark
        seen |= _shown(episode)
        own = grams(remark) if remark is not None else frozenset()
        if episode.won:
            seen |= own
            continue
        said, faced, repeated = _heeded(read, remark, now, then)
        yield _Case(
            task=trial.task.id,
            episode=n,
            length=None if reflection is None else len(reflection.sampled_ids),
            characters=characters,
            remark=remark,
            grams=own,
            novelty=len(own - seen) / max(1, len(own)),
            overlap=None if remark is None else _overlap(read, remark, episode),
            said=said,
            faced=faced,
            repeated=repeated,
        )
        seen |= own


def _shown(episode: Episode) -> set[Gram]:
    """The n-grams of everything but the remark that a memory can show of an episode."""
    texts = [turn.observation for turn in episode.turns] + [episode.final_observation]
    texts += [turn.did for turn in episode.turns if turn.did is not None]
    return {gram for text in texts for gram in grams(text)}


def _overlap(read: type[TextEnv], remark: str, episode: Episode) -> float | None:
    actions = {turn.did for turn in episode.turns if turn.did is not None}
    return sum(read.mentions(remark, action) for action in actions) / len(actions) if actions else None


def _heeded(read: type[TextEnv], remark: str | None, now: Played, then: Played) -> tuple[str | None, bool, bool]:
    """Mention of the mistake, whether its state came up again, and whether it was made again."""
    mistake = now.mistake
    if mistake is None:
        return None, False, False
    said = SILENT if remark is None else NAMED if read.mentions(remark, mistake.words) else UNNAMED
    faced = any(move.state == mistake.state for move in then.moves)
    return said, faced, any(move.same(mistake) for move in then.moves)


def grams(text: str) -> frozenset[Gram]:
    """The different n-grams of lower-case words; a text of fewer words is one gram."""
    words = [word.lower() for word in _WORD.findall(text)]
    if 0 < len(words) < WORDS:
        return frozenset([tuple(words)])
    return frozenset(tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1))


def sameness(remarks: Sequence[tuple[str, frozenset[Gram]]]) -> float:
    """Share of a remark that one on another task has too (see `Reflections`); NaN where there is only one task.

    Args:
        remarks: For each remark, its task and its n-grams.
    """
    of_task = Counter(task for task, _ in remarks)
    everywhere: Counter[Gram] = Counter()
    within: defaultdict[str, Counter[Gram]] = defaultdict(Counter)
    for task, own in remarks:
        everywhere.update(own)
        within[task].update(own)
    shares = []
    for task, own in remarks:
        others = len(remarks) - of_task[task]
        if own and others:
            shares.append(sum(everywhere[gram] - within[task][gram] for gram in own) / (len(own) * others))
    return sum(shares) / len(shares) if shares else math.nan
