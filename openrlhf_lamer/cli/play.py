"""`openrlhf-lamer play`: a person plays trials; an oracle, a random player or a list of actions plays tasks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openrlhf_lamer.cli.errors import fail
from openrlhf_lamer.cli.inputs import MOST_TURNS, agent_of, environment, json_object
from openrlhf_lamer.progress import counting
from openrlhf_lamer.vocabulary import MEMORY_HELP, Memory

if TYPE_CHECKING:
    from rich.console import Console

    from openrlhf_lamer.envs import Observation, Step, TextEnv
    from openrlhf_lamer.records import Task

    Player = Callable[[TextEnv, Observation], str | None]
    """Player: gives the next action, or None to leave the episode."""
    Watcher = Callable[[int, Observation, str | None, Step | None], None]
    """Observer: gets the turn, the state, and the action and step that led to it, if any."""


class Who(StrEnum):
    """Who plays."""

    HUMAN = "human"
    ORACLE = "oracle"
    RANDOM = "random"


@dataclass(frozen=True)
class Outcome:
    """Figures of an episode, or of a person's trial, which `--json` prints.

    Attributes:
        task: Id of the task.
        won: The environment reported success, in a trial in any attempt.
        score: `task_score` of the last step's info, from 0 to 1; without it, 1.0 for won. Of a trial, the best.
        turns: Actions played, in all attempts.
    """

    task: str
    won: bool
    score: float
    turns: int


def play(
    env: Annotated[
        str, typer.Argument(help="Environment, such as sokoban, or the .py file of an agent that brings its own.")
    ],
    player: Annotated[Who, typer.Option(help="Who plays.")] = Who.HUMAN,
    action: Annotated[
        list[str] | None, typer.Option(help="Instead of a player: an action to play. May be given again.")
    ] = None,
    actions: Annotated[
        Path | None, typer.Option(help="Instead of a player: a file of actions, one a line; - for standard input.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Where tasks come from: train, eval, or a split of the environment's own data.")
    ] = "eval",
    panel: Annotated[str | None, typer.Option(help="Play a frozen panel instead of a split.")] = None,
    seed: Annotated[int | None, typer.Option(help="Play the task of this seed instead of a split.")] = None,
    tasks: Annotated[
        str, typer.Option(help="Number of tasks, or all (128 of a split that is a range of seeds).")
    ] = "1",
    options: Annotated[str, typer.Option(help="Options of the environment as JSON, such as '{\"mines\": 4}'.")] = "{}",
    attempts: Annotated[
        int | None,
        typer.Option(min=1, help="Attempts that a person has at a task; by default 3, as an agent. A win ends them."),
    ] = None,
    memory: Annotated[
        Memory | None, typer.Option(help=f"{MEMORY_HELP} For a person, who is asked for remarks; by default both.")
    ] = None,
    max_turns: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Turns of an attempt. By default, for a person those of an agent in an evaluation, for other players "
            f"{MOST_TURNS}.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON per task: `task`, `won`, `score`, `turns`.")
    ] = False,
) -> None:
    """Play an environment in the terminal, or let an oracle, a random player or a list of actions play it.

    A person plays a trial as an agent does: several attempts at one task, with what is remembered of the earlier ones.
    `/help` shows the rules, `/prompt` an agent's prompt, `/anchor` the key of the state.

    For instance `openrlhf-lamer play minesweeper --seed 3`, or
    `openrlhf-lamer play sokoban --panel sokoban/5-boxes --player oracle --tasks all --json`.
    """
    from rich.console import Console

    from openrlhf_lamer import envs

    if (action is not None or actions is not None) and player is not Who.HUMAN:
        fail("--action and --actions play by themselves; leave --player out")
    is_person = player is Who.HUMAN and action is None and actions is None
    if not is_person and (attempts is not None or memory is not None):
        fail("--attempts and --memory are for a person; `openrlhf-lamer eval --player` plays trials of other players")
    console = Console(stderr=as_json)
    script = _script(action, actions)
    outcomes: list[Outcome] = []

    def keep(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if as_json:
            typer.echo(json.dumps(asdict(outcome)))

    try:
        with console.status(f"preparing {env}") if is_person else nullcontext():
            chosen = _tasks(environment(env), split, panel, seed, tasks, json_object("--options", options))
        if is_person:
            _trials(env, chosen, panel, attempts, memory, max_turns, console, keep)
        else:
            shows_turns = len(chosen) == 1 and not as_json
            bar = nullcontext(lambda: None) if shows_turns else counting(f"{player} plays {chosen[0].env}", len(chosen))
            with closing(envs.make(chosen[0].env, **chosen[0].options)) as built, bar as advance:
                for number, task in enumerate(chosen):
                    acting = _player(player, script, number)
                    watch = _narrator(console, task, built) if shows_turns else lambda *seen: None
                    keep(_episode(built, task, acting, max_turns or MOST_TURNS, watch))
                    advance()
    except KeyboardInterrupt:
        console.print("left")
    except (ImportError, NotImplementedError) as error:
        fail(str(error))
    if not as_json:
        _summary(console, outcomes)


def _trials(
    env: str,
    chosen: list[Task],
    panel: str | None,
    attempts: int | None,
    memory: Memory | None,
    max_turns: int | None,
    console: Console,
    keep: Callable[[Outcome], None],
) -> None:
    """Let a person play a trial of each task, until the person leaves; `keep` gets their outcomes."""
    from openrlhf_lamer import panels
    from openrlhf_lamer.cli.person import Person
    from openrlhf_lamer.config import LamerConfig

    turns = max_turns or (None if panel is None else panels.load(panel).max_turns)
    given = {"num_episodes": attempts, "memory": memory, "max_turns": turns}
    config = LamerConfig(retries=0, **{name: value for name, value in given.items() if value is not None})
    person = Person(agent_of(env).evaluated(), config, console)
    for task in chosen:
        stays = person.play(task)
        played = person.attempts
        won, score = any(each.won for each in played), max((each.score for each in played), default=0.0)
        keep(Outcome(task.id, won, score, sum(each.turns for each in played)))
        if not stays:
            break


def _episode(env: TextEnv, task: Task, player: Player, max_turns: int, watch: Watcher) -> Outcome:
    """Play `task` until it ends, the player leaves it, or `max_turns` turns are over."""
    observation, step = env.reset(task), None
    watch(0, observation, None, None)
    turns = 0
    while turns < max_turns and not (step and (step.terminated or step.truncated)):
        action = player(env, observation)
        if action is None:
            break
        step = env.step(action)
        observation, turns = step.observation, turns + 1
        watch(turns, observation, action, step)
    won = step is not None and step.won
    return Outcome(task.id, won, float((step.info if step else {}).get("task_score", won)), turns)


def _tasks(
    env: str, split: str, panel: str | None, seed: int | None, count: str, options: dict[str, object]
) -> list[Task]:
    """The chosen tasks, all with the same options."""
    from openrlhf_lamer import envs, panels
    from openrlhf_lamer.records import Task

    cls = envs.lookup(env)
    if count != "all" and not (count.isdecimal() and int(count)):
        fail(f"--tasks {count}: give a number of tasks, or all")
    number = None if count == "all" else int(count)
    if seed is not None:
        return [Task(env, seed=seed, options=options)]
    if panel is None:
        return cls.tasks(split, number, options=options)
    frozen = panels.load(panel)
    if frozen.env != env or options:
        made = json.dumps(frozen.options)
        fail(f"--panel {panel} is of {frozen.env} with the options {made}: play {frozen.env}, without --options")
    return frozen.tasks()[:number]


def _script(action: list[str] | None, actions: Path | None) -> list[str] | None:
    """The actions to replay, or None where someone plays."""
    if action is not None and actions is not None:
        fail("give either --action or --actions")
    if actions is None:
        return action
    try:
        text = sys.stdin.read() if str(actions) == "-" else actions.read_text("utf-8")
    except OSError as error:
        fail(f"--actions {actions}: {error.strerror}")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _player(who: Who, script: list[str] | None, number: int) -> Player:
    """The player of task number `number`."""
    from openrlhf_lamer.envs.base import draw_action
    from openrlhf_lamer.envs.seeding import generator

    if script is not None:
        left = iter(script)
        return lambda env, observation: next(left, None)
    if who is Who.ORACLE:
        return lambda env, observation: env.oracle()
    rng = generator("play", number)
    return lambda env, observation: draw_action(env, observation, rng)


def _narrator(console: Console, task: Task, env: TextEnv) -> Watcher:
    """Shows each state, and the action that led to it."""
    from rich.panel import Panel
    from rich.text import Text

    from openrlhf_lamer.cli.person import why
    from openrlhf_lamer.cli.screen import numbered

    def watch(turn: int, observation: Observation, action: str | None, step: Step | None) -> None:
        title = Text(task.id if action is None else f"turn {turn}: {action}")
        console.print(Panel(Text(observation.text), title=title, expand=False))
        if step is not None:
            over = "won" if step.won else "lost" if step.terminated else "out of steps" if step.truncated else ""
            refused = "" if step.valid else f"refused: {why(env, action or '', step)}"
            notes = [refused, f"reward {step.reward:g}" if step.reward else "", over]
            console.print(Text(", ".join(filter(None, notes))), end="\n" if any(notes) else "")
        if observation.admissible and not (step and (step.terminated or step.truncated)):
            console.print(Text("\n".join(numbered(observation.admissible))))

    return watch


def _summary(console: Console, outcomes: list[Outcome]) -> None:
    from rich.table import Table
    from rich.text import Text

    if not outcomes:
        return
    table = Table(title=f"{sum(outcome.won for outcome in outcomes)} of {len(outcomes)} won")
    for heading in ("task", "won", "score", "turns"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for outcome in outcomes:
        table.add_row(Text(outcome.task), "yes" if outcome.won else "no", f"{outcome.score:g}", str(outcome.turns))
    console.print(table)
