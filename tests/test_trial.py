"""The trial loop, played by scripts in the place of a model."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest

from openrlhf_lamer import envs
from openrlhf_lamer.advantage import TurnTable
from openrlhf_lamer.agents import Agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.envs.base import SUCCESS_REWARD
from openrlhf_lamer.metrics import diversity
from openrlhf_lamer.policies import Generation, Request
from openrlhf_lamer.policies.scripted import OraclePolicy, RandomPolicy
from openrlhf_lamer.records import Episode, FailureKind, Phase, Stop, Trial

Play = Callable[..., Trial]


class Replies:
    """A policy that repeats the same sequence of replies."""

    def __init__(self, chat: Chat, texts: Iterable[str], ended: bool = True) -> None:
        self._chat, self._texts, self._ended = chat, itertools.cycle(texts), ended
        self.requests: list[Request] = []

    async def generate(self, request: Request) -> Generation:
        self.requests.append(request)
        ids = self._chat.encode(next(self._texts)) + (self._chat.end_of_reply if self._ended else ())
        return Generation(ids, tuple(-0.5 for _ in ids), truncated=not self._ended)


def stops(trial: Trial) -> list[Stop]:
    return [episode.stop for episode in trial.episodes]


def mines_of(seed: int) -> list[str]:
    """Cells with a mine: what the oracle never plays while a closed cell is left."""
    env = envs.make("minesweeper")
    env.reset(envs.Task("minesweeper", seed=seed))
    while (action := env.oracle()) is not None and not env.step(action).terminated:
        pass
    rows = env.anchor().split("|")[1]
    return [f"({i // 6 + 1}, {i % 6 + 1})" for i, cell in enumerate(rows) if cell == "?"]


def test_the_oracle_wins_at_the_first_attempt_and_the_trial_stops_there(play: Play, chat: Chat) -> None:
    trial = play(OraclePolicy(chat), max_turns=36)
    assert trial.failure is None
    assert stops(trial) == [Stop.WON]
    assert trial.won_by(1)
    assert trial.episodes[0].reflection is None
    assert trial.turns[-1].reward == SUCCESS_REWARD
    assert sum(turn.reward for turn in trial.turns[:-1]) == 0


def test_a_lost_trial_has_all_episodes_and_a_reflection_between_each_two(play: Play, chat: Chat) -> None:
    mine = mines_of(0)[0]
    trial = play(Replies(chat, [f"<action>{mine}</action>", "<remark>Beware.</remark>"]), num_episodes=3)
    assert stops(trial) == [Stop.LOST] * 3
    assert [episode.remark for episode in trial.episodes] == ["Beware.", "Beware.", None]
    assert [turn.phase for turn in trial.turns] == [Phase.PLAY, Phase.REFLECT, Phase.PLAY, Phase.REFLECT, Phase.PLAY]
    assert "*" in trial.episodes[0].final_observation


def test_every_episode_begins_from_the_same_state(play: Play, chat: Chat) -> None:
    trial = play(RandomPolicy(chat, 1), num_episodes=3, seed=5)
    assert len({episode.turns[0].anchor for episode in trial.episodes}) == 1
    assert len({episode.turns[0].observation for episode in trial.episodes}) == 1


def test_one_episode_is_ordinary_rl(play: Play, chat: Chat) -> None:
    trial = play(RandomPolicy(chat, 0), num_episodes=1, seed=2)
    assert len(trial.episodes) == 1
    assert {turn.phase for turn in trial.turns} == {Phase.PLAY}


@pytest.mark.parametrize("memory", ["history", "reflection", "both"])
def test_memory_shows_what_it_says(play: Play, chat: Chat, tokenizer: Any, memory: str) -> None:
    mine = mines_of(0)[0]
    replies = Replies(
        chat, [f"<action>{mine}</action>"] + (["<remark>Beware.</remark>"] if memory != "history" else [])
    )
    play(replies, num_episodes=2, memory=memory)
    prompt = tokenizer.decode(replies.requests[-1].prompt_ids)
    assert ("Beware." in prompt) == (memory != "history")
    assert (f"Actions: {mine}" in prompt) == (memory != "reflection")


def test_one_action_in_two_spellings_is_one_way_to_play(play: Play, chat: Chat) -> None:
    """For diversity, for HGPO's histories and memories, and in the prompts."""
    mine = mines_of(0)[0]
    spellings = (mine, mine.replace(" ", ""), mine.strip("()"))
    trials = [play(Replies(chat, [f"<action>{each}</action>", "<remark>No.</remark>"])) for each in spellings]
    assert [trial.turns[0].action for trial in trials] == list(spellings)
    assert diversity(trials, [0] * 3, 3) == {"diversity@1": 0, "diversity@2": 0, "diversity@3": 0}
    assert {turn.did for trial in trials for turn in trial.turns if turn.phase is Phase.PLAY} == {mine}
    table = TurnTable.from_trials(trials, [0] * 3)
    assert table.action is not None
    assert table.memory is not None
    for column in (table.action, table.memory):
        assert len(set(map(tuple, column.reshape(3, 5).tolist()))) == 1
    assert len({tuple(turn.prompt_ids for turn in trial.turns) for trial in trials}) == 1
    old = json.loads(trials[1].to_json())
    for episode in old["episodes"]:
        for turn in (*episode["turns"], episode["reflection"] or {}):
            turn.pop("played", None)
    assert [turn.did for turn in Trial.from_json(json.dumps(old)).episodes[0].turns] == [spellings[1]]


