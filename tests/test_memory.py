"""Attempts in prompts: what was done, what came of it, how it ended; on trials as the loop plays them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from openrlhf_lamer.agents import Agent, AgentError, load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.envs.base import EpisodeOverError, Observation, Step, TextEnv
from openrlhf_lamer.envs.seeding import generator
from openrlhf_lamer.memory import with_outcomes
from openrlhf_lamer.policies.scripted import ScriptedPolicy
from openrlhf_lamer.records import Phase, Stop, Task, Trial, Turn

Play = Callable[..., Trial]

BLIND = ("alfworld", "webshop")
"""Games whose states do not show what was found before."""
ALL = ("alfworld", "minesweeper", "sokoban", "webshop")


class Wanderer(ScriptedPolicy):
    """Plays at random from a seed of its own; every `spoil`-th reply has no action."""

    def __init__(self, chat: Chat, seed: int, spoil: int = 0) -> None:
        super().__init__(chat)
        self._rng, self._spoil, self._replies = generator("wanderer", seed), spoil, 0

    def act(self, env: TextEnv) -> str:
        self._replies += 1
        if self._spoil and not self._replies % self._spoil:
            return "I can't decide."
        return f"<action>{env.random_action(self._rng)}</action>"

    def reflect(self, env: TextEnv) -> str:
        return "<remark>It was no good.</remark>"


def shown_of(text: str, initial: str, env: str, limit: int) -> str:
    """An observation as a prompt shows it, worked out another way: in a shop, all but the request on top."""
    if env == "webshop":
        request = initial.split(" [SEP] ")[2]
        for constant in ("WebShop [SEP] ", f"Instruction: [SEP] {request} [SEP] "):
            text = text.replace(constant, "")
        text = text.removesuffix("Search") if text == "Search" else text
    line = " ".join(text.split()) or "(as at the start)"
    return line if len(line) <= limit else line[: limit - 1] + "…"


def expected(turns: Sequence[Turn], env: str, limit: int = 300) -> list[str]:
    """The lines of an attempt, the last one without its outcome."""
    lines = []
    for number, turn in enumerate(turns, 1):
        did = turn.did if turn.did is not None else "(no action could be read)"
        line = f"{number}. {did}" + ("" if turn.valid else " [invalid, nothing changed]")
        if number < len(turns):
            after = turns[number].observation
            if after != turn.observation:
                line += f" -> {shown_of(after, turns[0].observation, env, limit)}"
            elif turn.valid:
                line += " -> (nothing new)"
        lines.append(line)
    return lines


@pytest.fixture
def lost(play: Play, chat: Chat, need: Callable[[str], None]) -> Callable[..., Iterator[Trial]]:
    """Trials of three attempts that a random player lost."""

    def played(env: str, number: int, agent: Agent | None = None, **more: Any) -> Iterator[Trial]:
        need(env)
        agent = agent or load_agent(f"openrlhf_lamer.agents.{env}")[0]
        for seed in range(number):
            policy = Wanderer(chat, seed, spoil=5)
            trial = play(policy, agent=agent, seed=seed, max_length=60_000, num_episodes=3, **more)
            assert trial.failure is None
            if len(trial.episodes) == 3:
                yield trial

    return played


@pytest.mark.parametrize("context", ["turn", "episode"])
@pytest.mark.parametrize("env", BLIND)
def test_memory_and_reflection_hold_what_every_turn_found(
    lost: Callable[..., Iterator[Trial]], tokenizer: Any, env: str, context: str
) -> None:
    observations = cut = 0
    for trial in lost(env, 4, context=context):
        for n, episode in enumerate(trial.episodes):
            prompt = tokenizer.decode(episode.turns[0].prompt_ids)
            for number, earlier in enumerate(trial.episodes[:n], 1):
                told = prompt.split(f"Attempt {number}. ")[1].split("Your remark on it")[0]
                lines = expected(earlier.turns, env)
                assert told.split("\n")[1 : len(lines) + 1] == lines
                assert f"It ended in this state:\n{earlier.final_observation}\n" in told
                observations += sum(" -> " in line for line in lines)
                cut += sum(line.endswith("…") for line in lines)
            if episode.reflection is not None and context == "turn":
                text = tokenizer.decode(episode.reflection.prompt_ids)
                assert "You " in text
                assert "\n".join(expected(episode.turns, env)) + "\n" in text
    assert observations > 60
    assert (cut > 0) == (env == "webshop")
    print(f"{env}, {context}: {observations} observations of earlier turns, {cut} of them cut")


@pytest.mark.parametrize("env", ["minesweeper", "sokoban"])
def test_games_whose_last_state_tells_all_stay_short(
    lost: Callable[..., Iterator[Trial]], tokenizer: Any, env: str
) -> None:
    for trial in lost(env, 3):
        first, second = trial.episodes[:2]
        prompt = tokenizer.decode(second.turns[0].prompt_ids)
        assert " -> " not in prompt
        assert f"Actions: {expected(first.turns[:1], env)[0][3:]}" in prompt


def test_the_agent_says_of_how_many_turns_and_how_much(lost: Callable[..., Iterator[Trial]], tokenizer: Any) -> None:
    shipped = load_agent("openrlhf_lamer.agents.alfworld")[0]
    for number, characters in ((0, 300), (1, 300), (4, 40), (99, 20)):
        agent = replace(shipped, memory_observations=number, memory_characters=characters)
        (trial,) = lost("alfworld", 1, agent)
        turns = trial.episodes[0].turns
        prompt = tokenizer.decode(trial.episodes[1].turns[0].prompt_ids)
        lines = [line for line in prompt.split("\n") if " -> " in line]
        all_lines = expected(turns, "alfworld", characters)
        assert lines == [line for line in all_lines[max(0, len(turns) - number) :] if " -> " in line]
        if number > 1:
            assert any(line.endswith("…") for line in lines)
            assert max(len(line.partition(" -> ")[2]) for line in lines) == characters


@pytest.mark.parametrize(
    "wrong",
    [{"memory_observations": -1}, {"memory_characters": 0}, {"memory_separator": ""}, {"memory_separator": "|"}],
    ids=str,
)
def test_an_agent_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(AgentError, match=f"agent 'mine': .*{next(iter(wrong))}"):
        Agent("mine", max_turns=1, **wrong)


def turn(index: int, action: str, observation: str, valid: bool = True) -> Turn:
    return Turn(Phase.PLAY, 0, index, (1,), (2,), None, "", action, valid, 0.0, "", observation)


def test_what_came_of_a_turn_by_hand() -> None:
    seen = ["home|Buy it|go", "Buy it|list|a\n lamp", "Buy it|list|a\n lamp", "Buy it|list|a\n lamp", "home|Buy it|go"]
    turns = [turn(i, f"a{i}", text, valid=i != 1) for i, text in enumerate([*seen, "Buy it|the last of all"])]
    outcomes = [outcome for _, outcome in with_outcomes(turns, 99, 12, "|")]
    assert outcomes == ["list|a lamp", "", "(nothing new)", "(as at the start)"[:17], "the last of…", ""]
    assert [outcome for _, outcome in with_outcomes(turns, 3, 12, "|")] == ["", "", "", *outcomes[3:]]
    assert [outcome for _, outcome in with_outcomes(turns, 0, 12, "|")] == [""] * 6
    assert [outcome for _, outcome in with_outcomes(turns, 99, 99)][:2] == ["Buy it|list|a lamp", ""]
    assert with_outcomes([], 9, 9) == []


class Doors(TextEnv):
    """A game of one's own, in which a state shows what is behind the door just opened and nothing else."""

    name = "doors"

    def reset(self, task: Task) -> Observation:
        self._over = False
        return Observation("You stand before\nthree doors.", ("a", "b", "c"))

    def step(self, action: str) -> Step:
        if self._over:
            raise EpisodeOverError("doors")
        valid = action in ("a", "b", "c")
        self._over = action == "c"
        text = f"Behind door {action}\nthere is nothing." if valid else "Nothing happens."
        return Step(Observation(text, ("a", "b", "c")), 0.0, self._over, False, False, valid)

    def anchor(self) -> str:
        return "x"

    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        return 0.0, 0.0

    def random_action(self, rng: Any) -> str:
        return "a"


