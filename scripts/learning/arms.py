"""Arms (the flags in which trainings of one game differ) and the experiments that compare them."""

from __future__ import annotations

from dataclasses import dataclass

from games import GAMES, Game

from openrlhf_lamer import advantage
from openrlhf_lamer.vocabulary import Memory


@dataclass(frozen=True)
class Arm:
    """A way to train.

    Attributes:
        name: Name of its folder, and its row in the tables.
        about: Description in a few words.
        flags: Flags of the training on top of the game's.
        single: Whether it trains on single attempts: N times as many, so that an update has at least as many episodes.
            It is still evaluated on trials of N, and at the end without memory too.
        memory: Memory between episodes, if not the game's.
    """

    name: str
    about: str
    flags: tuple[str, ...] = ("--algo.advantage.estimator", "lamer_hgpo")
    single: bool = False
    memory: Memory | None = None


@dataclass(frozen=True)
class Experiment:
    """Trainings to compare.

    Attributes:
        name: Its name in the commands.
        game: The game.
        arms: Arms to compare; all others are compared with the first.
        shows: The question, with figures that would answer it.
        cross: Whether to exchange the reflections of the first arm's model with those of its warm start.
    """

    name: str
    game: Game
    arms: tuple[Arm, ...]
    shows: str
    cross: bool = False


# Not the paper's lamer_gigpo, which compares the first turns of all episodes because they begin in one state, though
# later ones know more. lamer_hgpo compares only those with equal memory.
_LAMER = Arm("lamer", "trials of N episodes, γ_traj 0.6, lamer_hgpo")
_RL = Arm("rl", "single attempts, at least as many episodes an update", single=True)
_GAMMAS = tuple(
    Arm(f"lamer-gamma-{gamma}", f"γ_traj {gamma}", (*_LAMER.flags, "--lamer.gamma_traj", gamma))
    for gamma in ("0", "0.9")
)
_DIFFERENCE = ("--lamer.cross_episode", "difference")
_FIXED = Arm(
    "lamer-fixed-reflections", "reflections are not trained", (*_LAMER.flags, "--lamer.train_reflection", "off")
)
_MEMORIES = tuple(Arm(f"lamer-{memory}", f"memory {memory}", memory=memory) for memory in ("history", "reflection"))
_ESTIMATORS = tuple(
    # A critic starts from scratch, so it may learn faster than the policy.
    Arm(
        name,
        f"estimator {name}",
        ("--algo.advantage.estimator", name, *(("--critic.adam.lr", "1e-3") if name == "lamer_ppo" else ())),
    )
    for name in (*advantage.names(), "group_norm", "rloo")
    if name != "lamer_hgpo"
)

_ORBIT = Arm(
    "orbit",
    "trials that go on after a success, for all wins alike, and the host's group_norm (ORBIT)",
    (*("--algo.advantage.estimator", "group_norm"), *("--lamer.stop_on_success", "off", "--lamer.gamma_traj", "1")),
)
_MAGE = Arm("mage", "an episode is paid what it earns above the one before (MAGE)", (*_LAMER.flags, *_DIFFERENCE))
_GRPO = Arm("grpo", "single attempts, the host's group_norm", ("--algo.advantage.estimator", "group_norm"), single=True)


def _methods(game: Game) -> Experiment:
    """Arms that train across attempts, and arms that do not."""
    k = str(game.attempts)
    best = Arm(
        "pkpo",
        f"single attempts, the best of {k} of a group (lamer_pkpo)",
        ("--algo.advantage.estimator", "lamer_pkpo", "--lamer.pkpo.k", k),
        single=True,
    )
    return Experiment(
        f"{game.name}-methods",
        game,
        (_LAMER, _ORBIT, _MAGE, best, _GRPO),
        "What published methods learn with equal budgets of episodes: LaMer, ORBIT's trials, MAGE's credit, the best "
        "of k, and GRPO that has its memory in evaluations only.",
    )


EXPERIMENTS = {
    each.name: each
    for each in (
        Experiment(
            "doors-lamp",
            GAMES["doors-lamp"],
            (_LAMER, *_GAMMAS, _RL),
            "Whether training on trials makes a model pay for knowledge: LaMer burns the lamp in 90% of first attempts "
            "and wins 90% of trials within 3; without credit across episodes (γ_traj 0, rl) at most 45%.",
        ),
        Experiment(
            "doors",
            GAMES["doors"],
            (_LAMER, _RL),
            "Whether a model learns to use its memory: LaMer repeats a failed door in under 5% of attempts and wins "
            "95% of trials within 4; rl at most 75%.",
        ),
        Experiment(
            "doors-remarks",
            GAMES["doors-remarks"],
            (_LAMER, _FIXED, _RL),
            "Whether a model learns to write and heed remarks, its only memory: LaMer wins 85% of trials within 3, "
            "and 95% of remarks on a burned lamp name the prize.",
            cross=True,
        ),
        Experiment(
            "darkroom-search",
            GAMES["darkroom-search"],
            (_LAMER, _RL),
            "Whether a model searches first and walks straight in then: the second attempt is won more often than the "
            "first.",
        ),
        Experiment(
            "minesweeper",
            GAMES["minesweeper"],
            (_LAMER, *_MEMORIES, _RL),
            "Whether the gain carries over to the paper's game: LaMer is above rl within 3 attempts, and more diverse.",
        ),
        Experiment(
            "estimators",
            GAMES["doors-lamp"],
            (_LAMER, *_ESTIMATORS),
            "Which estimator of credit learns to burn the lamp, and how soon: steps to 90% of the optimum, and the "
            "value at the end. group_norm and rloo are the host's, on the trial's return.",
        ),
        *(_methods(GAMES[name]) for name in ("doors-lamp", "doors", "darkroom")),
    )
}
"""Experiments by name. Those of one game share its warm starts, and trainings of the same arm."""
