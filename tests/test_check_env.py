"""Answers of `check_env` on games as novices write them: every broken rule at once, each with its two values."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from openrlhf_lamer.envs import CheckError, EpisodeOverError, Observation, Step, Task, TextEnv, check_env
from openrlhf_lamer.envs.probing import differences
from openrlhf_lamer.envs.rules import RULES
from openrlhf_lamer.envs.seeding import below, generator


def told(env: Any, **options: Any) -> dict[str, str]:
    """The message of one round about each broken rule."""
    with pytest.raises(CheckError) as raised:
        check_env(env, **options)
    text = str(raised.value)
    parts = re.findall(r"^\d+\. (\w+): (.*?)(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE)
    count = re.search(r"breaks (\d+) rule", text)
    assert count is not None
    assert len(parts) == int(count[1])
    return dict(parts)


class HotCold(TextEnv):
    """Habits from Gymnasium: numbers for texts, an error for nonsense, a shared generator."""

    name = "hotcold"

    def __init__(self, top: int = 10) -> None:
        self.top = top

    def reset(self, task: Task) -> Observation:
        self.secret, self.tries = random.randint(1, self.top), 0
        return Observation("Guess a number.")

    def step(self, action: str) -> Step:
        guess = int(action)
        self.tries += 1
        won = guess == self.secret
        return Step(Observation(f"try {self.tries}"), 1 if won else 0, won, False, won, True)

    def anchor(self) -> Any:
        return self.secret

    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        return 0, 1

    def random_action(self, rng: Any) -> str:
        return str(rng.randint(1, self.top))


class HotColdRepaired(HotCold):
    """The same, with the fixes that one round of messages asks for."""

    def __init__(self, top: int = 10, reward: Any = "sparse") -> None:
        TextEnv.__init__(self, reward)
        self.top, self.over = top, True

    def reset(self, task: Task) -> Observation:
        assert task.seed is not None
        self.secret, self.tries, self.over = 1 + below(generator("hotcold", self.top, task.seed), self.top), 0, False
        return Observation("Guess a number.")

    def step(self, action: str) -> Step:
        if self.over:
            raise EpisodeOverError("call reset first")
        if not action.strip().isdecimal():
            shown = f"try {self.tries}" if self.tries else "Guess a number."
            return Step(Observation(shown), 0.0, False, False, False, valid=False)
        step = super().step(action)
        self.over = step.terminated
        return Step(step.observation, float(step.reward), step.terminated, False, step.won, True)

    def anchor(self) -> str:
        return f"{self.secret} {self.tries}"


class Corridor(TextEnv):
    """A hidden key that the anchor forgets, a list for a tuple, a step for a refused action, no error at the end."""

    name = "corridor"
    text = ""

    def __init__(self, length: int = 3, reward: Any = "sparse") -> None:
        super().__init__(reward)
        self.length, self.done = length, True

    def reset(self, task: Task) -> Observation:
        self.at, self.key, self.steps, self.done = 0, False, 0, False
        return self.look()

    def look(self) -> Observation:
        actions: Any = ["left", "right", "take", "open"]
        return Observation(f"{self.text}Cell {self.at}.", actions)

    def step(self, action: str) -> Step:
        if self.done:
            return Step(self.look(), 0.0, True, False, False, False)
        self.steps += 1
        valid, won = action in self.look().admissible, False
        self.at = max(0, min(self.length - 1, self.at + {"left": -1, "right": 1}.get(action, 0)))
        self.key = self.key or (action == "take" and self.at == 1)
        won = action == "open" and self.key and self.at == self.length - 1
        self.done = won or self.steps >= 20
        return Step(self.look(), 10.0 if won else -0.1, won, self.done and not won, won, valid)

    def anchor(self) -> str:
        return f"{self.at}"

    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        return 0.0, 10.0


class Long(Corridor):
    text = "A long corridor. " * 150


class Quiz(TextEnv):
    """Answers as Gymnasium gives them, no actions to draw, and another question at each reset."""

    name = "quiz"
    questions = ("2 + 2", "3 * 3", "10 - 7")

    def __init__(self, reward: Any = "sparse") -> None:
        super().__init__(reward)
        self.asked = 0

    def reset(self, task: Task) -> Any:
        self.number = (task.seed or 0) + self.asked
        self.asked += 1
        return self.questions[self.number % 3]

    def step(self, action: str) -> Any:
        right = action == str(eval(self.questions[self.number % 3]))
        return self.questions[self.number % 3], 1.0 * right, right, False, {}

    def anchor(self) -> str:
        return "quiz"

    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        return 0.0, 1.0


class TestNovices:
    def test_all_rules_are_told_in_one_round(self) -> None:
        random.seed(0)
        found = told(HotCold)
        assert set(found) >= {
            "takes_a_reward_scheme",
            "same_task_same_state",
            "types_are_right",
            "equal_anchors_are_equal_states",
            "invalid_action_changes_nothing",
            "no_step_before_reset",
            "no_step_after_the_end",
        }
        assert re.search(r"anchor is \d+ \(int\), not a text\n   Step.reward is [01] \(int\)", found["types_are_right"])
        assert "the constructor takes top, and not reward" in found["takes_a_reward_scheme"]
        refused = found["invalid_action_changes_nothing"]
        assert re.search(r"raised ValueError\(.*\), in test_check_env.py, line \d+", refused)
        assert re.search(r"observation.text: 'try \d+' and 'try \d+'", found["equal_anchors_are_equal_states"])

    def test_doing_what_one_round_says_is_enough(self) -> None:
        check_env(HotColdRepaired)

    def test_values_and_remedies(self) -> None:
        found = told(Corridor)
        assert set(found) == {
            "types_are_right",
            "equal_anchors_are_equal_states",
            "invalid_action_changes_nothing",
            "no_step_before_reset",
            "no_step_after_the_end",
            "rewards_within_bounds",
        }
        assert "['left', 'right', 'take', 'open'] (list), not a tuple of texts" in found["types_are_right"]
        assert "with the anchor '2', in each of which 'open' is played" in found["equal_anchors_are_equal_states"]
        assert "reward: -0.1 and 10.0\n   terminated: False and True" in found["equal_anchors_are_equal_states"]
        assert (
            "1 turns paid -0.1 in task corridor:seed=0; reward_bounds(1) is (0.0, 10.0)"
            in found["rewards_within_bounds"]
        )
        assert "Remedy: set a flag at the end" in found["no_step_after_the_end"]
        longer = told(Long)["no_state_is_longer_than_the_long_ones"]
        assert f"{17 * 150 + len('Cell 0.') + len('_left_right_take_open')} characters" in longer
        assert "the longest of long_states has 2000" in longer

    def test_answers_in_gymnasiums_form_do_not_hide_other_rules(self) -> None:
        found = told(Quiz)
        assert set(found) >= {"types_are_right", "reset_restores", "offers_actions", "no_step_before_reset"}
        types = found["types_are_right"]
        assert "reset returned '2 + 2' (str), not an Observation" in types
        assert "step returned ('2 + 2', 0.0, False, False, {}) (tuple), not a Step" in types
        assert re.search(r"text: '.*' and '.*'", found["reset_restores"])

    def test_what_could_not_be_read_is_said_to_be_unchecked(self) -> None:
        class Strange(Quiz):
            def reset(self, task: Task) -> Any:
                return 7

        with pytest.raises(CheckError, match="Checked only once types_are_right holds: same_task_same_state, twins"):
            check_env(Strange)

    def test_what_is_missing_is_named(self) -> None:
        class Half(TextEnv):
            def step(self, action: str) -> Step:
                raise EpisodeOverError

        class Nameless(HotColdRepaired):
            name = ""

        with pytest.raises(CheckError, match=r"cannot be built: .*anchor.*reset.*reward_bounds"):
            check_env(Half)
        with pytest.raises(CheckError, match=r"Nameless.name is ''; give the class the name"):
            check_env(Nameless)

    def test_each_rule_has_a_sentence_and_a_remedy(self) -> None:
        assert all(rule.text.endswith(".") and rule.remedy for rule in RULES)
        assert len({rule.name for rule in RULES}) == len(RULES) == 13


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (1.0, 2.0, ["1.0 and 2.0"]),
        ("abc", "abd", ["'abc' and 'abd'"]),
        ("x" * 200 + "a", "x" * 200 + "b", [f"…'{'x' * 20}a' and …'{'x' * 20}b'"]),
        ([1, 2, 3], [1, 5, 6], ["[2]: 2 and 5", "[3]: 3 and 6"]),
        ((1,), (1, 2), ["(1,) and (1, 2)"]),
        (
            Step(Observation("a", ("x",)), 0.0, False, False, False, True, {"moves": 1}),
            Step(Observation("a", ("y",)), 0.5, False, False, False, True, {"moves": 2}),
            ["observation.admissible[1]: 'x' and 'y'", "reward: 0.0 and 0.5", "info['moves']: 1 and 2"],
        ),
    ],
)
def test_differences_are_named_by_their_place(one: object, other: object, expected: list[str]) -> None:
    assert list(differences(one, other)) == expected
    assert list(differences(one, one)) == []