class Says(ScriptedPolicy):
    """Gives its replies in turn, each attempt from the first on."""

    def __init__(self, chat: Chat, *replies: str) -> None:
        super().__init__(chat)
        self._replies, self._next = replies, 0

    def act(self, env: TextEnv) -> str:
        self._next += 1
        return self._replies[(self._next - 1) % len(self._replies)]

    def reflect(self, env: TextEnv) -> str:
        return "<remark>None.</remark>"


def test_a_game_of_ones_own_has_it_by_one_argument(
    play: Play, chat: Chat, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Agent, "env_factory", lambda self, task, reward, options: partial(Doors))
    replies = [f"<action>{door}</action>" for door in ("a", "z", "b", "c")]
    lines = "1. a -> Behind door a there is nothing.\n2. z [invalid, nothing changed] -> Nothing happens.\n"
    lines += "3. b -> Behind door b there is nothing.\n4. c\n"
    for number in (0, 9):
        agent = Agent("doors", max_turns=4, rules="Open doors.", memory_observations=number)
        trial = play(Says(chat, *replies), agent=agent, num_episodes=2)
        assert trial.failure is None
        reflection = trial.episodes[0].reflection
        assert reflection is not None
        for prompt in (reflection.prompt_ids, trial.episodes[1].turns[0].prompt_ids):
            assert (lines in tokenizer.decode(prompt)) == (number == 9)


