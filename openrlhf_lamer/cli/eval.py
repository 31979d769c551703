"""`openrlhf-lamer eval`: play a panel with a checkpoint, a served model or a script."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from openrlhf_lamer import LamerError
from openrlhf_lamer.cli.errors import fail
from openrlhf_lamer.cli.inputs import longest, no_file, one_form, show
from openrlhf_lamer.evaluation.methods import MethodName
from openrlhf_lamer.progress import counting
from openrlhf_lamer.vocabulary import CONTEXT_HELP, MEMORY_HELP, THINKING_HELP, ContextPolicy, Memory

if TYPE_CHECKING:
    from openrlhf_lamer.agents import Agent
    from openrlhf_lamer.config import LamerConfig
    from openrlhf_lamer.evaluation.players import Player, Sampling
    from openrlhf_lamer.records import Task, Trial

_who, _what, _how, _sampling, _run = (
    partial(typer.Option, rich_help_panel=panel)
    for panel in ("Who plays", "What is played", "How", "Sampling", "The run")
)

RESULT = frozenset({"num_episodes", "max_turns", "context", "memory", "reward", "invalid_penalty", "env_options"})
"""Fields of the configuration that every result depends on."""

OPTIONAL = frozenset({"stop_on_success", "turn_budget", "reflect_on_success", "thinking"})
"""Fields that settings name only where they differ from the default, so that runs of before they existed can go on."""

FLAGS = {
    "stop_on_success off": "--no-stop-on-success",
    "reflect_on_success": "--reflect-on-success",
    "turn_budget": "--turn-budget",
    "memory": "--memory",
    "num_episodes": "--attempts",
}
"""This command's flags for the options in the messages of `LamerConfig.refusal`."""


