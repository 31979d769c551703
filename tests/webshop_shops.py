"""WebShop's small catalogue and ways to play it, for several test files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from openrlhf_lamer.envs import Task, make
from openrlhf_lamer.envs.webshop.env import WebShop
from openrlhf_lamer.envs.webshop.stored import prepare

DATA = Path(__file__).parent / "data" / "webshop"
"""Fourteen rows in the original's form, written for these tests; and what was recorded on them."""


def shop_env(**options: Any) -> WebShop:
    env = make("webshop", **options)
    assert isinstance(env, WebShop)
    return env


def copy_data(folder: Path) -> Path:
    folder.mkdir()
    for file in DATA.glob("items_*.json"):
        shutil.copy(file, folder)
    return folder


def goal_task(env: WebShop, goal: int) -> Task:
    return Task("webshop", spec={"goal": goal, "catalogue": env.shop.catalogue})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> WebShop:
    """The small catalogue, prepared."""
    folder = tmp_path_factory.mktemp("small") / "data"
    copy_data(folder)
    prepare(folder, None, "human")
    return shop_env(data=str(folder), goals="human")


@pytest.fixture
def synthetic() -> WebShop:
    return shop_env(data="synthetic")
