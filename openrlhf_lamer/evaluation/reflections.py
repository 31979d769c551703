"""What reflections say, and whether the next episode heeds them: pure functions over trials.

All counts are of live trials; failed ones are left out. Intervals take observations as independent. Trials
of up to N episodes hold up to N - 1 of them, so where N is above 2 they are a little too narrow.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from openrlhf_lamer.evaluation.mistakes import Played, Reading, reading
from openrlhf_lamer.evaluation.statistics import Proportion, proportion
from openrlhf_lamer.metrics import mean
from openrlhf_lamer.records import Episode, Trial

WORDS = 3
"""Words of an n-gram."""

_WORD = re.compile(r"\w+")

Gram = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reflections:
    """What the reflections of some trials show. A mean of nothing is None.

    Attributes:
        trials: Trials that did not fail.
        failed: Trials that did, left out of everything else.
        lost: Lost episodes that another episode followed.
        reflections: Those with a reflection.
        tokens: Mean length of a reflection, in sampled tokens.
        valid: Reflections in which a remark was found.
        novelty: Mean share of a remark's trigrams (of words) that stand in no earlier remark of its trial, and in
            no action and state of the episodes so far: in nothing that a memory could hold.
        sameness: Mean over the remarks of: the share of its trigrams that a remark on another task has too, drawn
            at random from those of the same trials here. It does not depend on how many there are. 1 where all
            remarks are alike, near 0 where each is about its own task; None where there is but one task.
        overlap: Mean share of the lost episode's different actions that the remark names (see `mistakes.Reading`).
        known: Lost episodes of `lost` whose mistake is known.
        names: Remarks on those that name the mistake.
        avoided: How many next episodes did not make the mistake again, by what was said of it (`NAMED`, `UNNAMED`,
            `SILENT`).
        faced: Likewise, of the next episodes that came to the mistake's state again.
    """

    trials: int
    failed: int
    lost: int
    reflections: int
    tokens: float | None
    valid: Proportion
    novelty: float | None
    sameness: float | None
    overlap: float | None
    known: Proportion
    names: Proportion
    avoided: Mapping[str, Proportion]
    faced: Mapping[str, Proportion]


NAMED, UNNAMED, SILENT = "named", "not named", "no remark"
"""What was said of a mistake: a remark named it, a remark did not, or no remark was shown."""


def analyse(trials: Iterable[Trial], attempt: int | None = None) -> Reflections:
    """What the reflections of `trials` show.

    Args:
        trials: Of one run, or one stretch of training.
        attempt: Only look at reflections on this attempt, counted from 1.
    """
    live, failed = [], 0
    for trial in trials:
        if trial.failure is None:
            live.append(trial)
        else:
            failed += 1
    cases = [case for trial in live for case in _cases(trial) if attempt in (None, case.episode + 1)]
    remarks = [case for case in cases if case.remark is not None]
    reflected = [case for case in cases if case.reflection_tokens is not None]
    known = [case for case in cases if case.said is not None]
    told = Counter(case.said for case in known)
    return Reflections(
        trials=len(live),
        failed=failed,
        lost=len(cases),
        reflections=len(reflected),
        tokens=mean(case.reflection_tokens or 0 for case in reflected),
        valid=proportion(len(remarks), len(reflected)),
        novelty=mean(case.novelty for case in remarks),
        sameness=sameness([(case.task, case.grams) for case in remarks]),
        overlap=mean(case.overlap for case in remarks if case.overlap is not None),
        known=proportion(len(known), len(cases)),
        names=proportion(told[NAMED], told[NAMED] + told[UNNAMED]),
        avoided={
            said: proportion(sum(case.said == said and not case.repeated for case in known), told[said])
            for said in (NAMED, UNNAMED, SILENT)
        },
        faced={
            said: proportion(
                sum(case.said == said and case.faced and not case.repeated for case in known),
                sum(case.said == said and case.faced for case in known),
            )
            for said in (NAMED, UNNAMED, SILENT)
        },
    )


@dataclass(frozen=True, slots=True)
class _Case:
    """A lost episode that another one followed.

    Attributes:
        task: Id of the task.
        episode: Index of the lost episode.
        reflection_tokens: Length of the reflection, if there is one.
        remark: What it said.
        grams: The remark's n-grams.
        novelty: Share of them that were never seen in the trial.
        overlap: Share of the lost episode's actions that the remark names; None where there was none.
        said: What was said of the mistake; None where it is not known.
        faced: Whether the next episode came to the mistake's state.
        repeated: Whether it made the mistake again.
    """

    task: str
    episode: int
    reflection_tokens: int | None
    remark: str | None
    grams: frozenset[Gram] = field(default_factory=frozenset)
    novelty: float = 0.0
    overlap: float | None = None
    said: str | None = None
    faced: bool = False
    repeated: bool = False


def _cases(trial: Trial) -> Iterable[_Case]:
    read = reading(trial.task.env)
    played = [read.played(episode) for episode in trial.episodes] if len(trial.episodes) > 1 else []
    seen: set[Gram] = set()
    for n, (episode, now, then) in enumerate(zip(trial.episodes, played, played[1:], strict=False)):
        reflection, remark = episode.reflection, episode.remark
        seen |= _shown(episode)
        own = grams(remark) if remark is not None else frozenset()
        said, faced, repeated = _heeded(read, remark, now, then)
        yield _Case(
            task=trial.task.id,
            episode=n,
            reflection_tokens=None if reflection is None else len(reflection.sampled_ids),
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
    """The n-grams of what a memory can show of an episode, its remark apart."""
    texts = [turn.observation for turn in episode.turns] + [episode.final_observation]
    texts += [turn.action for turn in episode.turns if turn.action is not None]
    return {gram for text in texts for gram in grams(text)}


def _overlap(read: Reading, remark: str, episode: Episode) -> float | None:
    actions = {turn.action for turn in episode.turns if turn.action is not None}
    return mean(float(read.names(remark, action)) for action in actions)


def _heeded(read: Reading, remark: str | None, now: Played, then: Played) -> tuple[str | None, bool, bool]:
    """What was said of the mistake, whether its state came up again, and whether it was made again."""
    mistake = now.mistake
    if mistake is None:
        return None, False, False
    said = SILENT if remark is None else NAMED if read.names(remark, mistake.words) else UNNAMED
    faced = any(move.state == mistake.state for move in then.moves)
    return said, faced, any(move.same(mistake) for move in then.moves)


def grams(text: str) -> frozenset[Gram]:
    """The different n-grams of lower-case words; a text of fewer words is one gram."""
    words = [word.lower() for word in _WORD.findall(text)]
    if 0 < len(words) < WORDS:
        return frozenset([tuple(words)])
    return frozenset(tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1))


def sameness(remarks: Sequence[tuple[str, frozenset[Gram]]]) -> float | None:
    """How much a remark shares with one on another task; see `Reflections.sameness`.

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
    return mean(shares)
