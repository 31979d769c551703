"""Alarms: known ways in which such a training collapses, detected in the metrics that it logs.

Each alarm names the figure and the flags that usually help. It is reported when it first appears, and again only after
it was absent for `AWAY` steps, so that a figure at its limit does not fill the log.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

NEARLY_ALL = 0.9
"""Share of replies or trials that counts as nearly all. A group of 8 trials then has about one that differs, and
nothing to compare it with."""

STILL = 0.01
"""Entropy, in nats per token, below which there is practically none: a sampled token had a probability of 99%. A policy
trades its entropy for performance, and with entropy used up performance stays where it is (arXiv 2505.22617)."""

SOLVED = 0.9
"""Share of trials won from which neither low entropy nor groups that teach nothing are a collapse."""

KL_FINE = 0.01
"""KL, in nats per token, below which engines and trainer agree well enough, however much it has risen. Rounding in
bfloat16 makes about 0.001; in runs that broke down it rose towards 1 (arXiv 2510.26788, Figure 3)."""

KL_LARGE = 0.1
"""KL, in nats per token, above which the latest steps are an alarm without any rise: rounding does not explain it,
but engines with other weights than the trainer do."""

KL_RISE = 10.0
"""Factor by which the KL rises over the first steps to be an alarm: beyond chance, and well before a thousandfold."""

FIRST = 5
"""Number of first steps, whose median is the baseline for later ones."""

LAST = 3
"""Number of latest steps: their median must show a rise, or all of them teach nothing. One step may do so by chance."""

AWAY = 5
"""Number of steps without an alarm after which it counts as gone."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that holds at this step.

    Attributes:
        name: Its name; with the environment where it concerns one.
        message: One line: the figure seen, its meaning, and what usually helps.
        new: Whether to report it: it did not hold in the last `AWAY` steps.
    """

    name: str
    message: str
    new: bool


@dataclass(frozen=True, slots=True)
class _Share:
    """An alarm about a share of replies or trials.

    Attributes:
        metric: Name of the metric, after `lamer/<env>/`.
        seen: Text that says of what it is the share.
        remedy: What usually helps.
        good: Whether the metric is the share of all others.
    """

    metric: str
    seen: str
    remedy: str
    good: bool = False


SHARES = (
    _Share(
        "malformed_replies",
        "of the replies in {env} have no action tag, or several, so nothing is played",
        "a model that knows the form (openrlhf-lamer warmstart, or a larger one), a lower --actor.adam.lr, a KL term "
        "(--algo.kl.use_loss --algo.kl.init_coef 0.01)",
    ),
    _Share(
        "reflection_valid",
        "of the reflections in {env} have no remark, so later episodes remember nothing of them",
        "--lamer.train_reflection on, a lower --actor.adam.lr, a KL term (--algo.kl.use_loss --algo.kl.init_coef "
        "0.01), and to go back to an earlier checkpoint",
        good=True,
    ),
    _Share(
        "truncated_replies",
        "of the replies in {env} are cut by the token limit, before their action if the model thinks first",
        "a higher --rollout.max_new_tokens, or a model that thinks less",
    ),
    _Share(
        "overlong",
        "of the trials in {env} end because a prompt does not fit",
        "a higher --data.max_len, --lamer.context turn, or fewer turns and episodes (--lamer.max_turns, "
        "--lamer.num_episodes)",
    ),
)

STILL_REMEDY = (
    "a lower --actor.adam.lr, an entropy bonus (--actor.entropy_coef 0.001), a higher upper clip "
    "(--actor.eps_clip_low_high 0.2 0.28), a KL term (--algo.kl.use_loss --algo.kl.init_coef 0.01), and to go back to "
    "an earlier checkpoint"
)
KL_REMEDY = (
    "--algo.advantage.is_correction_level seq, a lower --actor.adam.lr, fresher trials (--train.async_queue_size 1, no "
    "--train.partial_rollout_enable), and to go back to an earlier checkpoint"
)
HARD_REMEDY = (
    "easier tasks, --lamer.task_sampling learnable, more trials of a task (--rollout.n_samples_per_prompt), a higher "
    "--rollout.temperature, or --lamer.reward shaped"
)
EASY_REMEDY = "harder tasks, or to stop here"


class Alarms:
    """Alarms of a training, from its metrics step by step. It knows only the steps of its own process."""

    def __init__(self) -> None:
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=LAST)
        self._taught: deque[float] = deque(maxlen=LAST)
        self._away: dict[str, int] = {}

    def step(self, metrics: Mapping[str, Any]) -> list[Alarm]:
        """Alarms that hold at this step.

        Args:
            metrics: The step's metrics as they are logged, ours under `lamer/`. An alarm without its metric is silent.
        """
        seen = dict(self._seen(metrics))
        found = [Alarm(name, message, new=name not in self._away) for name, message in seen.items()]
        self._away = {name: steps + 1 for name, steps in self._away.items() if steps + 1 < AWAY}
        self._away |= dict.fromkeys(seen, 0)
        return found

    def _seen(self, metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Name and message of each alarm."""
        for env in _envs(metrics):
            own = {key.removeprefix(f"lamer/{env}/"): value for key, value in metrics.items()}
            for each in SHARES:
                if each.metric not in own:
                    continue
                share = 1 - own[each.metric] if each.good else own[each.metric]
                if share >= NEARLY_ALL:
                    what = f"{share:.0%} {each.seen.format(env=env)} (lamer/{env}/{each.metric})"
                    yield f"{env}/{each.metric}", _line(what, each.remedy)
            for phase in ("play", "reflect"):
                entropy = own.get(f"entropy/{phase}", math.inf)
                if entropy < STILL and _won(metrics, env) < SOLVED:
                    what = f"entropy of {entropy:.4f} nats a token, trials hardly differ (lamer/{env}/entropy/{phase})"
                    yield f"{env}/entropy/{phase}", _line(what, STILL_REMEDY)
        yield from self._kl(metrics)
        yield from self._teaching(metrics)

    def _kl(self, metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Whether engines and trainer disagree, or more and more so."""
        if "vllm_kl" not in metrics:
            return
        self._last.append(metrics["vllm_kl"])
        if any(map(math.isnan, self._last)):
            yield "vllm_kl", _line("vllm_kl is not a number", KL_REMEDY)
            return
        first = median(self._first) if len(self._first) == FIRST else math.inf
        if len(self._first) < FIRST:
            self._first.append(metrics["vllm_kl"])
        if len(self._last) < LAST:
            return
        kl = median(self._last)
        if kl > KL_LARGE:
            what = f"vllm_kl of {kl:.3g} nats a token: engines play other weights than those that are trained"
            yield "vllm_kl", _line(what, KL_REMEDY)
        elif kl > max(KL_FINE, KL_RISE * first):
            what = f"vllm_kl has risen from {first:.2g} to {kl:.3g} nats a token: engines and trainer drift apart"
            yield "vllm_kl", _line(what, KL_REMEDY)

    def _teaching(self, metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Whether no group taught anything for some steps."""
        if "lamer/groups_that_teach" not in metrics:
            return
        self._taught.append(metrics["lamer/groups_that_teach"])
        if len(self._taught) == LAST and not any(self._taught):
            envs = _envs(metrics)
            share = sum(_won(metrics, env) for env in envs) / max(1, len(envs))
            what = (
                f"no group taught anything for {LAST} steps: all trials of each earned the same, and {share:.0%} of "
                "them are won (lamer/groups_that_teach)"
            )
            yield "groups_that_teach", _line(what, EASY_REMEDY if share >= SOLVED else HARD_REMEDY)


def _envs(metrics: Mapping[str, Any]) -> list[str]:
    return sorted(key.split("/")[1] for key in metrics if key.startswith("lamer/") and key.endswith("/turns"))


def _won(metrics: Mapping[str, Any], env: str) -> float:
    """Share of trials won within all attempts: where exploring costs an attempt, the best policy wins no first one."""
    start = f"lamer/{env}/success@"
    within = {int(key.removeprefix(start)): value for key, value in metrics.items() if key.startswith(start)}
    return within[max(within)] if within else 0.0


def _line(seen: str, remedy: str) -> str:
    return f"Alarm: {seen}. What usually helps: {remedy}"
