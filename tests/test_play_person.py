"""A person in `openrlhf-lamer play`: rules, refusals, memory, commands, and a screen of 80 x 24."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from openrlhf_lamer.agents import Agent, load_agent
from openrlhf_lamer.cli import screen
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.envs import Observation, Step, Task, TextEnv, make, registry
from openrlhf_lamer.envs.doors import Doors
from openrlhf_lamer.envs.minesweeper import MineSweeper
from openrlhf_lamer.policies.base import Generation, Request
from openrlhf_lamer.records import Phase, Trial
from openrlhf_lamer.text_chat import TextChat, messages
from openrlhf_lamer.trial import run_trial

MINES = "minesweeper:seed=3"


def play(*arguments: str, typed: str = "", lines: str = "24") -> Any:
    result = CliRunner().invoke(app, ["play", *arguments], input=typed, env={"COLUMNS": "80", "LINES": lines})
    assert result.exit_code == 0, result.output
    return result


def words(text: str) -> str:
    return " ".join(text.split())


def agents_trial(agent: Agent, seed: int, replies: list[str], **config: Any) -> Trial:
    """The trial of an agent that gives these replies."""
    chat = TextChat()

    class Replying:
        async def generate(self, request: Request) -> Generation:
            tag = "action" if request.phase is Phase.PLAY else "remark"
            return Generation(chat.encode(f"<{tag}>{replies.pop(0)}</{tag}>"), None, truncated=False)

    task = Task(agent.env, seed=seed)
    played = run_trial(task, agent, Replying(), chat, LamerConfig(**config), max_new_tokens=1 << 30, max_length=1 << 31)
    return asyncio.run(played)


def prompts(trial: Trial) -> list[str]:
    return [messages(turn.prompt_ids)[-1]["content"] for turn in trial.turns]


class TestFirstScreen:
    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("sokoban", "Walking into a box pushes it"),
            ("sokoban", 'give one to 3 moves, separated by commas, as "up, left".'),
            ("sokoban", "Signs: # wall, _ floor, O target, X box"),
            ("minesweeper", "hides 3 mines"),
            ("minesweeper", "Signs: ? unopened"),
            ("doors", "A prize is behind one of 8 doors"),
            ("darkroom", "You win on the goal"),
            ("webshop", "search[words] looks for products"),
            ("webshop", "Task: "),
            ("alfworld", "You can carry one thing at a time"),
            ("alfworld", "Task: put a"),
        ],
    )
    def test_it_shows_the_rules_and_a_legend_or_the_task(
        self, name: str, told: str, need: Callable[[str], None]
    ) -> None:
        need(name)
        shown = words(play(name).output)
        assert told in shown
        assert "<action>" not in shown
        assert "You have 3 attempts at the same task" in shown
        assert "/help, /all, /start, /memory, /prompt, /anchor, /quit" in shown

    def test_an_environment_without_an_agent_is_described_by_its_class(self) -> None:
        class Plain(Doors):
            """Doors with {{ braces }}."""

            name = "plain"

        with registry.scoped(plain=Plain):
            assert "Doors with {{ braces }}." in play("plain", typed="d1\n").output


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "options", "action", "why"),
        [
            (
                "sokoban",
                {},
                "up, jump",
                "'jump' is no move: there are up, down, left, right, none, separated by commas",
            ),
            ("sokoban", {}, "up, up, up, up", "4 moves are too many: give 1 to 3"),
            ("minesweeper", {"size": 9, "mines": 30}, "a mine", "name one cell by its row and column, such as (2, 3)"),
            ("minesweeper", {"size": 9, "mines": 30}, "(0, 1)", "there is no such cell: rows and columns are 1 to 9"),
            ("doors", {}, "d9", "there is no such door: open d1 to d8"),
            ("doors", {"doors": 3, "lamp": True}, "x", "there is no such door: open d1 to d3, or burn the lamp"),
            ("darkroom", {}, "jump", "that is no step: from here you can go up, down, left, right"),
            ("webshop", {}, "buy", "write search[words] or click[target]"),
            ("webshop", {}, "click[x]", "this page has nothing to click that is called 'x'"),
        ],
    )
    def test_the_reason_is_said(
        self, name: str, options: dict[str, Any], action: str, why: str, need: Callable[[str], None]
    ) -> None:
        need(name)
        env = make(name, **options)
        env.reset(Task(name, seed=0))
        before = env.anchor()
        assert not env.step(action).valid
        assert (env.why_refused(action), env.anchor()) == (why, before)

    def test_few_closed_cells_are_listed(self) -> None:
        env = make("minesweeper")
        env.reset(Task("minesweeper", seed=3))  # the board of the transcript in test_play
        closed = [f"({row}, {column})" for row in range(1, 7) for column in range(1, 7) if _is_closed(env, row, column)]
        assert len(closed) == 7
        assert env.why_refused("(6, 1)") == f"(6, 1) is open already; unopened: {', '.join(closed)}"

    def test_a_wall_is_told_with_the_ways_that_are_free(self) -> None:
        env = make("darkroom")
        env.reset(Task("darkroom", seed=0))
        env.step("up")
        env.step("up")
        assert env.why_refused("up") == "a wall is there: from here you can go down, left, right"

    def test_a_click_that_was_meant_is_guessed(self, need: Callable[[str], None]) -> None:
        need("webshop")
        env = make("webshop")
        env.reset(Task("webshop", seed=0))
        env.step("search[shampoo]")
        assert env.why_refused("click[back to serch]").endswith("did you mean click[back to search]?")

    def test_a_game_that_gives_no_reason_is_said_to_give_none(self) -> None:
        class Silent(Doors):
            name = "silent"

            def why_refused(self, action: str) -> str:
                return ""

        with registry.scoped(silent=Silent):
            shown = words(play("silent", "--max-turns", "2", typed="d9\n").output)
        assert "'d9' was refused, which takes a turn: the game gives no reason" in shown

    def test_a_listed_action_that_is_near_is_named_to_the_person(self, need: Callable[[str], None]) -> None:
        need("alfworld")
        shown = words(play("alfworld", typed="go to fridge\n").output)
        assert (
            "'go to fridge' was refused, which takes a turn: it is not among the possible actions; like it are" in shown
        )
        assert "turn 2 of 30" in shown  # as many as an agent has in an evaluation


def _is_closed(env: TextEnv, row: int, column: int) -> bool:
    """By the row's text."""
    lines = make("minesweeper").reset(Task("minesweeper", seed=3)).text.splitlines()
    return lines[row - 1].split(": ")[1].split(" ")[column - 1] == "?"


