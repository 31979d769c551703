"""Learning itself: on doors, through the real host, LaMer learns to look first, to write it down, and to use it.

The memory is of reflections only, so that the gain needs all three: credit for an exploring play turn from a later
episode, credit for a remark, and play that heeds it. The test fails if any of these is not trained.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from host_runs import LIMIT, finish, start

from openrlhf_lamer.evaluation.statistics import success
from openrlhf_lamer.quickstart.report import evaluated
from openrlhf_lamer.quickstart.run import plan
from openrlhf_lamer.quickstart.settings import QUICKSTARTS, Arm
from openrlhf_lamer.records import Trial

for package in ("openrlhf", "vllm", "deepspeed", "ray"):
    pytest.importorskip(package)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

DOORS = QUICKSTARTS["doors"]
SETTINGS = replace(
    DOORS,
    config=DOORS.config.model_copy(update={"memory": "reflection"}),
    arms=(Arm("lamer", "LaMer", 3, 8),),
    demonstrations=3000,
    passes=2.5,
)


def test_lamer_learns_to_explore_to_remark_and_to_use_the_remark(tmp_path: Path) -> None:
    *prepare, training = plan(tmp_path, SETTINGS)
    for stage in prepare:
        subprocess.run(stage.command, check=True, timeout=LIMIT, capture_output=True)
    _, _, *command = training.command
    finish(start(command, training.folder), training.folder)
    before, after = evaluated(tmp_path, SETTINGS).values()
    assert lamp_first(after) > lamp_first(before) + 0.2
    assert told(after) > told(before) + 0.2
    assert success(after, 3).low > success(before, 3).high


def lamp_first(trials: list[Trial]) -> float:
    """Share of first attempts that burn the lamp."""
    return sum(trial.episodes[0].turns[-1].did == "lamp" for trial in trials) / len(trials)


def told(trials: list[Trial]) -> float:
    """Share of remarks after a burned lamp that name the prize."""
    looked = [e for t in trials for e in t.episodes if e.reflection is not None and e.turns[-1].did == "lamp"]
    return sum(e.final_observation.rstrip(".").split()[-1] in (e.remark or "") for e in looked) / max(1, len(looked))