def test_what_the_environment_says_was_done_is_cleaned(play: Play, chat: Chat, broken: Agent) -> None:
    Broken.left = 0
    trial = play(Replies(chat, ["<action>go</action>"]), agent=broken)
    assert trial.turns[0].played == chat.clean("<action>go</action>") != "<action>go</action>"


@pytest.mark.parametrize("reply", ["no tag", "<action>(1, 1)", "<action>(1, 1)</action><action>(1, 2)</action>"])
def test_a_reply_without_one_action_costs_the_penalty_and_changes_nothing(play: Play, chat: Chat, reply: str) -> None:
    trial = play(Replies(chat, [reply]), num_episodes=1, max_turns=3)
    (episode,) = trial.episodes
    assert episode.stop is Stop.MAX_TURNS
    assert [turn.reward for turn in episode.turns] == [-0.5] * 3
    assert not any(turn.valid for turn in episode.turns)
    assert len({turn.anchor for turn in episode.turns}) == 1


def test_a_refused_action_costs_the_penalty_unless_the_environment_charges_itself(play: Play, chat: Chat) -> None:
    sparse = play(Replies(chat, ["<action>(9, 9)</action>"]), num_episodes=1, max_turns=1)
    shaped = play(Replies(chat, ["<action>(9, 9)</action>"]), num_episodes=1, max_turns=1, reward="shaped")
    assert sparse.turns[0].reward == -0.5
    assert shaped.turns[0].reward == -1.0


def test_a_reflection_without_a_remark_costs_the_penalty_on_itself(play: Play, chat: Chat) -> None:
    mine = mines_of(0)[0]
    trial = play(Replies(chat, [f"<action>{mine}</action>", "I forgot the tag."]), num_episodes=2)
    reflection = trial.episodes[0].reflection
    assert reflection is not None
    assert (reflection.valid, reflection.reward, reflection.action) == (False, -0.5, None)
    assert trial.episodes[0].reward == 0.0


def test_a_long_remark_is_kept_in_part(play: Play, chat: Chat) -> None:
    mine = mines_of(0)[0]
    replies = Replies(chat, [f"<action>{mine}</action>", f"<remark>{'x' * 5000}</remark>"])
    assert len(play(replies, num_episodes=2, max_length=30000).episodes[0].remark or "") == 2000


@pytest.mark.parametrize("tag", ["action", "moves"], ids=["in the tag", "outside"])
def test_long_junk_costs_no_more_than_short_junk(play: Play, chat: Chat, tag: str) -> None:
    """Every reply has more than 900 tokens; kept whole, those of one attempt would not fit into a prompt."""
    junk = "(9, 9) " + "hm, let me see " * 80
    long, short = (f"<{tag}>{text}</{tag}>" for text in (junk, "(9, 9)"))
    trials = [
        play(Replies(chat, [*[reply] * 7, "<remark>Hm.</remark>"]), max_turns=7, max_new_tokens=1500, max_length=8000)
        for reply in (long, short)
    ]
    assert 900 < len(trials[0].turns[0].sampled_ids) <= 1500
    assert stops(trials[0]) == stops(trials[1]) == [Stop.MAX_TURNS] * 3
    assert [turn.reward for turn in trials[0].turns] == [turn.reward for turn in trials[1].turns]
    assert trials[0].scalar_return(1.0) == 3 * 7 * -0.5
    kept = [turn.action or "" for turn in trials[0].turns if turn.phase is Phase.PLAY]
    assert {(len(text), text[-1:]) for text in kept} == ({(200, "…")} if tag == "action" else {(0, "")})


def test_the_environment_is_given_a_long_action_whole(play: Play, chat: Chat) -> None:
    mine = mines_of(0)[0]
    trial = play(
        Replies(chat, [f"<action>{' ' * 50}{mine.replace(', ', f',{chr(32) * 300}')}</action>"]), num_episodes=1
    )
    (turn,) = trial.turns
    assert (turn.valid, turn.did, trial.episodes[0].stop) == (True, mine, Stop.LOST)
    assert turn.action == f"{mine[:3]}{' ' * 196}…"


