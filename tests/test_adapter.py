"""Games of other people as environments: one of the textarena package, and small ones that show each rule."""

from __future__ import annotations

import random
from typing import Any

import pytest

from openrlhf_lamer.envs import CheckError, EpisodeOverError, Task, TaskError, check_env
from openrlhf_lamer.envs.adapter import GymTextEnv


class TextArenaGame:
    """A single-player game of textarena with Gymnasium's calls."""

    def __init__(self, name: str, **options: Any) -> None:
        textarena = pytest.importorskip("textarena")
        self.game = textarena.make(name, **options)

    def reset(self, seed: int) -> tuple[str, dict[str, Any]]:
        self.game.reset(num_players=1, seed=seed)
        return self._said(), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        done, info = self.game.step(action)
        rewards = self.game.state.rewards or {0: 0.0}
        return self._said(), rewards[0], done, False, info

    def _said(self) -> str:
        return "\n".join(text for sender, text, _ in self.game.get_observation()[1] if sender == -1)


class Guess(GymTextEnv):
    name = "textarena-guess"

    def __init__(self, reward: Any = "sparse", top: int = 20) -> None:
        super().__init__(reward)
        self.top = top

    def build(self) -> TextArenaGame:
        return TextArenaGame("GuessTheNumber-v0-raw", max_number=self.top, max_turns=8)

    def to_game(self, action: str) -> str:
        return f"[{action}]"

    def accepts(self, action: str) -> bool:
        return action.isdecimal() and 1 <= int(action) <= self.top

    def random_action(self, rng: Any) -> str:
        return str(rng.randrange(1, self.top + 1))


class TestTextArena:
    @pytest.mark.parametrize("reward", ["sparse", "shaped"])
    def test_it_passes_every_check(self, reward: str) -> None:
        check_env(Guess, reward=reward)

    def test_bisection_wins(self) -> None:
        env = Guess()
        for seed in range(20):
            env.reset(Task(env.name, seed=seed))
            low, high, step = 1, 20, None
            while step is None or not step.terminated:
                middle = (low + high) // 2
                step = env.step(str(middle))
                low, high = (middle + 1, high) if "is higher" in step.observation.text else (low, middle - 1)
            assert (step.won, step.reward) == (True, 10.0)

    def test_running_out_of_turns_is_no_success(self) -> None:
        env = Guess(reward="shaped")
        env.reset(Task(env.name, seed=2))
        secret = env._game.game.game_number
        steps = []
        for guess in [number for number in range(1, 21) if number != secret]:
            steps.append(env.step(str(guess)))
            if steps[-1].terminated:
                break
        assert 8 <= len(steps) <= 9
        assert not steps[-1].won
        assert 0 < steps[-1].reward < 1


class Door:
    """One of three doors is right. It lists its actions, draws from `random` in each step, and counts its resets."""

    def __init__(self) -> None:
        self.closed = False

    def reset(self, seed: int) -> tuple[str, dict[str, Any]]:
        random.seed(seed)
        self.right, self.last = random.choice("abc"), ""
        return "three doors", {"admissible_commands": ["a", "b", "c"]}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        smell = random.choice(("roses", "tar"))
        return f"it smells of {smell}", float(action == self.right), action == self.right, False, {}

    def close(self) -> None:
        self.closed = True


class Doors(GymTextEnv):
    name = "doors"

    def build(self) -> Door:
        return Door()

    def admissible(self, info: Any) -> list[str]:
        return ["a", "b", "c"]


class BlindDoors(Doors):
    """Says that an observation shows everything, which it does not."""

    shows_state = True


class TestRules:
    def test_a_game_that_draws_from_the_shared_generator_keeps_the_contract(self) -> None:
        check_env(Doors)

    def test_it_does_not_disturb_the_shared_generator(self) -> None:
        random.seed(5)
        expected = [random.random() for _ in range(3)]
        random.seed(5)
        env = Doors()
        drawn = [random.random()]
        env.reset(Task("doors", seed=1))
        drawn.append(random.random())
        env.step("a")
        drawn.append(random.random())
        assert drawn == expected

    def test_what_is_not_listed_never_reaches_the_game(self) -> None:
        one, other = Doors(), Doors()
        for env in (one, other):
            env.reset(Task("doors", seed=3))
        before = one.anchor()
        refused = one.step("through the wall")
        assert (refused.valid, refused.reward, one.anchor()) == (False, 0.0, before)
        wrong = next(door for door in "abc" if door != one._game.right)
        assert one.step(wrong) == other.step(wrong)

    def test_an_anchor_tells_histories_apart_unless_all_is_shown(self) -> None:
        env = Doors()
        env.reset(Task("doors", seed=3))
        wrong = [door for door in "abc" if door != env._game.right]
        anchors = {env.anchor()}
        for turn in range(4):
            env.step(wrong[turn % 2])
            anchors.add(env.anchor())
        assert len(anchors) == 5
        with pytest.raises(CheckError, match="equal_anchors_are_equal_states"):
            check_env(BlindDoors)

    def test_specs_are_refused_and_an_episode_ends(self) -> None:
        env = Doors()
        with pytest.raises(TaskError, match="seeds, not specs"):
            env.reset(Task("doors", spec={"door": "a"}))
        env.reset(Task("doors", seed=3))
        assert env.step(env._game.right).won
        with pytest.raises(EpisodeOverError):
            env.step("a")

    def test_closing_closes_the_game(self) -> None:
        env = Doors()
        env.reset(Task("doors", seed=3))
        game = env._game
        env.close()
        assert game.closed
        with pytest.raises(EpisodeOverError):
            env.step("a")
