"""Ray's remote classes, opened up so that they can be subclassed."""

from __future__ import annotations

from typing import Any


def plain_class(actor_class: Any) -> Any:
    """The class behind `@ray.remote`: a remote class itself can't be a base."""
    return actor_class.__ray_metadata__.modified_class
