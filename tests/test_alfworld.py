"""ALFWorld: the same game as the stock engine's, the environment's rules, and nothing that grows."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alfworld_games import DATA, NAMES, file_of, kept, official, solve, transcript

from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.envs import EpisodeOverError, check_env, make
from openrlhf_lamer.envs.alfworld import catalogue, games, planner, wheel
from openrlhf_lamer.envs.alfworld.env import AlfWorld
from openrlhf_lamer.envs.base import SUCCESS_REWARD
from openrlhf_lamer.policies.scripted import OraclePolicy
from openrlhf_lamer.records import Phase, Trial

STOCK = Path(__file__).parent / "alfworld_stock.py"


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tests see these six official games and no others."""
    monkeypatch.setenv(catalogue.VARIABLE, str(DATA))
    return DATA / catalogue.FOLDER


class TestEngine:
    def test_transcripts_equal_the_stock_engines(self, tmp_path: Path) -> None:
        """All six official games and a generated one: answers, commands and endings, word for word."""
        files = [*map(file_of, NAMES), kept(1, "ood")]
        answer = subprocess.run(
            [sys.executable, str(STOCK), "12", *map(str, files)],
            env={**os.environ, catalogue.VARIABLE: str(tmp_path)},
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        stock = json.loads(answer.stdout)
        for path, theirs in zip(files, stock, strict=True):
            assert transcript(path, 12) == theirs, path
        assert any(rows[-1][-1] for rows in stock)

    def test_the_grammar_is_that_of_the_game_whatever_its_goal(self) -> None:
        """A goal that contains grammar symbols takes the slow path and gives the same text."""
        text = wheel.grammar()
        plain = games.parse(text.replace("UNKNOWN GOAL", "put a mug on desk"))
        signs = games.parse(text.replace("UNKNOWN GOAL", "put {'a' + ' mug'} on desk"))
        assert len({*plain.predicates()}) > 10
        said = [each.say(each.rules["task"][0].symbols, {}, {}, {}) for each in (plain, signs)]
        assert said == ["Your task is to: put a mug on desk."] * 2

    def test_translating_leaves_the_process_as_it_was(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["mine", "--flag"])
        before = sys.argv
        planner.translate(wheel.domain(), json.loads(file_of(NAMES[0]).read_bytes())["pddl_problem"])
        assert sys.argv is before

    def test_copies_of_the_planner_are_small_and_used_again(self) -> None:
        def copies() -> set[str]:
            return set(re.findall(r"\S+\.so(?= \(deleted\))", Path("/proc/self/maps").read_text()))

        game = games.load(file_of(NAMES[0]))
        plays = [games.Play() for _ in range(6)]
        for play in plays:
            play.begin(game)
        opened = copies()
        assert len(opened) >= 6
        for play in plays:
            play.close()
            play.close()
        del plays[3:]
        again = [games.Play() for _ in range(6)]
        assert copies() == opened
        for play in again:
            play.close()
        assert len(planner._loaded_part(Path(wheel._root().parent / "fast_downward" / "libdownward.so"))) < 2**21

    def test_a_dropped_play_gives_its_copy_back(self) -> None:
        idle = len(planner._idle)
        play = games.Play()
        had = len(planner._idle)
        del play
        assert len(planner._idle) == max(idle, 1) == had + 1

    def test_a_copy_that_a_thread_hangs_in_is_not_used_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        entered, leave = threading.Event(), threading.Event()
        apply = planner.apply

        def hang(*arguments: Any) -> Any:
            entered.set()
            leave.wait()
            return apply(*arguments)

        play = games.Play()
        play.begin(games.load(file_of(NAMES[0])))
        monkeypatch.setattr(planner, "apply", hang)
        thread = threading.Thread(target=play.do, args=("look",))
        thread.start()
        entered.wait()
        idle = list(planner._idle)
        play.close()
        assert planner._idle == idle
        leave.set()
        thread.join()
        play.close()
        assert planner._idle == idle

    def test_games_played_at_once_do_not_meet(self) -> None:
        """Two games played alternately answer as each does by itself."""
        alone = [transcript(file_of(name), 12) for name in NAMES[:2]]
        plays = [games.Play(), games.Play()]
        texts = [[play.begin(games.load(file_of(name)))] for play, name in zip(plays, NAMES, strict=False)]
        for turn in range(1, 13):
            for play, rows, said in zip(plays, alone, texts, strict=True):
                if turn < len(rows):
                    said.append(play.do(rows[turn][0]) or games.NOTHING_HAPPENS)
        assert texts == [[row[1] for row in rows] for rows in alone]


class TestEnvironment:
    @pytest.mark.parametrize("name", NAMES, ids=[name.split("/")[1] for name in NAMES])
    def test_official_games_keep_the_contract_and_are_won_by_their_walkthrough(self, name: str) -> None:
        check_env("alfworld", tasks=[official(name)], steps=25)
        assert 3 <= solve(AlfWorld(), official(name)) <= 10

    def test_a_refused_command_is_answered_and_changes_nothing(self) -> None:
        env = AlfWorld(max_steps=2)
        first = env.reset(official(NAMES[0]))
        anchor = env.anchor()
        for _ in range(3):
            step = env.step("go to the moon")
            assert (step.observation.text, step.valid, step.truncated) == ("Nothing happens.", False, False)
            assert step.observation.admissible == first.admissible
        assert env.anchor() == anchor

    def test_commands_are_listed_without_help_and_taken_in_any_spelling(self) -> None:
        env = AlfWorld()
        observation = env.reset(official(NAMES[0]))
        assert list(observation.admissible) == sorted(observation.admissible)
        assert "look" in observation.admissible
        assert "help" not in observation.admissible
        assert env.step("help").valid
        command = next(each for each in observation.admissible if each.startswith("go to"))
        assert env.step("  " + command.upper().replace(" ", "  ")).valid

    def test_the_cap_truncates(self) -> None:
        env = AlfWorld(max_steps=3)
        env.reset(official(NAMES[0]))
        steps = [env.step("look") for _ in range(3)]
        assert [step.truncated for step in steps] == [False, False, True]
        assert not any(step.terminated for step in steps)
        with pytest.raises(EpisodeOverError):
            env.step("look")

    def test_only_the_winning_command_pays(self) -> None:
        for reward in ("sparse", "shaped"):
            env = make("alfworld", reward=reward)
            env.reset(official(NAMES[0]))
            rewards = []
            while (command := env.oracle()) is not None:
                rewards.append(env.step(command).reward)
            assert rewards == [0.0] * (len(rewards) - 1) + [SUCCESS_REWARD]

    def test_anchors_tell_states_apart_and_looking_around_changes_none(self) -> None:
        env = AlfWorld()
        env.reset(official(NAMES[0]))
        anchors = [env.anchor()]
        while (command := env.oracle()) is not None:
            env.step("look")
            env.step("inventory")
            assert env.anchor() == anchors[-1]
            env.step(command)
            anchors.append(env.anchor())
        assert len(set(anchors)) == len(anchors)
        others = set()
        for name in NAMES:
            env.reset(official(name))
            others.add(env.anchor())
        assert len(others) == len(NAMES)

    def test_ways_to_one_state_have_one_anchor(self) -> None:
        env = AlfWorld()
        observation = env.reset(official(NAMES[0]))
        places = [each for each in observation.admissible if each.startswith("go to")]
        env.step(places[0])
        anchor = env.anchor()
        env.step(places[1])
        assert env.anchor() != anchor
        env.step(places[0])
        assert env.anchor() == anchor

    def test_the_oracle_is_silent_off_its_path_and_finds_back_to_it(self) -> None:
        env = AlfWorld()
        observation = env.reset(official(NAMES[0]))
        first = env.oracle()
        away = next(each for each in observation.admissible if each.startswith("go to") and each != first)
        env.step(away)
        assert env.oracle() is None
        env.reset(official(NAMES[0]))
        assert env.oracle() == first

    def test_the_agent_plays_a_whole_trial(self, play: Callable[..., Trial], chat: Chat) -> None:
        """The oracle wins with ten turns; with two it must write a reflection."""
        agent = load_agent("openrlhf_lamer.agents.alfworld")[0]
        assert (agent.max_turns, agent.window) == (10, 15)
        trial = play(OraclePolicy(chat), agent=agent, max_length=16000)
        assert trial.failure is None
        assert trial.won_by(1)
        lost = play(OraclePolicy(chat), agent=agent, max_turns=2, num_episodes=2, max_length=16000)
        assert [turn.phase for turn in lost.turns].count(Phase.REFLECT) == 1
        assert [turn.phase for turn in lost.turns].count(Phase.PLAY) == 4

    def test_the_prompt_lists_the_commands_and_the_reflection_what_was_answered(self) -> None:
        agent = load_agent("openrlhf_lamer.agents.alfworld")[0]
        env = AlfWorld()
        start = env.reset(official(NAMES[0]))
        common: dict[str, Any] = {"env": env.facts, "initial": start, "episode": 0, "num_episodes": 3}
        prompt = agent.play_message(continuing=False, memory=(), turns=(), observation=start, turns_left=10, **common)
        assert "\n".join(start.admissible) in prompt
        assert "Your task is to:" in prompt
        assert prompt.count(start.text) == 1


def test_memory_and_disk_stay_flat() -> None:
    """Resets and steps on all games, in turns, with instances dropped and closed: nothing is left behind."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def held() -> int:
        return Path("/proc/self/maps").read_text().count("(deleted)")

    rng = random.Random(0)

    def some(resets: int) -> None:
        for number in range(resets):
            env = AlfWorld()
            observation = env.reset(official(NAMES[number % len(NAMES)]))
            for _ in range(10):
                observation = env.step(rng.choice(observation.admissible)).observation
            if number % 2:
                env.close()

    some(60)
    memory, disk = resident(), held()
    some(240)
    assert held() == disk
    assert resident() < 1.05 * memory