def evaluate(
    *,
    model: Annotated[
        str | None, _who(help="Checkpoint in Hugging Face form; with --endpoint, the model's name there.")
    ] = None,
    endpoint: Annotated[
        str | None,
        _who(help="A server with OpenAI's API, such as http://host:8000/v1; its key is read from OPENAI_API_KEY."),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        _who(
            help="With --endpoint: folder of the model's tokenizer. Prompts then are token ids, which vLLM takes; "
            "without it they are chat messages, which every server takes."
        ),
    ] = None,
    player: Annotated[Literal["random", "oracle"] | None, _who(help="A script instead of a model.")] = None,
    tasks: Annotated[str, _what(help="A panel that `openrlhf-lamer tasks` lists, or a prompt dataset (.jsonl).")],
    agent_func: Annotated[
        str | None,
        _what(
            help="Agent module or .py file, several separated by commas; by default those bundled for the tasks' "
            "environments."
        ),
    ] = None,
    first: Annotated[int | None, _what(min=1, help="Play only the first N tasks.")] = None,
    method: Annotated[
        MethodName,
        _how(
            help="zero-shot, react and rl make independent attempts (pass@k); the others go from one attempt "
            "to the next with a memory (success@k)."
        ),
    ] = "lamer",
    attempts: Annotated[
        int | None,
        _how(
            min=1,
            help="Attempts at each task (k): by default 3, or as many as --turn-budget holds.",
            show_default=False,
        ),
    ] = None,
    stop_on_success: Annotated[
        bool,
        _how(help="Whether the first attempt that is won ends a trial; if not, it goes on to the last attempt."),
    ] = True,
    turn_budget: Annotated[
        int | None, _how(min=1, help="Turns of all attempts of a trial together; they end it where they are used up.")
    ] = None,
    reflect_on_success: Annotated[
        bool, _how("--reflect-on-success", help="With --no-stop-on-success: reflect on attempts that were won too.")
    ] = False,
    samples: Annotated[
        int | None,
        _how(min=1, help="Trials of each task: by default 1, or one for each attempt where attempts are independent."),
    ] = None,
    memory: Annotated[Memory | None, _how(help=f"{MEMORY_HELP} By default the method's.")] = None,
    context: Annotated[ContextPolicy, _how(help=CONTEXT_HELP)] = "turn",
    thinking: Annotated[bool, _how("--thinking", help=THINKING_HELP)] = False,
    max_turns: Annotated[
        int | None, _how(min=1, help="Turns of an attempt; by default the panel's, else the agent's in evaluations.")
    ] = None,
    temperature: Annotated[float, _sampling(min=0.0, help="Temperature.")] = 0.7,
    top_p: Annotated[float, _sampling(min=0.01, max=1.0, help="Nucleus sampling (top-p).")] = 1.0,
    max_new_tokens: Annotated[
        int | None, _sampling(min=1, help="Most tokens of a reply; by default 1024, or 4096 with --thinking.")
    ] = None,
    max_length: Annotated[
        int | None,
        _sampling(
            min=2,
            help="Most tokens of a prompt and its reply; an attempt that outgrows them is lost. Needs a tokenizer. By "
            "default what the longest prompt needs, as in training.",
        ),
    ] = None,
    seed: Annotated[int, _sampling(help="Each reply's own seed follows from it, the task and the sample.")] = 0,
    out: Annotated[
        Path, _run(help="Folder for the trials, a line each, and the summary. An unfinished run in it goes on.")
    ],
    concurrency: Annotated[int, _run(min=1, help="Trials at once.")] = 64,
    patience: Annotated[
        float, _run(min=0.0, help="Seconds to keep asking a server that is away before the run stops.")
    ] = 120.0,
    timeout: Annotated[float, _run(min=1.0, help="Seconds that one reply may take.")] = 600.0,
    as_json: Annotated[bool, _run("--json", help="Print the summary as JSON.")] = False,
    as_csv: Annotated[bool, _run("--csv", help="Print the shares as CSV.")] = False,
) -> None:
    """Play the tasks of a panel, and print the share solved within 1 to k attempts, with 95% intervals.

    For instance `openrlhf-lamer eval --tasks sokoban/2-boxes --model runs/model --out runs/eval`, or with
    `--endpoint http://localhost:8000/v1 --model NAME`, or `--player oracle`.

    The same command resumes a run that was killed: nothing is played twice. If the engine goes away, the run waits
    for it, then stops with exit code 1. The folder holds `trials.jsonl`,
    `run.json` and `summary.json`; `openrlhf-lamer view` shows its trials.
    """
    from openrlhf_lamer import envs
    from openrlhf_lamer.config import LamerConfig
    from openrlhf_lamer.evaluation.methods import METHODS
    from openrlhf_lamer.evaluation.players import Sampling, playing
    from openrlhf_lamer.evaluation.run import make_jobs, run
    from openrlhf_lamer.evaluation.summary import figures, summarize, table
    from openrlhf_lamer.files import write_json

    one_form(as_json, as_csv)
    no_file("--out", out)
    chosen = METHODS[method]
    if chosen.memory is None and memory is not None:
        fail(f"--memory {memory}: the attempts of {method} are independent; leave it out, or choose another --method")
    if chosen.memory is None and (turn_budget or not stop_on_success):
        flag = "--no-stop-on-success" if turn_budget is None else f"--turn-budget {turn_budget}"
        fail(f"{flag}: the attempts of {method} are independent; leave it out, or choose another --method")
    attempts = attempts or turn_budget or 3
    samples = samples or (attempts if chosen.memory is None else 1)
    if chosen.memory is None and samples < attempts:
        fail(f"--samples {samples}: {method} needs one for each of the {attempts} independent attempts")
    panel, agents, agent_names = tasks_and_agents(tasks, agent_func)
    # Several agents keep their own numbers of turns.
    turns = next(iter(agents.values())).max_turns if len(agents) == 1 else None
    flags = {
        "num_episodes": 1 if chosen.memory is None else attempts,
        "max_turns": max_turns or panel_turns(tasks) or turns,
        "stop_on_success": stop_on_success,
        "turn_budget": turn_budget,
        "reflect_on_success": reflect_on_success,
        "context": context,
        "memory": memory or chosen.memory or "both",
        "thinking": thinking,
        # The trial's limit leaves room for everything that an endpoint tries when no answer comes.
        "timeout": timeout if endpoint is None else 2 * timeout + patience,
    }
    config = LamerConfig.load(flags)
    if refused := config.refusal(config.max_turns or max(agent.max_turns for agent in agents.values()), FLAGS):
        fail(refused)
    try_tasks(tasks, panel, agents, config)
    reply = max_new_tokens or config.max_new_tokens
    length = longest(agents, config, panel, reply, max_length, tokenizer if endpoint else model)
    sampling = Sampling(temperature, top_p, reply, length)
    opened, who = open_player(model, endpoint, tokenizer, player, sampling, config, patience, timeout)
    slow = [env for env in agents if envs.lookup(env).slow]
    if player is None and slow and not find_spec("ray"):
        fail(f"{slow[0]} plays in separate processes, which need Ray: pip install ray")
    settings = {
        "method": method,
        **who,
        "agent": agent_names,
        "panel": describe_panel(tasks, panel),
        "sampling": asdict(sampling),
        "seed": seed,
        "config": result(config),
    }
    jobs = make_jobs(panel[:first], samples)

    async def play(advance) -> tuple[list[Trial], bool]:
        async with opened as opened_player:
            by_env = {
                env: playing(
                    opened_player, replace(agent, reasons=agent.reasons and chosen.reasons), config, sampling, seed
                )
                for env, agent in agents.items()
            }
            trials = await run(
                jobs,
                lambda job: by_env[job.task.env](job),
                out,
                settings,
                concurrency=concurrency,
                report=lambda trial: advance(),
            )
            return trials, opened_player.counts_tokens

    with interruptible(out), counting(f"trials of {', '.join(agents)}", len(jobs)) as advance:
        trials, counts_tokens = asyncio.run(play(advance))
    summary = summarize(trials, chosen, attempts, config, counts_tokens=counts_tokens)
    write_json(out / "summary.json", summary)
    note = f"{summary['tasks']} tasks, {len(trials)} trials, temperature {temperature:g}, 95% intervals"
    if summary["failed"]:
        note += f"; {summary['failed']} trials failed and are left out (see summary.json)"
    shown = table(f"{tasks}, {method}, {model or player}", figures(trials, chosen, attempts, config), note)
    show(shown, summary, as_json=as_json, as_csv=as_csv)
    if summary["failed"] == len(trials):
        raise FailedError(f"all {len(trials)} trials failed. {commonest_failure(trials)}")


