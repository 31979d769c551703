"""WebShop's small catalogue and ways to play it, for several test files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from openrlhf_lamer.envs import Task, make
from openrlhf_lamer.envs.webshop.env import WebShop

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
