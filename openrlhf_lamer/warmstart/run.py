"""A warm start from start to end: demonstrations, the model, imitation, measures."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from openrlhf_lamer import LamerError, envs
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.progress import Bar
from openrlhf_lamer.records import Task
from openrlhf_lamer.text_chat import TextChat
from openrlhf_lamer.warmstart import demonstrations
from openrlhf_lamer.warmstart.demonstrations import Progress, Rules, demonstrate
from openrlhf_lamer.warmstart.imitation import Imitation, imitate
from openrlhf_lamer.warmstart.measures import Learnt, measure
from openrlhf_lamer.warmstart.model import build_model, build_tokenizer, load, save
from openrlhf_lamer.warmstart.players import PlayerFactory, players

FIRST, MEASURED, CORPUS = 1_000_000, 2_000_000, 3_000_000
"""Numbers of the first training task that is demonstrated, measured on, and read for the tokenizer: beyond those that
training plays, where there are as many."""

CORPUS_TRIALS = 64


class WarmStartError(LamerError, ValueError):
    """The warm start cannot be made as asked."""


@dataclass(frozen=True)
class Size:
    """Size of a model from scratch: a Qwen3 with a tokenizer of the game's own texts.

    Attributes:
        layers: Layers.
        hidden: Width.
        heads: Heads of attention.
        vocabulary: Most tokens of the tokenizer.
    """

    layers: int = 3
    hidden: int = 128
    heads: int = 4
    vocabulary: int = 768


@dataclass(frozen=True)
class Plan:
    """Everything that a warm start is made from.

    Attributes:
        rules: How trials are played.
        trials: Number of demonstrations.
        player: The scripted player, as `players` takes it.
        player_options: Its options.
        model: Folder of a pretrained model, or the size of one from scratch.
        imitation: Settings of imitation.
        measured: Trials that the model is measured on.
    """

    rules: Rules
    trials: int
    player: str | None = None
    player_options: Mapping[str, Any] = field(default_factory=dict)
    model: Path | Size = field(default_factory=Size)
    imitation: Imitation = field(default_factory=Imitation)
    measured: int = 32


def warm_start(plan: Plan, out: Path, bar: Bar) -> Learnt:
    """Make a warm start; writes `demonstrations.jsonl`, `model/` and `warmstart.json` into `out`.

    Raises:
        WarmStartError: Demonstrations failed.
        PlayerError: There is no such player.
    """
    import torch

    began = time.monotonic()
    rules, seed = plan.rules, plan.imitation.seed
    chat, model = _model(plan, seed)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    player = _player(plan, chat)
    trials = demonstrate(
        _tasks(plan, FIRST, plan.trials), rules, chat, player, _counted(bar, "demonstrations", plan.trials)
    )
    failed = [trial.failure for trial in trials if trial.failure is not None]
    if failed:
        raise WarmStartError(f"{len(failed)} of {len(trials)} demonstrations failed; the first: {failed[0].message}")
    demonstrations.write(out / "demonstrations.jsonl", trials)
    advance = bar("imitation", 100)
    loss = imitate(
        model, trials, plan.imitation, lambda done, now: advance(round(100 * done), f"imitation, loss {now:.3f}")
    )
    save(model, chat.tokenizer, out / "model")  # first, since measuring plays the game, which may fail
    turns = [turn for trial in trials for turn in trial.turns]
    # A model that has not learnt to end its replies samples all the tokens that it may each time.
    longest = max(len(turn.sampled_ids) for turn in turns)
    bounded = replace(rules, max_new_tokens=min(rules.max_new_tokens, 2 * longest))
    tasks = _tasks(plan, MEASURED, plan.measured)
    learnt = measure(model, chat, bounded, tasks, player, seed, _counted(bar, "measures", plan.measured))
    figures = {
        **asdict(learnt),
        "loss": loss,
        "demonstrations": len(trials),
        "replies": len(turns),
        "sampled_tokens": sum(len(turn.sampled_ids) for turn in turns),
        "parameters": sum(each.numel() for each in model.parameters()),
        "imitation": asdict(plan.imitation),
        "device": model.device.type,
        "player": plan.player,
        "player_options": dict(plan.player_options),
        "config": rules.config.model_dump(include={"num_episodes", "max_turns", "context", "memory", "env_options"}),
        "seconds": time.monotonic() - began,
    }
    (out / "warmstart.json").write_text(json.dumps(figures, indent=2) + "\n")
    return learnt


def _counted(bar: Bar, text: str, total: int) -> Progress:
    """Progress of a walk over tasks, on a bar."""
    advance = bar(text, total)

    def counted(tasks: Iterable[Task]) -> Iterable[Task]:
        for number, task in enumerate(tasks):
            yield task
            advance(number + 1, text)

    return counted


def _model(plan: Plan, seed: int) -> tuple[Chat, Any]:
    """The model with its chat: a pretrained one, or one from scratch, whose tokenizer is trained on demonstrations."""
    if isinstance(plan.model, Path):
        tokenizer, model = load(plan.model)
        config = plan.rules.config
        return Chat(tokenizer, thinking=config.thinking, context=config.context), model
    size, rules, text = plan.model, plan.rules, TextChat()
    crude = Rules(rules.agent, rules.config, 1 << 20, 1 << 30)  # here a token is a letter
    trials = demonstrate(_tasks(plan, CORPUS, CORPUS_TRIALS), crude, text, _player(plan, text))
    corpus = [text.decode(turn.ids) for trial in trials for turn in trial.turns]
    chat = Chat(build_tokenizer(corpus, size.vocabulary, rules.max_length))
    lengths = {"max_length": rules.max_length, "seed": seed}
    return chat, build_model(chat.tokenizer, hidden=size.hidden, layers=size.layers, heads=size.heads, **lengths)


def _player(plan: Plan, chat: Chat) -> PlayerFactory:
    """The player, whose draws follow from the trial's number and the seed."""
    make = players(plan.player, chat, plan.rules.agent, plan.rules.config, plan.player_options)
    return lambda number: make(plan.imitation.seed * FIRST + number)


def _tasks(plan: Plan, first: int, count: int) -> list[Task]:
    env, options = envs.lookup(plan.rules.agent.env), plan.rules.config.env_options
    try:
        return env.tasks("train", count, first=first, options=options)
    except envs.TaskError:
        # A data set ends before these numbers: demonstrate its first tasks, and measure on those that follow.
        own = env.tasks("train", options=options)
        begin = plan.trials if first == MEASURED else 0
        return [own[(begin + number) % len(own)] for number in range(count)]
