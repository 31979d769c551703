"""The quickstart from start to end: model, warm start, evaluation, training, evaluation, report.

Evaluation and training run in separate processes, by the commands that a user would type.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console

from openrlhf_lamer import envs
from openrlhf_lamer.agents import Agent, load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.evaluation.report import Report
from openrlhf_lamer.evaluation.run import read_trials
from openrlhf_lamer.integration import cpu
from openrlhf_lamer.quickstart.following import follow, progress
from openrlhf_lamer.quickstart.memory import PeakMemory
from openrlhf_lamer.warmstart.model import build_model, build_tokenizer, save
from openrlhf_lamer.warmstart.players.minesweeper import FalliblePlayer
from openrlhf_lamer.quickstart.report import Measurements, write_report
from openrlhf_lamer.quickstart.settings import Settings
from openrlhf_lamer.warmstart.demonstrations import Rules, demonstrate
from openrlhf_lamer.warmstart.imitation import Imitation, imitate
from openrlhf_lamer.tasks import write_dataset

AGENT = "openrlhf_lamer.agents.minesweeper"


def run(out: Path, settings: Settings, console: Console) -> tuple[Measurements, Report]:
    """Run everything and write the results to `out`; returns the measurements and their report.

    Raises:
        StageError: Training or evaluation failed.
    """
    began = time.monotonic()
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    times: dict[str, float] = {}

    def stage(name: str, work: Callable[[], None]) -> None:
        console.rule(f"[bold]{name}")
        start = time.monotonic()
        work()
        times[name] = time.monotonic() - start
        console.print(f"{name}: {times[name]:.0f} s")

    with PeakMemory() as memory:
        stage("warm start", lambda: _warm_start(out, settings, console))
        stage("evaluation before", lambda: _evaluate(out, settings, console, "before", out / "start"))
        stage("training", lambda: _train(out, settings, console))
        stage("evaluation after", lambda: _evaluate(out, settings, console, "after", out / "checkpoint"))
    measured = Measurements(
        settings=settings,
        before=read_trials(out / "before"),
        after=read_trials(out / "after"),
        times=times,
        seconds=time.monotonic() - began,
        peak_bytes=memory.peak,
    )
    return measured, write_report(out, measured)


def _warm_start(out: Path, settings: Settings, console: Console) -> None:
    agent, _ = load_agent(AGENT)
    game, options = envs.lookup(agent.env), settings.config.env_options
    write_dataset(out / "data" / "train.jsonl", game.tasks("train", settings.steps * settings.tasks, options=options))
    write_dataset(out / "data" / "eval.jsonl", game.tasks("eval", settings.panel, options=options))
    # Demonstrations use seeds beyond those of training.
    tasks = game.tasks("train", settings.demonstrations, first=1_000_000, options=options)
    lengths = {"max_new_tokens": settings.max_new_tokens, "max_length": settings.max_length}
    chat = _chat(agent, settings)

    def player(seed: int) -> FalliblePlayer:
        return FalliblePlayer(chat, seed)

    with progress(console) as bar:
        playing = bar.add_task("scripted trials", total=len(tasks))

        def counted(items: Iterable) -> Iterable:
            for item in items:
                yield item
                bar.advance(playing)

        trials = demonstrate(tasks, agent, chat, settings.config, player=player, progress=counted, **lengths)
        model = build_model(
            chat.tokenizer,
            hidden=settings.hidden,
            layers=settings.layers,
            heads=settings.heads,
            max_length=settings.max_length,
            seed=settings.seed,
        )
        imitating = bar.add_task("imitation", total=100)

        def report(done: float, loss: float) -> None:
            bar.update(imitating, completed=round(100 * done), description=f"imitation, loss {loss:.3f}")

        imitate(
            model,
            trials,
            batch_tokens=settings.imitation_batch_tokens,
            learning_rate=settings.imitation_learning_rate,
            seed=settings.seed,
            report=report,
        )
    save(model, chat.tokenizer, out / "start")


def _chat(agent: Agent, settings: Settings) -> Chat:
    """Chat whose tokenizer is trained on the project's prompts and scripted replies."""
    crude = Chat(build_tokenizer(["x"], 300, 1 << 20))
    tasks = envs.lookup(agent.env).tasks("train", 64, first=2_000_000, options=settings.config.env_options)
    trials = demonstrate(
        tasks,
        agent,
        crude,
        settings.config,
        player=lambda seed: FalliblePlayer(crude, seed),
        max_new_tokens=4096,
        max_length=1 << 20,
    )
    corpus = [crude.decode(turn.ids) for trial in trials for turn in trial.turns]
    return Chat(build_tokenizer(corpus, settings.vocabulary, settings.max_length))


