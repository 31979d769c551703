"""The scaled return as the advantage."""

from __future__ import annotations

from dataclasses import dataclass, field

from openrlhf_lamer.advantage import CreditConfig, TurnTable, register
from openrlhf_lamer.advantage.table import FloatArray


@dataclass(frozen=True)
class CorridorOptions:
    """Scale of the return."""

    scale: float = field(default=1.0, metadata={"gt": 0, "description": "Factor on the return in a corridor."})


@register("corridor_return", needs_group=False, options=CorridorOptions)
def estimate(table: TurnTable, config: CreditConfig, options: CorridorOptions) -> FloatArray:
    """Return without a baseline; [turns]."""
    return options.scale * table.returns