class FailedError(LamerError):
    """No trial of a run has a result; the message gives the commonest reason."""

    exit_code = 1


def commonest_failure(trials: Sequence[Trial]) -> str:
    """The failure that most of the failed trials have, and how many do."""
    failures = [(trial.failure.kind, trial.failure.stage, trial.failure.message) for trial in trials if trial.failure]
    (kind, stage, message), count = Counter(failures).most_common(1)[0]
    return f"Most often ({count} of {len(failures)}), {kind} at {stage}: {message}"


def result(config: LamerConfig) -> dict[str, Any]:
    """Settings of a run that its results depend on."""
    return config.model_dump(include=set(RESULT)) | config.model_dump(include=set(OPTIONAL), exclude_defaults=True)


@contextmanager
def interruptible(out: Path) -> Iterator[None]:
    """Let Ctrl-C end a run in `out` with a message and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(
            f"openrlhf-lamer: stopped; what was played is kept in {out}, and the same command goes on from there",
            err=True,
        )
        raise typer.Exit(130) from None


def tasks_and_agents(tasks: str, agent_func: str | None) -> tuple[list[Task], dict[str, Agent], Any]:
    """The tasks, their agents as in evaluations, and the agents' names for the run's settings.

    Agents are keyed by environment; those that no task needs are left out. A name is a module, or a file with a hash;
    for several agents, a list of these.
    """
    from openrlhf_lamer import panels
    from openrlhf_lamer.agents import AgentError
    from openrlhf_lamer.agents.loading import load_agents, recorded, split_names
    from openrlhf_lamer.tasks import read_dataset

    try:
        panel = read_dataset(Path(tasks)) if _is_file(tasks) else panels.load(tasks).tasks()
    except (OSError, ValueError, ImportError) as error:
        fail(f"--tasks {tasks}: {error}")
    if not panel:
        fail(f"--tasks {tasks}: no tasks there")
    wanted = sorted({task.env for task in panel})
    names = split_names(agent_func) if agent_func else [f"openrlhf_lamer.agents.{env}" for env in wanted]
    try:
        loaded = load_agents(names)
    except AgentError as error:
        if agent_func:
            raise
        fail(f"no agent is bundled for all of {', '.join(wanted)} ({error}); name them with --agent-func")
    if strange := [env for env in wanted if env not in loaded]:
        played = ", ".join(f"{name} plays {env}" for name, env in zip(names, loaded, strict=True))
        fail(f"--tasks {tasks}: tasks of {', '.join(strange)}, but {played}")
    told = [recorded(name, file) for name, (env, (_, file)) in zip(names, loaded.items(), strict=True) if env in wanted]
    agents = {env: agent.evaluated() for env, (agent, _) in loaded.items() if env in wanted}
    return panel, agents, told if len(told) > 1 else told[0]


def try_tasks(tasks: str, panel: Sequence[Task], agents: Mapping[str, Agent], config: LamerConfig) -> None:
    """Fail where the first task of an agent cannot be set up here."""
    from openrlhf_lamer.envs import TaskError

    for env, agent in agents.items():
        try:
            first = next(task for task in panel if task.env == env)
            agent.try_task(first, reward=config.reward, options=config.env_options)
        except TaskError as error:
            fail(f"--tasks {tasks}: {error}")


def open_player(
    model: str | None,
    endpoint: str | None,
    tokenizer: Path | None,
    script: str | None,
    sampling: Sampling,
    config: LamerConfig,
    patience: float = 120.0,
    timeout: float = 600.0,
    *,
    share: float = 1.0,
    flags: tuple[str, str] = ("--model", "--endpoint"),
) -> tuple[AbstractAsyncContextManager[Player], dict[str, str]]:
    """A context that opens the player, and the player's name in the run's settings.

    `share` is the share of the device's memory; `flags` are those that name the model and the endpoint.
    """
    from openrlhf_lamer.evaluation import players
    from openrlhf_lamer.policies.endpoint import Server

    if script is not None:
        if model or endpoint:
            fail("--player plays by itself; leave --model and --endpoint out")
        if config.thinking:
            fail("--thinking: a script does not think; leave it out")
        return nullcontext(players.scripted(script)), {"player": "script", "model": script}
    if model is None:
        fail("nobody plays: give --model, --endpoint with --model, or --player")
    if (tokenizer or (None if endpoint else Path(model))) and not find_spec("transformers"):
        fail("a model's tokenizer needs transformers: pip install transformers")
    if endpoint is None:
        if tokenizer is not None:
            fail("--tokenizer goes with --endpoint; a checkpoint has its own")
        folder = Path(model)
        if (folder / "adapter_config.json").is_file():
            fail(f"{flags[0]} {model} is an adapter; make it a model: openrlhf-lamer merge {model} --out FOLDER")
        if not (folder / "config.json").is_file():
            fail(f"{flags[0]} {model}: no config.json there; give a folder in Hugging Face form, or {flags[1]} as well")
        if not find_spec("vllm"):
            fail(f"{flags[0]} needs vLLM: pip install 'openrlhf-lamer[gpu]', or ask a server with {flags[1]}")
        who = {"player": "checkpoint", "model": str(folder.resolve())}
        return players.open_checkpoint(folder, sampling, config, share=share), who
    if not endpoint.startswith(("http://", "https://")):
        fail(f"{flags[1]} {endpoint}: give a URL, such as http://localhost:8000/v1")
    if tokenizer is not None and not (tokenizer / "tokenizer_config.json").is_file():
        fail(f"--tokenizer {tokenizer}: no tokenizer_config.json there; give the folder of the model's tokenizer")
    server = Server(endpoint, model, os.environ.get("OPENAI_API_KEY"), patience, timeout)
    # Without the URL, so that a run can go on with a server that was started again elsewhere.
    asked = "by chat messages" if tokenizer is None else "by token ids"
    return players.open_server(server, sampling, config, tokenizer), {"player": f"server, {asked}", "model": model}


def describe_panel(tasks: str, panel: list[Task]) -> dict[str, str | int]:
    """The tasks in a run's settings, with the panel's version: seeds may begin differently in another version."""
    from openrlhf_lamer import panels

    if _is_file(tasks):
        return {"name": Path(tasks).name, "hash": _hash(panel)}
    return {"name": tasks, "version": panels.load(tasks).version, "hash": _hash(panel)}


def panel_turns(tasks: str) -> int | None:
    """Turns of an attempt that the panel asks for."""
    from openrlhf_lamer import panels

    return None if _is_file(tasks) else panels.load(tasks).max_turns


def _is_file(tasks: str) -> bool:
    return tasks.endswith(".jsonl") or Path(tasks).is_file()


def _hash(content: list[Task]) -> str:
    return sha256("\n".join(task.to_json() for task in content).encode()).hexdigest()[:32]