def _evaluate(out: Path, settings: Settings, console: Console, name: str, model: Path) -> None:
    config = settings.config
    command = [
        *(sys.executable, "-m", "openrlhf_lamer.cli.main", "eval"),
        *("--model", str(model), "--agent-func", AGENT, "--tasks", str(out / "data" / "eval.jsonl")),
        *("--out", str(out / name), "--attempts", str(config.num_episodes)),
        *("--max-turns", str(config.max_turns), "--context", config.context, "--memory", config.memory),
        *("--temperature", str(settings.eval_temperature), "--max-new-tokens", str(settings.max_new_tokens)),
        *("--max-length", str(settings.max_length), "--seed", str(settings.seed)),
    ]
    follow(console, command, out / "logs" / f"eval-{name}.log", out / name / "trials.jsonl", settings.panel, "trials")


def training_command(out: Path, settings: Settings) -> list[str]:
    """Training command of the quickstart."""
    config = settings.config
    return [
        *(sys.executable, "-m", "openrlhf.cli.train_ppo_ray"),
        *("--agent_func", AGENT),
        *("--algo.advantage.estimator", "lamer_gigpo"),
        *("--actor.model_name_or_path", str(out / "start")),
        *("--data.prompt_dataset", str(out / "data" / "train.jsonl")),
        *("--lamer.num_episodes", str(config.num_episodes), "--lamer.max_turns", str(config.max_turns)),
        *("--lamer.context", config.context, "--lamer.memory", config.memory, "--lamer.reward", config.reward),
        *("--lamer.trials", str(out / "trials.jsonl")),
        *("--rollout.batch_size", str(settings.tasks)),
        *("--rollout.n_samples_per_prompt", str(settings.group)),
        *("--rollout.micro_batch_size", "16"),
        *("--rollout.max_new_tokens", str(settings.max_new_tokens)),
        *("--data.max_len", str(settings.max_length)),
        *("--train.batch_size", str(settings.batch_rows)),
        *("--train.micro_batch_size", "8"),
        *("--train.seed", str(settings.seed)),
        *("--actor.adam.lr", str(settings.learning_rate)),
        *("--algo.advantage.is_correction_level", "token"),
        *("--ckpt.output_dir", str(out / "checkpoint")),
        *("--logger.tensorboard_dir", str(out / "tensorboard")),
    ]


def _train(out: Path, settings: Settings, console: Console) -> None:
    trials = settings.steps * settings.tasks * settings.group
    follow(console, training_command(out, settings), out / "logs" / "train.log", out / "trials.jsonl", trials, "trials")


def require_stack() -> str | None:
    """Message about anything that the quickstart lacks, or None."""
    import importlib.util

    missing = [name for name in ("openrlhf", "vllm", "ray", "deepspeed", "torch") if not importlib.util.find_spec(name)]
    if missing:
        return f"the quickstart needs {', '.join(missing)}: run `make quickstart`, which installs the CPU stack"
    if cpu.cuda_available():
        return "the quickstart trains on the CPU; hide the GPUs (CUDA_VISIBLE_DEVICES=) to run it here"
    return None
