"""Scripted players that a model imitates: what they know, what they draw, and how they are named."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from openrlhf_lamer import envs
from openrlhf_lamer.agents import Agent, load_agent
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.metrics import summarize
from openrlhf_lamer.records import Phase, Stop, Trial
from openrlhf_lamer.text_chat import TextChat
from openrlhf_lamer.warmstart.demonstrations import Rules, demonstrate
from openrlhf_lamer.warmstart.players import Player, PlayerError, players
from openrlhf_lamer.warmstart.players.finder import Finder
from openrlhf_lamer.warmstart.players.minesweeper import FalliblePlayer
from openrlhf_lamer.warmstart.players.mixture import Mixture

LAMP = {"doors": 8, "lamp": True}
SMALL = {"size": 3, "mines": 2}
Played = list[tuple[Trial, Any]]


def agent_of(env: str) -> Agent:
    return load_agent(f"openrlhf_lamer.agents.{env}")[0]


def shown(env: str, number: int, spec: str | None, options: dict[str, Any] | None = None, **config: Any) -> Played:
    """Trials of a player, each with the player that played it."""
    chat, agent, rules = TextChat(), agent_of(env), LamerConfig(**config)
    make, made = players(spec, chat, agent, rules, options or {}), dict[int, Player]()

    def player(number: int) -> Player:
        made[number] = make(number)
        return made[number]

    tasks = envs.lookup(env).tasks("train", number, options=rules.env_options)
    trials = demonstrate(tasks, Rules(agent, rules, 1 << 20, 1 << 30), chat, player)
    assert not [trial.failure for trial in trials if trial.failure is not None]
    return [(trial, made[number]) for number, trial in enumerate(trials)]


def often(count: int, number: int, probability: float) -> bool:
    """Whether `count` of `number` draws fits the probability: within 4 standard deviations."""
    return abs(count - number * probability) <= 4 * (number * probability * (1 - probability)) ** 0.5


def known(trial: Trial, memory: str, sign: str) -> list[bool]:
    """For each play turn, whether a text with `sign` was seen before: in the episode, or in what memory keeps."""
    found: list[bool] = []
    remembered = False
    for episode in trial.episodes:
        now = remembered
        for turn in episode.turns:
            now = now or sign in turn.observation
            found.append(now)
        seen = sign in (episode.remark or "") if memory == "reflection" else now or sign in episode.final_observation
        remembered = remembered or seen
    return found


@pytest.mark.parametrize("memory", ["history", "reflection", "both"])
@pytest.mark.parametrize(
    ("env", "options", "sign"), [("doors", LAMP, "Prize behind"), ("darkroom", {"size": 5}, "Goal at")]
)
def test_a_finder_plays_the_oracle_in_turns_before_which_it_was_shown_what_is_hidden(
    env: str, options: dict[str, Any], sign: str, memory: str
) -> None:
    counts = {True: 0, False: 0}
    given: dict[str, Any] = {"tells": 0.6} | ({"searches": [["lamp"]]} if env == "doors" else {})
    with closing(envs.make(env, **options)) as game:
        for trial, player in shown(env, 60, "finder", given, memory=memory, env_options=options):
            assert player.certain == known(trial, memory, sign)
            certain = iter(player.certain)
            for episode in trial.episodes:
                game.reset(trial.task)
                for turn in episode.turns:
                    counts[knew := next(certain)] += 1
                    if knew:
                        assert turn.action == game.oracle()
                    game.step(turn.action or "")
            if env == "doors" and any(player.certain):
                assert player.certain.index(True) == len(trial.episodes) - 1
                assert trial.won
    assert min(counts.values()) > 20


@pytest.mark.parametrize("memory", ["reflection", "both"])
def test_a_remark_tells_what_was_seen_last_or_nothing(memory: str) -> None:
    trials = [trial for trial, _ in shown("doors", 300, None, {"tells": 0.3}, memory=memory, env_options=LAMP)]
    lost = [episode for trial in trials for episode in trial.episodes if episode.reflection is not None]
    told = [episode for episode in lost if episode.remark == episode.final_observation]
    assert {episode.remark for episode in lost} - {episode.remark for episode in told} == {"Try again."}
    assert often(len(told), len(lost), 0.3)


@pytest.mark.parametrize(
    ("memory", "options", "repeats"),
    [
        ("history", {"avoid": 1}, 0),
        ("history", {"avoid": 0}, 1 / 8),
        ("history", {}, 1 / 16),
        ("reflection", {"avoid": 1, "tells": 1}, 0),
        ("reflection", {"avoid": 1, "tells": 0}, 1 / 8),
        ("reflection", {"avoid": 1, "tells": 0.5}, 1 / 16),
    ],
)
def test_a_finder_avoids_actions_that_it_remembers_to_have_lost(
    memory: str, options: dict[str, float], repeats: float
) -> None:
    """Of 8 doors, chosen with equal probability; a second choice is the first one again as often as it is forgotten."""
    found = shown("doors", 400, "finder", options, memory=memory, env_options={"doors": 8}, num_episodes=2)
    choices = [[episode.turns[0].action for episode in trial.episodes] for trial, _ in found]
    second = [choice for choice in choices if len(choice) == 2]
    assert often(len(second), 400, 7 / 8)
    again = sum(a == b for a, b in second)
    assert again == 0 if repeats == 0 else often(again, len(second), repeats) and again > 0


def test_a_finder_goes_on_where_every_action_has_lost() -> None:
    """In Sokoban an attempt may be lost by any of four steps."""
    found = shown("sokoban", 3, "finder", {"avoid": 1}, memory="history", num_episodes=12)
    assert all(len(trial.episodes) == 12 or trial.won for trial, _ in found)


@pytest.mark.parametrize("share", [0.0, 0.45, 1.0])
def test_a_finder_searches_by_a_given_action_as_often_as_it_is_told(share: float) -> None:
    options = {"searches": [["lamp"]], "share": share}
    found = shown("doors", 500, "finder", options, memory="history", env_options=LAMP, num_episodes=1)
    lamps = sum(trial.turns[0].action == "lamp" for trial, _ in found)
    assert lamps == 500 if share == 1 else often(lamps, 500, share + (1 - share) / 9)


def test_a_finder_goes_a_given_way_until_it_knows() -> None:
    ways = [["up", "left", "down", "down"], ["down", "right", "up", "up"]]
    options = {"searches": ways, "share": 0.6}
    found = shown("darkroom", 500, "finder", options, memory="history", env_options={"size": 5}, num_episodes=1)
    gone = [0, 0]
    for trial, player in found:
        searched = [turn.action for turn, knew in zip(trial.turns, player.certain, strict=True) if not knew]
        if len(searched) == 4:  # until the end
            gone = [count + (searched == way) for count, way in zip(gone, ways, strict=True)]
    # 6 of the 16 hiding places stay out of sight on either way. At random, 1 walk of about 150 is one of them.
    assert all(often(count, 500, 6 / 16 * (0.6 / 2 + 0.4 / 150)) for count in gone)


@pytest.mark.parametrize("recall", [0.0, 0.3, 1.0])
def test_a_finder_uses_what_earlier_attempts_found_as_often_as_it_is_told(recall: float) -> None:
    options = {"searches": [["lamp"]], "share": 1.0, "recall": recall}
    found = shown("doors", 400, "finder", options, memory="history", env_options=LAMP, num_episodes=2)
    second = [trial.episodes[1].turns[0].action for trial, _ in found]
    assert all(trial.won == (action != "lamp") for (trial, _), action in zip(found, second, strict=True))
    won = sum(trial.won for trial, _ in found)
    assert won == 400 * recall if recall in (0, 1) else often(won, 400, recall)


@pytest.mark.parametrize(
    ("spec", "oracle"), [("oracle", 1.0), ("random", 0.0), ("oracle:0.3,random:0.7", 0.3), ("random:3, oracle:1", 0.25)]
)
def test_a_mixture_plays_as_the_oracle_in_its_share_of_turns(spec: str, oracle: float) -> None:
    found = shown("doors", 500, spec, env_options={"doors": 8}, num_episodes=1)
    won = sum(trial.won for trial, _ in found)
    assert won == 500 if oracle == 1 else often(won, 500, oracle + (1 - oracle) / 8)
    assert not any(certain for _, player in found for certain in player.certain)


def test_draws_follow_from_the_number_of_the_trial() -> None:
    first, again = (shown("doors", 30, None, env_options=LAMP) for _ in range(2))
    actions = [[turn.action for turn in trial.turns] for trial, _ in first]
    assert actions == [[turn.action for turn in trial.turns] for trial, _ in again]
    assert len({tuple(each[:1]) for each in actions}) > 4


@pytest.mark.parametrize("reasons", [True, False])
def test_replies_have_a_thought_where_prompts_ask_for_one(reasons: bool) -> None:
    agent = Agent("doors", max_turns=1, reasons=reasons)
    player = Finder(TextChat(), 0, agent, LamerConfig())
    text = player.reply("d3", "I know it.", certain=True)
    assert text == ("I know it. <action>d3</action>" if reasons else "<action>d3</action>")
    assert player.certain == [True]


class TestNames:
    @pytest.mark.parametrize(
        ("env", "expected"),
        [("doors", Finder), ("darkroom", Finder), ("minesweeper", FalliblePlayer), ("sokoban", Mixture)],
    )
    def test_each_game_has_a_player_of_its_own(self, env: str, expected: type[Any]) -> None:
        assert type(players(None, TextChat(), agent_of(env), LamerConfig(), {})(0)) is expected

    @pytest.mark.parametrize(
        ("spec", "options", "message"),
        [
            ("nobody", {}, "--player nobody: no player is called so; there are: finder, fallible, oracle, random, mix"),
            ("oracle:1,nobody:2", {}, "--player oracle:1,nobody:2: .*there are: finder"),
            ("oracle:1.2.3,random", {}, "--player oracle:1.2.3,random: .*there are: finder"),
            ("no.module:Mine", {}, "--player no.module:Mine: No module named 'no'; there are"),
            ("gone.py:Mine", {}, "--player gone.py:Mine: no file gone.py; there are"),
            ("openrlhf_lamer.records:Mine", {}, "openrlhf_lamer.records has no Mine"),
            ("oracle:0", {}, "--player oracle:0 with --player-options {}: weights of a mixture are positive"),
            ("finder", {"lamp": 1}, r'--player finder with --player-options {"lamp": 1}: .*argument \'lamp\''),
            ("oracle", {"share": 1}, r'--player oracle with --player-options {"share": 1}: .*argument \'share\''),
            ("finder", {"share": 50}, r"share is a probability, from 0 to 1, not 50"),
            ("finder", {"recall": -0.1}, r"recall is a probability, from 0 to 1, not -0\.1"),
            ("finder", {"avoid": "half"}, r"avoid is a probability, from 0 to 1, not 'half'"),
            ("finder", {"tells": True}, r"tells is a probability, from 0 to 1, not True"),
            ("fallible", {"skill": 2}, r"skill is a probability, from 0 to 1, not 2"),
            ("finder", {"searches": ["lamp"]}, r"searches is a list of lists of actions, .* not \['lamp'\]"),
            ("finder", {"searches": "lamp"}, r"searches is a list of lists of actions, .* not 'lamp'"),
        ],
    )
    def test_a_wrong_one_is_refused_with_the_flag(self, spec: str, options: dict[str, Any], message: str) -> None:
        with pytest.raises(PlayerError, match=message):
            players(spec, TextChat(), agent_of("doors"), LamerConfig(), options)

    def test_a_class_in_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.py"
        file.write_text(
            "from openrlhf_lamer.warmstart.players.scripted import DemonstratedPolicy\n"
            "class Mine(DemonstratedPolicy):\n"
            "    def __init__(self, chat, seed, agent, config, *, first):\n"
            "        super().__init__(chat, seed, agent, config)\n"
            "        self.door = first\n"
            "    def act(self, env):\n"
            "        self.door += 1\n"
            "        return self.reply(f'd{self.door - 1}', 'On.', certain=True)\n"
        )
        found = shown("doors", 20, f"{file}:Mine", {"first": 3}, memory="history", env_options=LAMP)
        for trial, player in found:
            assert [turn.action for turn in trial.turns] == ["d3", "d4", "d5"][: len(trial.turns)]
            assert player.certain == [True] * len(trial.turns)
        with pytest.raises(PlayerError, match=re.escape(f"--player {file}:Mine with --player-options {{}}: ")):
            shown("doors", 1, f"{file}:Mine")
        with pytest.raises(PlayerError, match=re.escape(f"{file} has no Yours")):
            shown("doors", 1, f"{file}:Yours")
        file.write_text("class Mine:\n    def __init__(self, *given):\n        pass\n")
        with pytest.raises(PlayerError, match=re.escape(f"--player {file}:Mine: a player has a list `certain`")):
            shown("doors", 1, f"{file}:Mine")


class TestFalliblePlayer:
    def test_it_errs_and_remarks_on_it(self) -> None:
        played = shown("minesweeper", 60, None, context="episode", env_options={"size": 4, "mines": 2})
        trials = [trial for trial, _ in played]
        found = summarize(trials, 3, 0.6)
        assert 0.05 < found["success@1"] < 0.5
        assert found["success@3"] > found["success@1"]
        assert found["invalid_actions"] == 0
        assert found["reflection_valid"] == 1
        mines = [trial.episodes[0] for trial in trials if trial.episodes[0].stop is Stop.LOST]
        assert len(mines) > 10
        for episode in mines:
            assert "*" in episode.final_observation
            assert episode.remark == f"Mine: {episode.turns[-1].action}."

    @pytest.mark.parametrize("memory", ["both", "reflection", "history"])
    def test_one_that_recalls_every_time_hits_no_mine_twice(self, memory: str) -> None:
        """Whether the memory shows the board on which an attempt ended, or a remark."""
        shares: dict[float, float] = {}
        for recall in (0.0, 1.0):
            found = shown(
                "minesweeper",
                60,
                "fallible",
                {"recall": recall},
                context="episode",
                memory=memory,
                env_options=SMALL,
            )
            hit = [[e.turns[-1].action for e in trial.episodes if "*" in e.final_observation] for trial, _ in found]
            shares[recall] = sum(len(set(mines)) < len(mines) for mines in hit) / len(hit)
        assert shares[1.0] == 0.0
        assert shares[0.0] > 0.2

    def test_it_marks_mines_to_avoid_in_the_row_that_it_repeats(self) -> None:
        marks = 0
        for trial, _ in shown("minesweeper", 60, "fallible", {"recall": 1.0}, context="episode", env_options=SMALL):
            mines: set[str] = set()
            for episode in trial.episodes:
                for turn in episode.turns:
                    row, cells = re.findall(r"Row (\d): ([^a-z]+) so I try", turn.text)[0]
                    (board,) = re.findall(rf"Row {row}: (.+)", turn.observation)
                    expected = [
                        "*" if f"({row}, {column})" in mines else cell for column, cell in enumerate(board.split(), 1)
                    ]
                    assert cells.split() == expected
                    marks += expected.count("*")
                if episode.stop is Stop.LOST:
                    mines.add(episode.turns[-1].action or "")
        assert marks > 50

    def test_it_is_never_certain(self) -> None:
        ((trial, player),) = shown("minesweeper", 1, None, env_options=SMALL)
        assert player.certain == [False] * sum(turn.phase is Phase.PLAY for turn in trial.turns)
