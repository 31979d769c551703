"""Measures of a model after imitation: whether it can do what training is to build on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openrlhf_lamer.chat import Chat
from openrlhf_lamer.metrics import summarize
from openrlhf_lamer.policies.base import EngineError, Generation, Request
from openrlhf_lamer.records import Phase, Task
from openrlhf_lamer.rows import Row, Span
from openrlhf_lamer.warmstart.demonstrations import Progress, Rules, demonstrate
from openrlhf_lamer.warmstart.imitation import scored
from openrlhf_lamer.warmstart.players import PlayerFactory


@dataclass(frozen=True)
class Learnt:
    """Skill of a model after imitation.

    Attributes:
        valid_actions: Share of the model's own actions that the environment accepts.
        valid_remarks: Share of its reflections that hold a remark; None without reflections.
        certain: Mean probability of the player's reply in turns in which the player knew the right action, such as the
            right door after the lamp has shown it; None if it never knew.
        certain_turns: Number of these turns.
        success: Share of the model's own trials that are won within 1, 2, ... episodes.
        trials: Number of its trials.
    """

    valid_actions: float
    valid_remarks: float | None
    certain: float | None
    certain_turns: int
    success: tuple[float, ...]
    trials: int


class ModelPolicy:
    """Replies of a Hugging Face model, sampled one after another at temperature 1: for measures, not for speed."""

    def __init__(self, model: Any, chat: Chat) -> None:
        self._model, self._chat = model, chat
        model.set_attn_implementation("sdpa")  # imitation sets one that only a forest can use

    async def generate(self, request: Request) -> Generation:
        """A sampled reply."""
        import torch

        ids = torch.tensor([request.prompt_ids], device=self._model.device)
        with torch.no_grad():
            found = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=request.max_tokens,
                eos_token_id=list(self._chat.end_of_reply) or None,
                pad_token_id=(self._chat.end_of_reply or (0,))[-1],
            )
        reply = tuple(found[0, ids.shape[1] :].tolist())
        return Generation(reply, None, truncated=reply[-1:] != self._chat.end_of_reply[-1:])


def measure(
    model: Any,
    chat: Chat,
    rules: Rules,
    tasks: Sequence[Task],
    player: PlayerFactory,
    seed: int,
    progress: Progress = iter,
) -> Learnt:
    """Measure a model on tasks that it has seen no demonstration of.

    Args:
        model: The model.
        chat: Its chat.
        rules: How trials are played.
        tasks: Tasks, each played by the model and by the player.
        player: Makes the scripted player.
        seed: Seed of sampling.
        progress: Wraps the tasks that the model plays.
    """
    import torch

    torch.manual_seed(seed)
    model.eval()
    policy = ModelPolicy(model, chat)
    own = demonstrate(tasks, rules, chat, lambda number: policy, progress)
    if failed := [trial.failure for trial in own if trial.failure is not None]:
        raise EngineError(f"{len(failed)} of {len(own)} trials of the model failed; the first: {failed[0].message}")
    found = summarize(own, rules.config.num_episodes, rules.config.gamma_traj)
    certain = _certain(model, chat, rules, tasks, player)
    return Learnt(
        valid_actions=1 - found.get("invalid_actions", 1.0),
        valid_remarks=found.get("reflection_valid"),
        certain=float(np.mean(certain)) if certain else None,
        certain_turns=len(certain),
        success=tuple(found[f"success@{k}"] for k in range(1, rules.config.num_episodes + 1)),
        trials=len(own),
    )


def _certain(
    model: Any, chat: Chat, rules: Rules, tasks: Sequence[Task], player: PlayerFactory, batch: int = 32
) -> list[float]:
    """Probability of each of the player's replies in which it knew the right action."""
    import torch

    players: dict[int, Any] = {}

    def remembered(number: int) -> Any:
        return players.setdefault(number, player(number))

    trials = demonstrate(tasks, rules, chat, remembered)
    rows = []
    for number, trial in enumerate(trials):
        played = [turn for turn in trial.turns if turn.phase is Phase.PLAY]
        for turn, certain in zip(played, players[number].certain, strict=False):
            if certain:
                start = len(turn.prompt_ids)
                rows.append(Row(turn.ids, (Span(0, start, len(turn.ids), None),)))
    found: list[float] = []
    with torch.no_grad():
        for start in range(0, len(rows), batch):
            log_probs, sampled, _ = scored(model, rows[start : start + batch])
            found += (log_probs * sampled).sum(1).exp().tolist()
    return found
