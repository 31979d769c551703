"""ALFWorld: the environment (`env`), its tasks (`catalogue`), generated games (`generator`), its engine (`games`)."""

from __future__ import annotations

from openrlhf_lamer.envs.alfworld.catalogue import (
    IN_DISTRIBUTION,
    OUT_OF_DISTRIBUTION,
    TASK_TYPES,
    official_folder,
    official_tasks,
)

__all__ = ["IN_DISTRIBUTION", "OUT_OF_DISTRIBUTION", "TASK_TYPES", "official_folder", "official_tasks"]