class TestTrials:
    LOST = "(9, 9)"  # refused each time, until the turns are used up

    @pytest.mark.parametrize(
        ("memory", "remark", "in_later_prompts"),
        [
            ("both", "start elsewhere", {"(9, 9) [invalid", "Your remark on it: start elsewhere"}),
            ("reflection", "start elsewhere", {"Your remark on it: start elsewhere"}),
            ("history", None, {"(9, 9) [invalid"}),
        ],
    )
    def test_a_later_attempt_has_the_memory_of_an_agents(
        self, memory: str, remark: str | None, in_later_prompts: set[str], minesweeper: Agent
    ) -> None:
        """The person asks for each prompt; an agent with the same replies gets the same ones."""
        said = [self.LOST, self.LOST, *([remark] if remark else []), self.LOST, self.LOST]
        config = {"num_episodes": 2, "memory": memory, "max_turns": 2}
        expected = prompts(agents_trial(minesweeper, 3, list(said), **config))
        flags = ("--seed", "3", "--attempts", "2", "--memory", memory, "--max-turns", "2")
        typed = "".join(f"/prompt\n{line}\n" for line in said)
        shown = words(play("minesweeper", *flags, typed=typed).output)
        assert len(expected) == len(said)
        for prompt in expected:
            assert words(prompt) in shown
        # The memory at the start of the second attempt, and on request.
        for piece in ("(9, 9) [invalid", "Your remark on it: start elsewhere"):
            assert (piece in words(expected[-2])) == (piece in in_later_prompts)
        recalled = words(play("minesweeper", *flags, typed="\n".join([*said[:-2], "/memory"])).output)
        for piece in in_later_prompts:
            assert recalled.rpartition("Your action (/help): ")[0].rpartition("Your action (/help): ")[2].count(piece)
        assert ("Write what you want to remember" in recalled) == (remark is not None)

    def test_a_win_in_a_later_attempt_ends_the_trial(self) -> None:
        env = make("doors")
        env.reset(Task("doors", seed=1))
        right = env.oracle() or ""
        wrong = "d2" if right == "d1" else "d1"
        result = play("doors", "--seed", "1", typed=f"{wrong}\nnot there\n{right}\nleft over\n")
        assert "Attempt 1: lost" in result.output
        assert "Attempt 2: won, reward 10" in result.output
        assert "1 of 1 won" in result.output
        as_json = play("doors", "--seed", "1", "--json", typed=f"{wrong}\nnot there\n{right}\n")
        assert json.loads(as_json.stdout) == {"task": "doors:seed=1", "won": True, "score": 1.0, "turns": 2}

    def test_the_best_score_of_its_attempts_is_a_trials(self) -> None:
        class Scored(Doors):
            name = "scored"

            def step(self, action: str) -> Step:
                step = super().step(action)
                score = {"d1": 0.25, "d2": 0.5, "d3": 0.125}[action]
                return Step(step.observation, 0.0, True, False, False, True, {"task_score": score})

        with registry.scoped(scored=Scored):
            typed = "d1\n\nd2\n\nd3\n"
            result = play("scored", "--seed", "1", typed=typed)
            row = json.loads(play("scored", "--seed", "1", "--json", typed=typed).stdout)
        assert "Attempt 2: lost, score 0.5" in result.output
        assert row == {"task": "scored:seed=1", "won": False, "score": 0.5, "turns": 3}

    def test_turns_are_those_of_the_agent_or_of_the_panel(self, minesweeper: Agent) -> None:
        assert f"turn 1 of {minesweeper.max_turns}" in play("minesweeper").output
        assert "turn 1 of 25" in play("minesweeper", "--panel", "minesweeper/5-mines-long").output
        assert "turn 1 of 4" in play("minesweeper", "--panel", "minesweeper/5-mines-long", "--max-turns", "4").output

    def test_several_tasks_are_played_until_the_person_leaves(self) -> None:
        result = play("doors", "--tasks", "5", "--attempts", "1", typed="d1\nd2\n/quit\n")
        assert "of 3 won" in result.output


