"""Which figures raise an alarm, how often it is reported, and that what it advises exists."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pytest

from openrlhf_lamer import alarms
from openrlhf_lamer.alarms import AWAY, FIRST, KL_FINE, KL_LARGE, LAST, NEARLY_ALL, SOLVED, STILL, Alarms
from openrlhf_lamer.config import LamerConfig

GOOD = {
    "lamer/sokoban/turns": 12.0,
    "lamer/sokoban/malformed_replies": 0.1,
    "lamer/sokoban/truncated_replies": 0.02,
    "lamer/sokoban/overlong": 0.0,
    "lamer/sokoban/success@1": 0.1,
    "lamer/sokoban/success@3": 0.3,
    "lamer/sokoban/entropy/play": 0.4,
    "lamer/sokoban/entropy/reflect": 0.5,
    "lamer/groups_that_teach": 0.8,
    "vllm_kl": 0.001,
}


def names(found: Sequence[alarms.Alarm]) -> list[str]:
    return [alarm.name for alarm in found]


def test_a_healthy_run_raises_none_and_neither_does_one_without_metrics() -> None:
    own = Alarms()
    for _ in range(20):
        assert own.step(GOOD) == []
    assert Alarms().step({"generated_samples": ["text", 1.0]}) == []


@pytest.mark.parametrize(
    ("metric", "least"), [("malformed_replies", "--actor.adam.lr"), ("truncated_replies", "--rollout.max_new_tokens")]
)
def test_a_share_is_nearly_all_from_its_limit_on(metric: str, least: str) -> None:
    (alarm,) = Alarms().step(GOOD | {f"lamer/sokoban/{metric}": NEARLY_ALL})
    assert alarm.name == f"sokoban/{metric}"
    assert alarm.message.startswith("Alarm: 90% of the replies in sokoban")
    assert f"lamer/sokoban/{metric}" in alarm.message
    assert least in alarm.message
    assert "\n" not in alarm.message
    assert Alarms().step(GOOD | {f"lamer/sokoban/{metric}": NEARLY_ALL - 0.001}) == []


def test_lost_remarks_are_an_alarm_where_there_are_reflections() -> None:
    (alarm,) = Alarms().step(GOOD | {"lamer/sokoban/reflection_valid": 0.06})
    assert alarm.name == "sokoban/reflection_valid"
    assert alarm.message.startswith("Alarm: 94% of the reflections in sokoban have no remark")
    assert Alarms().step(GOOD | {"lamer/sokoban/reflection_valid": 0.2}) == []


def test_each_environment_has_its_own_alarms() -> None:
    other = {"lamer/doors/turns": 3.0, "lamer/doors/overlong": 1.0, "lamer/doors/malformed_replies": 0.95}
    assert names(Alarms().step(GOOD | other)) == ["doors/malformed_replies", "doors/overlong"]
    assert names(Alarms().step(GOOD | other | {"lamer/sokoban/overlong": 0.9}))[-1] == "sokoban/overlong"


@pytest.mark.parametrize("phase", ["play", "reflect"])
def test_entropy_near_0_is_an_alarm_unless_the_game_is_solved(phase: str) -> None:
    still = {f"lamer/sokoban/entropy/{phase}": 0.0042}
    (alarm,) = Alarms().step(GOOD | still)
    assert alarm.name == f"sokoban/entropy/{phase}"
    assert "entropy of 0.0042 nats" in alarm.message
    assert "--actor.entropy_coef" in alarm.message
    # A policy that explores first wins no first attempt, and may have solved the game.
    assert Alarms().step(GOOD | still | {"lamer/sokoban/success@1": 0.0, "lamer/sokoban/success@3": SOLVED}) == []
    assert Alarms().step(GOOD | still | {"lamer/sokoban/success@1": SOLVED})
    assert Alarms().step(GOOD | {f"lamer/sokoban/entropy/{phase}": STILL}) == []


def kl_alarms(values: Sequence[float]) -> list[bool]:
    own = Alarms()
    return ["vllm_kl" in names(own.step(GOOD | {"vllm_kl": value})) for value in values]


def test_kl_raises_an_alarm_where_it_rose_tenfold_over_the_first_steps() -> None:
    first = [0.002] * FIRST
    assert not any(kl_alarms([*first, *[0.019] * 5])), "not tenfold"
    risen = kl_alarms([*first, *[0.021] * LAST])
    assert risen == [False] * (FIRST + 1) + [True] * (LAST - 1), "from when most of the last steps are so"
    assert not any(kl_alarms([*first, 0.05, 0.002, 0.002, 0.05, 0.002, 0.002])), "single peaks are none"
    assert not any(kl_alarms([1e-5] * FIRST + [KL_FINE] * 5)), "a rise to what is still fine"
    own = Alarms()
    *_, (alarm,) = [own.step(GOOD | {"vllm_kl": value}) for value in [*first, *[0.05] * 2]]
    assert "risen from 0.002 to 0.05" in alarm.message
    assert "--algo.advantage.is_correction_level" in alarm.message


def test_kl_raises_an_alarm_where_it_is_large_from_the_first_steps_on() -> None:
    assert kl_alarms([KL_LARGE + 0.01] * 4) == [False, False, True, True]
    assert not any(kl_alarms([KL_LARGE] * 10))
    assert kl_alarms([0.001, math.nan, 0.001, 0.001, 0.001])[1:] == [True, True, True, False]


def test_no_group_that_teaches_is_an_alarm_after_some_steps_and_the_remedy_depends_on_success() -> None:
    own, nothing = Alarms(), GOOD | {"lamer/groups_that_teach": 0.0}
    assert [names(own.step(step)) for step in (nothing, nothing, GOOD, nothing, nothing)] == [[]] * 5
    (hard,) = own.step(nothing | {"lamer/sokoban/success@3": 0.0})
    assert hard.name == "groups_that_teach"
    assert "0% of them are won" in hard.message
    assert "--lamer.task_sampling learnable" in hard.message
    (easy,) = own.step(nothing | {"lamer/sokoban/success@1": 0.0, "lamer/sokoban/success@3": 1.0})
    assert "100% of them are won" in easy.message
    assert "harder tasks" in easy.message
    assert own.step(nothing | {"lamer/groups_that_teach": 0.1}) == []


def test_an_alarm_is_said_once_and_again_after_it_was_away() -> None:
    own, bad = Alarms(), GOOD | {"lamer/sokoban/overlong": 1.0}

    def said(step: dict[str, float]) -> list[bool]:
        return [alarm.new for alarm in own.step(step)]

    assert [said(bad) for _ in range(4)] == [[True], [False], [False], [False]]
    assert [said(GOOD) for _ in range(AWAY - 1)] == [[]] * (AWAY - 1)
    assert said(bad) == [False], "it was away for too short a time"
    assert [said(GOOD) for _ in range(AWAY)] == [[]] * AWAY
    assert said(bad) == [True]
    assert said(bad | {"lamer/sokoban/malformed_replies": 1.0}) == [True, False], "another one is said for itself"


def test_flags_that_alarms_name_exist() -> None:
    pytest.importorskip("openrlhf")
    from openrlhf_lamer.integration.host import host_parser

    texts = [value for name, value in vars(alarms).items() if name.endswith("_REMEDY")]
    texts += [each.remedy for each in alarms.SHARES]
    flags = set(re.findall(r"--([\w.]*\w)", " ".join(texts)))
    assert len(flags) > 12
    known = {action.dest for action in host_parser()._actions} | {f"lamer.{name}" for name in LamerConfig.flags()}
    assert flags <= known
