"""A person in the place of a model: plays a trial with its attempts, reflections and memory, in the terminal.

The trial loop is that of training and evaluation. The person sees the contents of an agent's prompts, and types what
the tags of an agent's replies would hold.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

from openrlhf_lamer.agents import Agent
from openrlhf_lamer.cli import screen
from openrlhf_lamer.cli.errors import fail
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.envs.base import Observation, Step, TextEnv
from openrlhf_lamer.envs.session import InlineSession, Opening, Session
from openrlhf_lamer.policies.base import EngineGoneError, Generation, Request
from openrlhf_lamer.records import Phase, Task
from openrlhf_lamer.text_chat import TextChat, messages
from openrlhf_lamer.trial import run_trial

if TYPE_CHECKING:
    from rich.console import Console

ROOM = 1 << 40
"""Limit of prompts and replies: a person has no context to fill."""

COMMANDS = {
    "/help": "the rules, how to write actions, and these commands",
    "/all": "the state and the possible actions, with nothing left out",
    "/start": "the state in which each attempt begins",
    "/memory": "what you are shown of earlier attempts",
    "/prompt": "the message that an agent would get now",
    "/anchor": "the key of the state, by which estimators compare turns",
    "/quit": "leave; Ctrl-D does the same",
}


class LeftError(EngineGoneError):
    """The person leaves in the middle of a trial."""


@dataclass
class Attempt:
    """Figures of an attempt so far."""

    turns: int = 0
    won: bool = False
    score: float = 0.0
    shown: bool = False


@dataclass(frozen=True)
class _Telling(Agent):
    """An agent that keeps the values of its latest message in `told`."""

    told: dict[str, Any] = field(default_factory=dict)

    def play_message(self, **values: Any) -> str:
        self.told.update(values)
        return super().play_message(**values)

    def reflect_message(self, **values: Any) -> str:
        self.told.update(values)
        return super().reflect_message(**values)


class Person:
    """Plays trials in the terminal.

    Args:
        agent: The environment's prompts and limits.
        config: Attempts, memory and turns.
        console: The terminal.

    Attributes:
        attempts: Figures of the latest trial's attempts.
    """

    def __init__(self, agent: Agent, config: LamerConfig, console: Console) -> None:
        given = {each.name: getattr(agent, each.name) for each in fields(agent)}
        self._agent = _Telling(**given)
        self._config, self._console = config, console
        self._chat = TextChat()
        self._begun = False
        self.attempts: list[Attempt] = []

    def play(self, task: Task) -> bool:
        """Play a trial of `task`; returns whether it was played to its end, and not left by the person."""
        self.attempts = []
        self._task, self._answer = task, ""
        # Not asyncio.run: it takes the first Ctrl-C for itself, while the terminal waits for a line.
        loop = asyncio.new_event_loop()
        try:
            trial = loop.run_until_complete(
                run_trial(
                    task,
                    self._agent,
                    self,
                    self._chat,
                    self._config,
                    max_new_tokens=ROOM,
                    max_length=2 * ROOM,
                    open_session=self._open,
                )
            )
        except LeftError:
            return False
        finally:
            loop.close()
        if trial.failure is not None:
            fail(f"{task.id}: {trial.failure.stage}: {trial.failure.message}")
        self._end()
        return True

    async def generate(self, request: Request) -> Generation:
        """The reply that holds what the person types."""
        assert request.env is not None
        self._env, self._prompt = request.env, request.prompt_ids
        typed = self._act() if request.phase is Phase.PLAY else self._remember()
        tag = "action" if request.phase is Phase.PLAY else "remark"
        return Generation(self._chat.encode(f"<{tag}>{self._chat.clean(typed)}</{tag}>"), None, truncated=False)

    async def _open(self, make: partial[TextEnv]) -> Session:
        return _Watched(make(), self)

    def begins(self, opening: Opening) -> None:
        """Begin an attempt: show the end of the previous one, or the rules before the first one."""
        self._end()
        self.attempts.append(Attempt())
        if not self._begun:
            self._begun, self._facts = True, opening.facts
            self._introduce()

    def stepped(self, env: TextEnv, action: str, step: Step) -> None:
        """Record an action that was played, and the answer to show."""
        attempt = self.attempts[-1]
        attempt.turns += 1
        attempt.won, attempt.score = step.won, float(step.info.get("task_score", step.won))
        before, self._last = self._agent.told["observation"], step
        if not step.valid:
            self._answer = f"{action!r} was refused, which takes a turn: {why(env, action, step)}"
        elif step.reward:
            self._answer = f"reward {step.reward:g}"
        else:
            same = step.observation.text == before.text
            self._answer = f"{action!r} was accepted; the state looks the same" if same else ""

    def _introduce(self) -> None:
        from rich.text import Text

        self._console.rule(Text(self._task.id), align="left")
        self._console.print(Text(self._agent.introduction(self._facts)))
        most = self._config.num_episodes
        if most > 1:
            told = {"history": "what you did", "reflection": "your remark", "both": "what you did and your remark"}
            self._say(
                f"You have {most} attempts at the same task, and a win ends it. In a later attempt you are told "
                f"{told[self._config.memory]} in the earlier ones."
            )
        self._console.print(Text("Commands: " + ", ".join(COMMANDS), style="italic"))
        if sys.stdin.isatty():
            self._line("Enter begins ")

    def _end(self) -> None:
        """Show the state in which the latest attempt ended, and how."""
        if not self.attempts or self.attempts[-1].shown:
            return
        attempt, number, last = self.attempts[-1], len(self.attempts), self._last
        attempt.shown = True
        how = "lost" if last.terminated else "out of steps" if last.truncated else "out of turns"
        how = "won" if attempt.won else how
        paid = f", reward {last.reward:g}" if last.reward else ""
        paid += f", score {attempt.score:.3g}" if "task_score" in last.info else ""
        refused = f"{self._answer}. " if not last.valid else ""
        turns = f"{attempt.turns} turn{'s' if attempt.turns > 1 else ''}"
        view = screen.View(f"Attempt {number} ended after {turns}", self._plain(last.observation.text))
        screen.show(self._console, view, above=2)
        self._say(f"{refused}Attempt {number}: {how}{paid}", "bold green" if attempt.won else "bold red")
        self._answer = ""

    def _act(self) -> str:
        """The action that the person types."""
        view = self._view()
        above = 0
        if not self._agent.told["turns"] and self._agent.told["memory"]:
            above = self._show_memory(screen.height(self._console, view))
        if self._answer:
            self._say(self._answer, "yellow")
            above += 1 + len(self._answer) // self._console.width
        screen.show(self._console, view, above=above)
        typed = self._ask("Your action (/help): ", view)
        listed = view.actions
        return listed[int(typed) - 1] if typed.isdecimal() and 1 <= int(typed) <= len(listed) else typed

    def _remember(self) -> str:
        """The remark that the person types."""
        self._end()
        self._say("Write what you want to remember in the next attempt (Enter: nothing).")
        return self._ask("Remark> ", screen.View("", self._plain(self._last.observation.text)), empty=True)

    def _view(self) -> screen.View:
        told = self._agent.told
        observation: Observation = told["observation"]
        turns, memory, turn = told["turns"], told["memory"], len(told["turns"]) + 1
        attempt = f"Attempt {told['episode'] + 1} of {told['num_episodes']}"
        title = f"{attempt}, turn {turn} of {turn - 1 + told['turns_left']}"
        remark = memory[-1].remark if memory and turns else None
        notes = ("Signs", self._env.legend), ("Remark", remark or ""), ("Task", self._env.wanted())
        return screen.View(title, self._plain(observation.text), observation.admissible, notes)

    def _plain(self, text: str) -> str:
        """A state's text. Several parts are separated by bars; the task is left out, since it is shown below."""
        separator = self._agent.memory_separator
        if separator is None:
            return text
        wanted = self._env.wanted()
        parts = text.split(separator)
        if wanted in parts:
            place = parts.index(wanted)
            labelled = place > 0 and parts[place - 1].strip().endswith(":")
            del parts[place - labelled : place + 1]
        return " | ".join(parts)

    def _ask(self, question: str, view: screen.View, *, empty: bool = False) -> str:
        """A typed line that is not a command; commands are carried out. `//` at its start stands for one slash."""
        while True:
            typed = self._line(question)
            if typed.startswith("//"):
                return typed[1:]
            if typed.startswith("/"):
                self._command(typed, view)
            elif typed or empty:
                return typed

    def _line(self, question: str) -> str:
        from rich.text import Text

        try:
            return self._console.input(Text(question, style="bold")).strip()
        except (EOFError, KeyboardInterrupt):
            self._console.print()
            raise LeftError("left") from None

    def _command(self, typed: str, view: screen.View) -> None:
        from rich.text import Text

        told = self._agent.told
        if typed == "/quit":
            raise LeftError("left")
        if typed == "/help":
            self._console.print(Text(self._agent.introduction(self._facts)))
            self._console.print(Text("\n".join(f"{name:<9}{does}" for name, does in COMMANDS.items())))
        elif typed == "/all":
            screen.in_full(self._console, view)
        elif typed == "/start":
            self._console.print(Text(told["initial"].text))
        elif typed == "/memory":
            self._console.print(Text(self._recollection() or "Nothing yet: this is the first attempt."))
        elif typed == "/prompt":
            self._console.print(Text(messages(self._prompt)[-1]["content"]))
        elif typed == "/anchor":
            self._console.print(Text(self._env.anchor()))
        else:
            self._say(f"There is no command {typed}. Commands: {', '.join(COMMANDS)}; // begins an action with a slash")

    def _recollection(self) -> str:
        return self._agent.recollection(self._agent.told.get("memory", ()))

    def _show_memory(self, below: int) -> int:
        """Show the memory in the room that a state of `below` lines leaves; returns the number of lines it took."""
        lines = screen.wrapped(self._console, self._recollection(), self._console.width)
        most = max(self._console.height - below - 2, screen.LEAST)
        shown = screen.cut(lines, most, "/memory", keeps_end=True)  # the end has the latest remark
        self._say("What you know from before:", "bold")
        for line in shown:
            self._console.print(line)
        return 1 + len(shown)

    def _say(self, text: str, style: str = "") -> None:
        from rich.text import Text

        self._console.print(Text(text, style=style))


class _Watched(InlineSession):
    """A session that tells a person of its calls."""

    def __init__(self, env: TextEnv, person: Person) -> None:
        super().__init__(env)
        self._person = person

    async def reset(self, task: Task) -> Opening:
        opening = await super().reset(task)
        self._person.begins(opening)
        return opening

    async def step(self, action: str) -> tuple[Step, str]:
        answer = await super().step(action)
        self._person.stepped(self.env, action, answer[0])
        return answer


def why(env: TextEnv, action: str, step: Step) -> str:
    """Why an action was refused: what the environment says, else what the list of actions tells."""
    if said := env.why_refused(action):
        return said
    listed = step.observation.admissible
    if not listed:
        return "the game gives no reason; its rules tell how actions are written"
    # Half an action counts as close: what it is done with is often left out.
    close = get_close_matches(action.lower(), listed, n=3, cutoff=0.4)
    near = f"; like it are {', '.join(close)}" if close else ""
    return f"it is not among the possible actions{near}"
