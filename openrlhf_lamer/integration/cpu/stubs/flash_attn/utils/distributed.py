"""Collective operations, which only ring attention would call."""

from __future__ import annotations

from typing import NoReturn


def all_gather(*args: object, **kwargs: object) -> NoReturn:
    """Refuse: ring attention needs the real package and CUDA."""
    raise NotImplementedError("ring attention needs flash_attn, which CPU mode only stands in for")