ENDINGS = {
    Stop.LOST: "This attempt has failed. It was lost.",
    Stop.CAPPED: "This attempt has failed. It ran out of steps.",
    Stop.MAX_TURNS: "This attempt has failed. It ran out of turns.",
    Stop.OVERLONG: "This attempt has failed. It ran out of room.",
}


@pytest.mark.parametrize("continuing", [False, True])
@pytest.mark.parametrize("env", [*ALL, "any"])
def test_every_reflection_says_how_the_attempt_ended(env: str, continuing: bool) -> None:
    agent = load_agent(f"openrlhf_lamer.agents.{env}")[0] if env != "any" else Agent(env, max_turns=2, rules="Play.")
    for stop, words in ENDINGS.items():
        text = agent.reflect_message(
            continuing=continuing,
            env={"size": 6, "mines": 3, "moves_per_turn": 3, "max_moves": 30},
            initial=Observation("the first state"),
            turns=[turn(0, "up", "the first state")],
            observation=Observation("the last state"),
            stop=stop,
            episode=0,
            num_episodes=2,
        )
        assert text.count(words) == 1
        assert [words for words in ENDINGS.values() if words in text] == [words]
        assert text.index(words) < text.index("the last state")


def test_sokoban_tells_the_moves_that_were_played_and_why_it_ended(
    play: Play, chat: Chat, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second move pushes the box against a wall without a target: the third is never played."""
    rows = ("#####", "#P__#", "#_X_#", "#O__#", "#####")
    board = "\n".join(f"{row}: {' '.join(cells)}" for row, cells in enumerate(rows))
    agent = load_agent("openrlhf_lamer.agents.sokoban")[0]
    from openrlhf_lamer.envs.sokoban.env import Sokoban

    reset = Sokoban.reset
    monkeypatch.setattr(Sokoban, "reset", lambda env, task: reset(env, Task("sokoban", spec={"board": board})))
    for context in ("turn", "trial"):
        policy = Says(chat, "<action>none,none</action>", "<action>down, right, up</action>")
        trial = play(policy, agent=agent, num_episodes=2, context=context)
        first = trial.episodes[0]
        assert (first.stop, [each.did for each in first.turns]) == (Stop.LOST, ["none, none", "down, right"])
        assert first.reflection is not None
        reflection = tokenizer.decode(first.reflection.prompt_ids)
        assert "This attempt has failed. It was lost. The last move left no solution." in reflection
        assert "ends as lost with the first move after which no solution is left" in reflection
        if context == "turn":
            assert "You played:\n1. none, none\n2. down, right\n" in reflection
            assert "Actions: none, none; down, right\n" in tokenizer.decode(trial.episodes[1].turns[0].prompt_ids)
            assert "right, up" not in reflection


def test_a_template_of_an_agents_own_folder_extends_the_base_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "rules.j2").write_text("Walk.")
    (tmp_path / "play.j2").write_text('{% extends "base/play.j2" %}\n{% block state %}\nYou see:\n{% endblock %}\n')
    agent = Agent("sokoban", max_turns=2, prompts=tmp_path)
    start = Observation("a hall")
    seen = {"initial": start, "observation": start, "env": {}, "turns": (), "episode": 0, "num_episodes": 3}
    message = agent.play_message(continuing=False, memory=(), turns_left=2, **seen)
    plain = Agent("sokoban", max_turns=2, rules="Walk.", prompts=tmp_path / "none")
    assert message == plain.play_message(continuing=False, memory=(), turns_left=2, **seen).replace(
        "The state now:", "You see:"
    )
    assert message.startswith("Walk.\n\nEach turn, think first")
    assert "You see:\na hall\n" in message
