"""The modules of `scripts/experiments`, and a setup of theirs, for several test files."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from script_folder import importable

with importable("experiments") as SCRIPTS:
    plans: Any = importlib.import_module("plans")
    tables: Any = importlib.import_module("tables")
    budget: Any = importlib.import_module("budget")


@pytest.fixture
def setup(tmp_path: Path) -> Any:
    return plans.Setup("/models/Qwen3-4B", tmp_path / "runs", seeds=(0, 1), gpus=8)
