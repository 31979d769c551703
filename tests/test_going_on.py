"""Trials that go on after a success, and trials with a budget of turns: scripts play, numbers are by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from stand_ins import prize_behind

from openrlhf_lamer import envs, metrics
from openrlhf_lamer.advantage import CreditConfig, TurnTable, with_returns
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.config import ENV_VAR, ConfigError, LamerConfig
from openrlhf_lamer.envs.base import SUCCESS_REWARD, Observation, TextEnv
from openrlhf_lamer.memory import recall
from openrlhf_lamer.policies.base import Generation, Request
from openrlhf_lamer.policies.scripted import TypedPolicy
from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn
from openrlhf_lamer.text_chat import TextChat
from openrlhf_lamer.trial import run_trial
from openrlhf_lamer.vocabulary import CrossEpisode, Memory

WON, LOST, BUDGET, MAX_TURNS = Stop.WON, Stop.LOST, Stop.BUDGET, Stop.MAX_TURNS

TASK = prize_behind("d4", doors=4)

GAMES = envs.names(plugins=False)


class Seen(TypedPolicy):
    """Plays its actions in turn, and keeps the prompts of each phase."""

    prompts: dict[Phase, list[str]]

    def reflect(self, env: TextEnv) -> str:
        return "<remark>Noted.</remark>"

    async def generate(self, request: Request) -> Generation:
        self.prompts[request.phase].append(self._chat.decode(request.prompt_ids))
        return await super().generate(request)


@pytest.fixture
def play() -> Callable[..., tuple[Trial, list[str], list[str]]]:
    """A trial at four doors, the prize behind the last: the record, the prompts for turns, those for reflections."""

    def run(actions: str, **config: Any) -> tuple[Trial, list[str], list[str]]:
        player = Seen(chat := TextChat(), actions.split())
        player.prompts = {phase: [] for phase in Phase}
        agent, _ = load_agent("openrlhf_lamer.agents.doors")
        settings = LamerConfig.load({"env_options": {"doors": 4}, "max_turns": 3, **config})
        trial = asyncio.run(run_trial(TASK, agent, player, chat, settings, max_new_tokens=99, max_length=1 << 30))
        assert trial.failure is None, trial.failure
        return trial, player.prompts[Phase.PLAY], player.prompts[Phase.REFLECT]

    return run


Play = Callable[..., tuple[Trial, list[str], list[str]]]


def stops(trial: Trial) -> list[Stop]:
    return [episode.stop for episode in trial.episodes]


class TestTheEndOfATrial:
    """`d4` wins, the other doors lose, and `x` is refused and costs a turn."""

    @pytest.mark.parametrize(
        ("actions", "config", "ends", "turns"),
        [
            ("d1 d4", {}, [LOST, WON], [1, 1]),
            ("d1 d4 x d4", {"stop_on_success": False}, [LOST, WON, WON], [1, 1, 2]),
            ("d4 d4 d1", {"stop_on_success": False}, [WON, WON, LOST], [1, 1, 1]),
            # A budget without a number of episodes: as many as fit, whatever the default of 3.
            (
                "d4 d1 x d4 d4 d1",
                {"stop_on_success": False, "turn_budget": 6},
                [WON, LOST, WON, WON, LOST],
                [1, 1, 2, 1, 1],
            ),
            ("d1 d1 d1 d1 d4", {"turn_budget": 6}, [LOST] * 4 + [WON], [1] * 5),
            # With both: whichever comes first.
            ("d1 d1", {"turn_budget": 6, "num_episodes": 2}, [LOST] * 2, [1, 1]),
            ("d4 x x x", {"turn_budget": 4, "num_episodes": 2, "stop_on_success": False}, [WON, MAX_TURNS], [1, 3]),
            # The budget cuts the third episode; one that ends with its last turn keeps its own end.
            ("d1 x d4 x", {"turn_budget": 4, "stop_on_success": False}, [LOST, WON, BUDGET], [1, 2, 1]),
            ("x x", {"turn_budget": 2}, [BUDGET], [2]),
            ("d1 x d4", {"turn_budget": 3, "stop_on_success": False}, [LOST, WON], [1, 2]),
            ("x x x x x", {"turn_budget": 5}, [MAX_TURNS, BUDGET], [3, 2]),
            ("x x x", {"turn_budget": 3}, [MAX_TURNS], [3]),
        ],
    )
    def test_it_is_the_success_the_number_of_episodes_or_the_budget(
        self, play: Play, actions: str, config: dict[str, Any], ends: list[Stop], turns: list[int]
    ) -> None:
        trial, _, _ = play(actions, **config)
        assert stops(trial) == ends
        assert [len(episode.turns) for episode in trial.episodes] == turns
        assert trial.wins == tuple(n for n, end in enumerate(ends, 1) if end is WON)
        assert Trial.from_json(trial.to_json()) == trial

    def test_a_cut_episode_earns_nothing_and_is_not_won(self, play: Play) -> None:
        trial, _, _ = play("d4 x", turn_budget=2, stop_on_success=False)
        assert [episode.reward for episode in trial.episodes] == [SUCCESS_REWARD, -0.5]
        assert [trial.won_by(k) for k in (1, 2)] == [True, True]
        assert not trial.episodes[1].won

    @pytest.mark.parametrize(
        ("config", "reflected"),
        [
            ({}, [True, False, True, False, False]),
            ({"reflect_on_success": True}, [True, True, True, True, False]),
            ({"memory": "history"}, [False] * 5),
        ],
    )
    def test_reflections_follow_lost_episodes_and_on_request_won_ones_but_never_the_last(
        self, play: Play, config: dict[str, Any], reflected: list[bool]
    ) -> None:
        trial, _, _ = play("d1 d4 d2 d4 x", stop_on_success=False, turn_budget=5, **config)
        assert stops(trial) == [LOST, WON, LOST, WON, BUDGET]
        assert [episode.reflection is not None for episode in trial.episodes] == reflected
        # If the budget is used up as an episode ends, there is nothing left to reflect for either.
        trial, _, _ = play("d1 d2", stop_on_success=False, turn_budget=2, **config)
        assert trial.episodes[-1].reflection is None

    def test_minesweepers_oracle_wins_every_episode_of_its_budget(self) -> None:
        from openrlhf_lamer.policies.scripted import OraclePolicy

        agent, _ = load_agent("openrlhf_lamer.agents.minesweeper")
        chat = TextChat()

        def trial(**config: Any) -> Trial:
            settings = LamerConfig.load({"max_turns": 36, **config})
            played = run_trial(
                Task("minesweeper", seed=0),
                agent,
                OraclePolicy(chat),
                chat,
                settings,
                max_new_tokens=99,
                max_length=1 << 30,
            )
            return asyncio.run(played)

        (once,) = trial().episodes
        length = len(once.turns)
        assert length > 1
        three = trial(stop_on_success=False)
        assert stops(three) == [WON] * 3
        assert three.episodes[2].turns[-1].observation == once.turns[-1].observation
        cut = trial(stop_on_success=False, turn_budget=3 * length - 1)
        assert stops(cut) == [WON, WON, BUDGET]
        assert three.scalar_return(0.5) == SUCCESS_REWARD * 1.75
        assert cut.scalar_return(0.5) == SUCCESS_REWARD * 1.5


class TestPrompts:
    def test_memory_says_which_attempts_were_won(self, play: Play) -> None:
        _, prompts, _ = play("d1 d4 d4", stop_on_success=False)
        assert "Attempt 1. It was lost.\nActions: d1\n" in prompts[2]
        assert "Attempt 2. It was won.\nActions: d4\n" in prompts[2]
        assert "Attempt 2. It was won." not in prompts[1]

    @pytest.mark.parametrize("context", ["turn", "episode", "trial"])
    @pytest.mark.parametrize("memory", ["history", "reflection", "both"])
    def test_a_trial_without_the_options_has_the_prompts_of_one_that_goes_on_until_it_wins(
        self, play: Play, context: str, memory: str
    ) -> None:
        """Where there are reflections: else a chat that goes on has to say how attempts ended."""
        stopped = play("d1 d2 d4", context=context, memory=memory)
        goes_on = play("d1 d2 d4", context=context, memory=memory, stop_on_success=False)
        assert (stopped[1:] == goes_on[1:]) == (context != "trial" or memory != "history")

    def test_a_chat_that_goes_on_says_how_an_attempt_ended_that_was_not_reflected_on(self, play: Play) -> None:
        won = "Attempt 2 is over. It was won. It ended in this state:\nPrize behind d4.\n\nAttempt 3 of 3."
        _, prompts, _ = play("d1 d4 d4", stop_on_success=False, context="trial")
        assert won in prompts[2]
        assert "Attempt 1 is over." not in prompts[2], "the reflection on it showed the end"
        _, prompts, _ = play("d1 d4 d4", stop_on_success=False, context="trial", memory="history")
        lost = "Attempt 1 is over. It was lost. It ended in this state:\nNothing behind d1.\n\nAttempt 2 of 3."
        assert lost in prompts[1]
        assert won in prompts[2]
        _, prompts, _ = play("d1 d4 d4", stop_on_success=False, context="trial", reflect_on_success=True)
        assert "is over." not in prompts[2]

    @pytest.mark.parametrize("context", ["turn", "trial"])
    def test_a_budget_is_told_of(self, play: Play, context: str) -> None:
        _, prompts, _ = play("d1 x d4", turn_budget=5, context=context)
        ends = [prompt.rpartition("together: ")[2].split(".")[0] for prompt in prompts]
        assert ends == ["5", "4", "3"]
        if context == "trial":
            assert "Attempt 2 of at most 5." in prompts[1]

    def test_turns_left_in_an_attempt_are_no_more_than_the_budget_has(self) -> None:
        agent, _ = load_agent("openrlhf_lamer.agents.minesweeper")
        player = Seen(chat := TextChat(), ["(9, 9)"] * 5)
        player.prompts = {phase: [] for phase in Phase}
        config = LamerConfig(turn_budget=5, max_turns=3)
        task = Task("minesweeper", seed=0)
        asyncio.run(run_trial(task, agent, player, chat, config, max_new_tokens=99, max_length=1 << 30))
        left = [prompt.rpartition(" turns left.")[0].split("\n")[-1] for prompt in player.prompts[Phase.PLAY]]
        assert left == ["3", "2", "1", "2", "1"]

    @pytest.mark.parametrize("continuing", [False, True])
    @pytest.mark.parametrize("game", GAMES)
    def test_a_reflection_on_a_won_attempt_says_so(self, game: str, continuing: bool) -> None:
        agent, _ = load_agent(f"openrlhf_lamer.agents.{game}")
        texts = {
            stop: agent.reflect_message(
                continuing=continuing,
                env={"size": 6, "mines": 3, "moves_per_turn": 3, "max_moves": 30, "doors": 4, "lamp": False},
                initial=Observation("the first state"),
                turns=[turn(0, 0, 0.0)],
                observation=Observation("the last state"),
                stop=stop,
                episode=0,
                num_episodes=3,
            )
            for stop in (WON, MAX_TURNS)
        }
        assert "This attempt has succeeded. It was won.\n" in texts[WON]
        for words in ("failed", "wrong", "spoiled", "in vain", "left undone", "not all that was asked"):
            assert words not in texts[WON]
        assert "This attempt has failed. It ran out of turns.\n" in texts[MAX_TURNS]

    def test_a_reflection_is_asked_for_on_what_was_played(self, play: Play) -> None:
        _, _, prompts = play("d4 d4 d4", stop_on_success=False, reflect_on_success=True)
        assert len(prompts) == 2
        assert all("This attempt has succeeded." in prompt and "Prize behind d4." in prompt for prompt in prompts)


def turn(episode: int, index: int, reward: float, phase: Phase = Phase.PLAY) -> Turn:
    return Turn(phase, episode, index, (1,), (2,), None, "", "a", True, reward, f"s{index}", "")


def made(*episodes: tuple[Stop, Sequence[float], bool], seed: int = 0) -> Trial:
    """A trial of episodes: how each ended, its rewards, and whether it was reflected on (without a penalty)."""
    return Trial(
        Task("doors", seed=seed),
        tuple(
            Episode(
                tuple(turn(n, t, reward) for t, reward in enumerate(rewards)),
                stop,
                "",
                turn(n, len(rewards), 0.0, Phase.REFLECT) if reflected else None,
            )
            for n, (stop, rewards, reflected) in enumerate(episodes)
        ),
    )


class TestReturns:
    """Won, won, lost: rewards 0 10 | 10 | -1 0, γ_step = ½, γ_traj = ½, and a reflection on the second episode.

    within an episode   g = 5 10 | 10 | -1 0
    paper     5 + ½·10 + ¼·(-1) = 9.75, 10 + 4.75 = 14.75 | 10 + ½·(-1) = 9.5, reflection -1 | -1 0
    chained   last turns as above; the first: 0 + ½·14.75 = 7.375
    """

    TRIAL = made((WON, [0, 10], False), (WON, [10], True), (LOST, [-1, 0], False))

    @pytest.mark.parametrize(
        ("form", "expected"),
        [("paper", [9.75, 14.75, 9.5, -1, -1, 0]), ("chained", [7.375, 14.75, 9.5, -1, -1, 0])],
    )
    def test_by_hand(self, form: CrossEpisode, expected: list[float]) -> None:
        config = CreditConfig(gamma_step=0.5, gamma_traj=0.5, cross_episode=form)
        assert with_returns(TurnTable.from_trials([self.TRIAL], [0]), config).returns.tolist() == expected

    @pytest.mark.parametrize("form", ["paper", "chained"])
    def test_undiscounted_the_first_turn_has_the_reward_of_all_wins(self, form: CrossEpisode) -> None:
        config = CreditConfig(gamma_step=1, gamma_traj=1, cross_episode=form)
        assert with_returns(TurnTable.from_trials([self.TRIAL], [0]), config).returns[0] == 19
        assert self.TRIAL.scalar_return(1) == 19
        assert self.TRIAL.scalar_return(0.5) == 10 + 5 - 0.25
        assert (self.TRIAL.won, self.TRIAL.wins) == (True, (1, 2))

    @pytest.mark.parametrize("memory", ["history", "reflection", "both"])
    def test_memories_of_won_and_lost_attempts_have_codes_of_their_own(self, memory: Memory) -> None:
        """The same turns, rewards and remarks: only the end differs, and prompts show it."""
        trials = [made((stop, [0], False), (LOST, [0], False)) for stop in (WON, LOST, WON)]
        table = TurnTable.from_trials(trials, [0] * 3, memory)
        assert table.memory is not None
        (start, won), (second, lost), last = table.memory.reshape(3, 2).tolist()
        assert second == start
        assert last == [start, won]
        assert len({start, won, lost}) == 3
        assert len({recall(trial.episodes[:1], memory) for trial in trials}) == 2


class TestMetrics:
    """Trials of at most 3 episodes: won won lost, lost won won, lost lost lost, won lost won."""

    TRIALS = tuple(
        made(*((WON if end == "w" else LOST, [10.0 * (end == "w")], False) for end in ends))
        for ends in ("wwl", "lww", "lll", "wlw")
    )

    def test_success_at_k_means_what_it_did_and_single_attempts_are_counted_beside_it(self) -> None:
        found = metrics.summarize(self.TRIALS, 3, 0.5, stop_on_success=False)
        assert [found[f"success@{k}"] for k in (1, 2, 3)] == [0.5, 0.75, 0.75]
        assert [found[f"won@{k}"] for k in (1, 2, 3)] == [0.5, 0.5, 0.5]
        assert (found["wins"], found["episodes"], found["overlong"]) == (1.5, 3, 0)
        assert found["return"] == (15 + 7.5 + 0 + 12.5) / 4
        assert not {key for key in metrics.summarize(self.TRIALS, 3, 0.5) if key.startswith(("won", "wins"))}

    def test_a_budget_counts_as_many_attempts_as_were_played_and_its_end_is_not_overlong(self) -> None:
        trials = (
            made((WON, [10], False), (WON, [10], False), (BUDGET, [0], False)),
            made((LOST, [0, 0], False), (BUDGET, [0], False)),
            made((LOST, [0], False), (LOST, [0, 0], False)),
            made((WON, [10], False)),  # the prompt of the second episode did not fit
        )
        found = metrics.summarize(trials, 24, 0.5, stop_on_success=False, turn_budget=3)
        assert {key for key in found if "@" in key} == {f"{name}@{k}" for name in ("success", "won") for k in (1, 2, 3)}
        assert [found[f"won@{k}"] for k in (1, 2, 3)] == [0.5, 0.25, 0]
        assert (found["wins"], found["episodes"], found["overlong"]) == (0.75, 2, 0.25)
        stopped = metrics.summarize(trials[3:], 24, 0.5, turn_budget=3)
        assert (stopped["overlong"], stopped["success@1"]) == (0, 1)
        assert "success@2" not in stopped


class TestConfiguration:
    def test_the_number_of_episodes_follows_from_a_budget_and_survives_the_way_to_the_workers(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for flags, episodes in (
            ({}, 3),
            ({"turn_budget": "24"}, 24),
            ({"turn_budget": "24", "num_episodes": "3"}, 3),
            ({"turn_budget": "2"}, 2),
        ):
            config = LamerConfig.load(flags)
            assert config.num_episodes == config.evaluated().num_episodes == episodes
            for sent in (config, config.model_copy(update={"context": "trial"})):
                with monkeypatch.context() as patch:
                    patch.setenv(ENV_VAR, sent.to_env())
                    assert LamerConfig.load() == sent
        assert LamerConfig(turn_budget=24, eval_episodes=5).evaluated().num_episodes == 5

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            ({"stop_on_success": "perhaps"}, "--lamer.stop_on_success 'perhaps'"),
            ({"turn_budget": "0"}, "--lamer.turn_budget '0'"),
            ({"turn_budget": "many"}, "--lamer.turn_budget 'many'"),
        ],
    )
    def test_a_bad_value_names_its_flag_and_no_other(self, flags: dict[str, str], words: str) -> None:
        with pytest.raises(ConfigError) as error:
            LamerConfig.load(flags)
        assert str(error.value).startswith(words)
        assert "--lamer.num_episodes '" not in str(error.value)

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            ({"stop_on_success": False, "num_episodes": 1}, "give more (--lamer.num_episodes)"),
            ({"reflect_on_success": True}, "add --lamer.stop_on_success off"),
            (
                {"reflect_on_success": True, "stop_on_success": False, "memory": "history"},
                "--lamer.memory history has no reflections; give --lamer.memory reflection or both",
            ),
            ({"turn_budget": 25, "num_episodes": 3}, "3 episodes of 8 turns never use it up; give at most 24"),
        ],
    )
    def test_options_that_do_not_go_together_are_refused(self, flags: dict[str, Any], words: str) -> None:
        assert words in (LamerConfig(**flags).refusal(8) or "")

    @pytest.mark.parametrize(
        "flags",
        [
            {},
            {"num_episodes": 1},
            {"stop_on_success": False, "reflect_on_success": True},
            {"turn_budget": 24, "num_episodes": 3},
            {"turn_budget": 24},
            {"turn_budget": 1},
        ],
    )
    def test_others_are_not(self, flags: dict[str, Any]) -> None:
        assert LamerConfig(**flags).refusal(8) is None


def test_a_record_of_before_is_read_as_it_was() -> None:
    """The lines of files that an earlier version wrote have the same fields."""
    old = json.loads(made((LOST, [0], True), (WON, [10], False)).to_json())
    assert set(old) == {
        *("schema", "task", "episodes", "failure", "sample", "seed", "retries"),
        *("environment_seconds", "generation_seconds"),
    }
    assert old["schema"] == 1
    assert Trial.from_json(json.dumps(old)).wins == (2,)
