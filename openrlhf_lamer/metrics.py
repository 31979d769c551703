"""Metrics of a batch of trials, as flat scalars.

Failed trials are left out of every mean, and are counted by kind.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from statistics import fmean

from openrlhf_lamer.records import FailureKind, Phase, Stop, Trial, Turn


def mean(values: Iterable[float]) -> float | None:
    """Arithmetic mean; None without values."""
    values = list(values)
    return fmean(values) if values else None


def success_at(trials: Sequence[Trial], attempts: int) -> float | None:
    """Share of the trials that were won in one of the first `attempts` episodes; None without trials."""
    return mean(float(trial.won_by(attempts)) for trial in trials if trial.failure is None)


def attempts_of(trials: Sequence[Trial], num_episodes: int, turn_budget: int | None) -> int:
    """Number of attempts to count success at: `num_episodes`, under a budget at most as many as a live trial had.

    A budget may allow far more than any trial plays, and success at more attempts is the same.
    """
    played = max((len(trial.episodes) for trial in trials if trial.failure is None), default=1)
    return num_episodes if turn_budget is None else min(num_episodes, played)


def summarize(
    trials: Sequence[Trial],
    num_episodes: int,
    gamma_traj: float,
    *,
    stop_on_success: bool = True,
    turn_budget: int | None = None,
) -> dict[str, float]:
    """Metrics of a batch of trials of one environment, played under these settings (see `LamerConfig`).

    Keys, shares of live trials or of their turns:

    - `success@1` to `success@N`, `return`, `episodes`, `turns`; under a budget N is that of `attempts_of`;
    - where trials go on after a success, `won@1` to `won@N` (share of trials whose episode k was played and won) and
      `wins` (episodes won of a trial);
    - of play turns, `malformed_replies` (none or several action tags), `refused_actions` (by the environment),
      `invalid_actions` (both of these), and `reply_tokens`;
    - of reflections, `reflection_tokens` and `reflection_valid` (a remark was found), of all and with `/n`
      of those on episode n, counted from 1;
    - of all turns, `truncated_replies` (the token limit cut them);
    - of sampled tokens, `entropy/play` and `entropy/reflect`, and with `/n` those of episode n: see `token_entropy`;
    - with thinking, `thought_tokens` of play turns and `reflection_thought_tokens` of reflections (both are among
      the tokens above), and of all turns `unclosed_thoughts` (a thought never ended: a play turn is malformed too);
    - of trials, `overlong`: a prompt did not fit, so that an episode ended or the next did not begin, though neither
      success nor the budget had ended the trial.

    And of all trials: `failed` (share), `failed/<kind>` and `failed_at/<stage>` (counts), `retries` (count),
    `environment_seconds` and `generation_seconds` (per trial). A metric without an observation, such as those of
    reflections for N = 1, has no key.
    """
    live = [trial for trial in trials if trial.failure is None]
    turns = [turn for trial in live for turn in trial.turns]
    play = [turn for turn in turns if turn.phase is Phase.PLAY]
    reflections = [turn for turn in turns if turn.phase is Phase.REFLECT]
    attempts = range(1, attempts_of(live, num_episodes, turn_budget) + 1)
    found: dict[str, float | None] = {f"success@{k}": success_at(live, k) for k in attempts}
    if not stop_on_success:
        found |= {f"won@{k}": mean(k in trial.wins for trial in live) for k in attempts}
        found["wins"] = mean(len(trial.wins) for trial in live)
    found |= {
        "return": mean(trial.scalar_return(gamma_traj) for trial in live),
        "episodes": mean(len(trial.episodes) for trial in live),
        "turns": mean(len(trial.turns) for trial in live),
        "malformed_replies": mean(turn.action is None for turn in play),
        "refused_actions": mean(turn.action is not None and not turn.valid for turn in play),
        "invalid_actions": mean(not turn.valid for turn in play),
        "reply_tokens": mean(len(turn.sampled_ids) for turn in play),
        "truncated_replies": mean(turn.truncated for turn in turns),
        "reflection_tokens": mean(len(turn.sampled_ids) for turn in reflections),
        "reflection_valid": mean(turn.valid for turn in reflections),
        "thought_tokens": mean(turn.thought_tokens for turn in play if turn.thought_tokens is not None),
        "reflection_thought_tokens": mean(t.thought_tokens for t in reflections if t.thought_tokens is not None),
        "unclosed_thoughts": mean(turn.unclosed for turn in turns if turn.thought_tokens is not None),
        "overlong": mean(_overlong(trial, num_episodes, stop_on_success, turn_budget) for trial in live),
        "failed": mean(trial.failure is not None for trial in trials),
        "retries": float(sum(trial.retries for trial in trials)),
        "environment_seconds": mean(trial.environment_seconds for trial in trials),
        "generation_seconds": mean(trial.generation_seconds for trial in trials),
    }
    for n in attempts[:-1]:
        own = [turn for turn in reflections if turn.episode == n - 1]
        found[f"reflection_tokens/{n}"] = mean(len(turn.sampled_ids) for turn in own)
        found[f"reflection_valid/{n}"] = mean(turn.valid for turn in own)
    for phase, of_phase in ((Phase.PLAY, play), (Phase.REFLECT, reflections)):
        found[f"entropy/{phase}"] = token_entropy(of_phase)
        for n in range(num_episodes):
            found[f"entropy/{phase}/{n + 1}"] = token_entropy([turn for turn in of_phase if turn.episode == n])
    failures = [trial.failure for trial in trials if trial.failure is not None]
    kinds, stages = Counter(each.kind for each in failures), Counter(each.stage for each in failures)
    found |= {f"failed/{kind}": float(kinds[kind]) for kind in FailureKind if kinds[kind]}
    found |= {f"failed_at/{stage}": float(count) for stage, count in sorted(stages.items())}
    return {key: value for key, value in found.items() if value is not None}


def token_entropy(turns: Iterable[Turn]) -> float | None:
    """Mean negative log-probability of the sampled tokens of turns, in nats; None without log-probabilities.

    Its expectation is the policy's entropy a token, at the temperature of sampling and in the states that were played.
    """
    given = [turn.logprobs for turn in turns if turn.logprobs]
    count = sum(map(len, given))
    return 0.0 - sum(map(sum, given)) / count if count else None


def _overlong(trial: Trial, num_episodes: int, stop_on_success: bool, turn_budget: int | None) -> bool:
    over = len(trial.episodes) == num_episodes or (stop_on_success and trial.won)
    over = over or sum(len(episode.turns) for episode in trial.episodes) == turn_budget
    return not over or any(episode.stop is Stop.OVERLONG for episode in trial.episodes)


def diversity(trials: Sequence[Trial], groups: Sequence[int], num_episodes: int) -> dict[str, float]:
    """`diversity@n`: how differently episode n is played by the trials of one task, in nats.

    It is the entropy of the ways in which a group's trials played that episode, averaged over the groups in which two
    or more trials reached it. A way is the sequence of states and actions: the entropy is 0 if all trials
    played alike, and the log of their number if no two did.

    Args:
        trials: Live trials.
        groups: For each trial, its group.
        num_episodes: Episodes that a trial may have.
    """
    found: dict[str, float | None] = {}
    paths = [paths_of(trial) for trial in trials]
    for n in range(num_episodes):
        found[f"diversity@{n + 1}"] = mean(entropy(counts) for counts in ways(paths, groups, n).values())
    return {key: value for key, value in found.items() if value is not None}


def paths_of(trial: Trial) -> tuple[Hashable, ...]:
    """For each episode, the states and actions of its play turns."""
    return tuple(tuple((turn.anchor, turn.did) for turn in episode.turns) for episode in trial.episodes)


def ways(
    paths: Sequence[Sequence[Hashable]], groups: Sequence[Hashable], episode: int
) -> dict[Hashable, tuple[int, ...]]:
    """How often each way to play an episode was taken, by group, where two or more trials reached the episode.

    Args:
        paths: For each trial, the way in which each of its episodes was played.
        groups: For each trial, its group.
        episode: Index of the episode.
    """
    found: dict[Hashable, Counter[Hashable]] = {}
    for path, group in zip(paths, groups, strict=True):
        if episode < len(path):
            found.setdefault(group, Counter())[path[episode]] += 1
    return {group: tuple(counts.values()) for group, counts in found.items() if counts.total() > 1}


def entropy(counts: Sequence[int]) -> float:
    """Entropy of the shares of these counts, in nats."""
    total = sum(counts)
    return 0.0 - sum(count / total * math.log(count / total) for count in counts)