class TestCommands:
    def test_a_person_leaves(self) -> None:
        for leaving in ("\n(1, 1)\n", "(1, 1)\n/quit\n(1, 2)\n"):
            result = play("minesweeper", "--seed", "3", typed=leaving)
            assert "turn 2 of 7" in result.output
            assert "turn 3 of 7" not in result.output
            assert "0 of 1 won" in result.output

    def test_json_stays_on_stdout_alone(self) -> None:
        result = play("minesweeper", "--seed", "3", "--json", typed="(1, 1)\n")
        assert json.loads(result.stdout) == {"task": MINES, "won": False, "score": 0.0, "turns": 1}

    def test_the_anchor_is_that_of_the_state(self) -> None:
        env = make("minesweeper")
        env.reset(Task("minesweeper", seed=3))
        env.step("(1, 1)")
        assert env.anchor() in play("minesweeper", "--seed", "3", typed="(1, 1)\n/anchor\n").output

    def test_commands_take_no_turn_and_unknown_ones_are_told(self) -> None:
        shown = words(play("minesweeper", "--seed", "3", typed="/help\n/all\n/start\n/memory\n/promt\n(1, 1)\n").output)
        assert "/anchor the key of the state" in shown
        assert "Nothing yet: this is the first attempt." in shown
        assert "There is no command /promt." in shown
        assert "turn 2 of 7" in shown
        assert "turn 3 of 7" not in shown

    def test_two_slashes_begin_an_action_with_one(self) -> None:
        assert "'/anchor' was refused" in play("minesweeper", "--seed", "3", typed="//anchor\n").output

    def test_a_tag_in_an_action_does_not_hide_it(self) -> None:
        shown = words(play("minesweeper", "--seed", "3", typed="</action>\n").output)
        assert "was refused, which takes a turn: name one cell" in shown

    def test_a_number_stands_for_a_listed_action(self) -> None:
        class Listed(MineSweeper):
            name = "listed"

            def reset(self, task: Task) -> Observation:
                return Observation(super().reset(task).text, ("(9, 9)", "(1, 1)"))

        with registry.scoped(listed=Listed):
            result = play("listed", "--seed", "3", typed="2\n/prompt\n")
        assert "2  (1, 1)" in result.output
        assert "you played: (1, 1)" in result.output


class TestScreen:
    @pytest.mark.parametrize("name", ["sokoban", "minesweeper", "doors", "darkroom", "webshop", "alfworld"])
    def test_each_state_and_the_task_fit_into_80_by_24(self, name: str, need: Callable[[str], None]) -> None:
        need(name)
        env = make(name)
        agent = load_agent(f"openrlhf_lamer.agents.{name}")[0]
        states = [env.reset(Task(name, seed=1))]
        while (action := env.oracle()) is not None:
            states.append((step := env.step(action)).observation)
            if step.terminated:
                break
        notes = (("Signs", env.legend), ("Remark", "go there " * 60), ("Task", env.wanted()))
        for state in (*states, *env.long_states()):
            shown = drawn(screen.View("turn", state.text, state.admissible, notes), height=24)
            assert len(shown) <= 23, "\n".join(shown)
            assert max(map(len, shown)) <= 80
            assert words(env.wanted()) in words("\n".join(shown[-4:]))
        assert agent.env == name

    def test_what_is_left_out_is_counted_and_shown_on_request(self) -> None:
        view = screen.View("turn", "\n".join(f"line {n}" for n in range(40)), tuple(f"action {n}" for n in range(90)))
        shown = drawn(view, height=24)
        (of_state, of_actions) = (line for line in shown if "more line" in line)
        states = sum(line.startswith("│ line ") for line in shown)
        rows = sum(line.lstrip()[:1].isdigit() for line in shown)
        assert f"… {40 - states} more lines: /all" in of_state
        assert f"… {-(-90 // 5) - rows} more lines: /all" in of_actions  # five columns of 14 characters and a space
        buffer = StringIO()
        screen.in_full(Console(file=buffer, width=80, height=24), view)
        assert [f"action {n}" in buffer.getvalue() for n in range(90)] == [True] * 90

    def test_a_memory_that_is_too_long_keeps_its_end(self) -> None:
        lines = screen.wrapped(Console(width=80), "\n".join(f"line {n}" for n in range(9)), 80)
        kept = [line.plain for line in screen.cut(lines, 4, "/memory", keeps_end=True)]
        assert kept == ["… 6 more lines: /memory", "line 6", "line 7", "line 8"]


def drawn(view: screen.View, height: int) -> list[str]:
    buffer = StringIO()
    screen.show(Console(file=buffer, width=80, height=height), view)
    return buffer.getvalue().splitlines()