def test_what_does_not_fit_ends_the_episode_and_no_message_is_cut(play: Play, chat: Chat) -> None:
    replies = Replies(chat, ["<action>(9, 9)</action>"])
    free = play(replies, num_episodes=1, max_turns=7)
    room = len(free.turns[2].prompt_ids) + 64
    trial = play(Replies(chat, ["<action>(9, 9)</action>"]), num_episodes=1, max_turns=7, max_length=room)
    assert trial.episodes[0].stop is Stop.OVERLONG
    assert [turn.prompt_ids for turn in trial.turns] == [turn.prompt_ids for turn in free.turns[:3]]


def test_a_first_prompt_that_does_not_fit_is_a_failure(play: Play, chat: Chat) -> None:
    trial = play(Replies(chat, ["x"]), max_length=100)
    assert trial.failure is not None
    assert trial.failure.kind is FailureKind.OVERLONG
    assert trial.episodes == ()


@pytest.mark.parametrize("context", ["turn", "episode", "trial"])
def test_sampled_ids_stand_in_later_prompts_as_sampled(play: Play, chat: Chat, context: str) -> None:
    trial = play(RandomPolicy(chat, 3), num_episodes=2, context=context, seed=4)
    turns = trial.turns
    for earlier, later in itertools.pairwise(turns):
        whole = earlier.ids
        continues = later.prompt_ids[: len(whole)] == whole
        begins_episode = later.episode != earlier.episode
        assert continues == (context == "trial" or (context == "episode" and not begins_episode))


class Broken(envs.TextEnv):
    """An environment that breaks a given number of times, in a given way."""

    name = "broken"
    left = 0
    error: Exception = RuntimeError("the game crashed")

    def reset(self, task: envs.Task) -> envs.Observation:
        return envs.Observation("a state")

    def step(self, action: str) -> envs.Step:
        if type(self).left:
            type(self).left -= 1
            raise self.error
        return envs.Step(envs.Observation("over"), 10.0, True, False, True, True, action=f"<action>{action}</action>")

    def anchor(self) -> str:
        return ""

    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        return 0.0, 10.0


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, minesweeper: Agent) -> Agent:
    monkeypatch.setattr(Agent, "env_factory", lambda self, task, reward, options: partial(Broken))
    monkeypatch.setattr(Agent, "play_message", lambda self, **given: "play")
    return Agent(env="broken", max_turns=2)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("the game crashed"), FailureKind.ENVIRONMENT),
        (TimeoutError("no answer"), FailureKind.ENVIRONMENT_TIMEOUT),
    ],
)
@pytest.mark.parametrize("times", [1, 2])
def test_a_broken_environment_is_tried_again_and_then_masked(
    play: Play, chat: Chat, broken: Agent, error: Exception, kind: FailureKind, times: int
) -> None:
    Broken.left, Broken.error = times, error
    trial = play(Replies(chat, ["<action>go</action>"]), agent=broken, retries=1)
    assert trial.retries == 1
    if times == 1:
        assert trial.failure is None
        assert trial.won
    else:
        assert trial.failure is not None
        assert trial.failure.kind is kind
        assert trial.failure.stage == "step"
        assert trial.episodes == ()


def test_an_engine_that_raises_or_hangs_is_a_failure(play: Play, chat: Chat) -> None:
    class Raises:
        async def generate(self, request: Request) -> Generation:
            raise RuntimeError("out of memory")

    class Hangs:
        async def generate(self, request: Request) -> Generation:
            await asyncio.sleep(60)
            raise AssertionError("not reached")

    raised, hung = play(Raises(), retries=0), play(Hangs(), retries=0, timeout=0.1)
    assert raised.failure is not None
    assert raised.failure.kind is FailureKind.ENGINE
    assert "out of memory" in raised.failure.message
    assert hung.failure is not None
    assert hung.failure.kind is FailureKind.ENGINE_TIMEOUT


def test_the_seed_of_a_trial_gives_each_request_its_own(play: Play, chat: Chat) -> None:
    def seeds(seed: int | None) -> list[int | None]:
        policy = Replies(chat, ["nothing"])
        trial = play(policy, max_turns=3, sample=4, sampling_seed=seed)
        assert (trial.sample, trial.seed) == (4, seed)
        return [request.seed for request in policy.requests]

    assert seeds(7) == seeds(7)
    assert len({*seeds(7), *seeds(8)}) == 2 * len(seeds(7))
    assert set(seeds(None)) == {None}


def test_a_trial_survives_json(play: Play, chat: Chat) -> None:
    trial = play(RandomPolicy(chat, 0), seed=3, sample=1, sampling_seed=5)
    assert Trial.from_json(trial.to_json()) == trial
    assert isinstance(Trial.from_json(trial.to_json()).episodes[0], Episode)


def test_a_failed_trial_survives_json(play: Play, chat: Chat) -> None:
    trial = play(Replies(chat, ["x"]), max_length=100)
    assert Trial.from_json(trial.to_json()) == trial
