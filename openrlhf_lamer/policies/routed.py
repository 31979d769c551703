"""Policies for trials in which one policy plays and another reflects."""

from __future__ import annotations

from collections.abc import Sequence

from openrlhf_lamer.policies.base import Generation, Policy, Request
from openrlhf_lamer.records import Phase, Turn


class RoutedPolicy:
    """One policy plays and another reflects. Both take and give ids of the same tokenizer."""

    def __init__(self, play: Policy, reflect: Policy) -> None:
        self._by_phase = {Phase.PLAY: play, Phase.REFLECT: reflect}

    async def generate(self, request: Request) -> Generation:
        """Reply of the policy of the request's phase."""
        return await self._by_phase[request.phase].generate(request)


class ReplayPolicy:
    """Repeats recorded replies: reflection n on episode n, and the last one on later episodes.

    Args:
        turns: Recorded turns, at least one.
    """

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = tuple(turns)

    async def generate(self, request: Request) -> Generation:
        """The recorded reply."""
        turn = self._turns[min(request.episode, len(self._turns) - 1)]
        return Generation(
            tuple(turn.sampled_ids), None if turn.logprobs is None else tuple(turn.logprobs), turn.truncated
        )


class SilentPolicy:
    """Ends every reply at once: a reflection without a remark.

    Args:
        end_of_reply: Token ids that end a reply (`Chat.end_of_reply`).
    """

    def __init__(self, end_of_reply: Sequence[int]) -> None:
        self._reply = Generation(tuple(end_of_reply), None, truncated=False)

    async def generate(self, request: Request) -> Generation:
        """A reply without content."""
        return self._reply
