"""Plain classes behind Ray's remote classes, for subclassing."""

from __future__ import annotations

from typing import Any


def plain_class(actor_class: Any) -> Any:
    """The class behind `@ray.remote`, since a remote class can't be subclassed."""
    return actor_class.__ray_metadata__.modified_class
