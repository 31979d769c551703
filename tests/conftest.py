"""Fixtures that several test files share: a small tokenizer, its chat, and a way to play a trial."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stand_ins import host_strategy

from openrlhf_lamer import envs
from openrlhf_lamer.agents import Agent, load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.policies import Policy
from openrlhf_lamer.records import Task, Trial
from openrlhf_lamer.tasks import seeded_tasks, write_dataset
from openrlhf_lamer.trial import run_trial

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Models here are tiny: more threads only wait for each other, very long on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CORPUS = [
    "You are playing MineSweeper. Row 1: ? ? . 1 * The board now: <action>(1, 2)</action> <remark>a mine</remark>",
    "You are playing Sokoban. 0: # # # _ O X √ P S up, down, left, right. The state now.",
]


@pytest.fixture(scope="session", autouse=True)
def kept_games(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep environments' files of this test session in a folder of their own, not in the user's."""
    os.environ["OPENRLHF_LAMER_CACHE"] = str(tmp_path_factory.mktemp("kept"))


@pytest.fixture(scope="session")
def other_python() -> str:
    """The other one of Python 3.11 and 3.12, without any packages."""
    version = "3.12" if sys.version_info[:2] == (3, 11) else "3.11"
    found = shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")
    for path in filter(None, found):
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        if subprocess.run([path, "-c", code], capture_output=True, text=True, check=False).stdout.strip() == version:
            return str(path)
    pytest.skip(f"no Python {version} found to compare with")


@pytest.fixture(scope="session")
def need() -> Callable[[str], None]:
    """Skips the test, with the reason, if an environment's requirements are not installed."""

    def installed(name: str) -> None:
        try:
            envs.make(name).close()
        except (envs.TaskError, ImportError) as error:
            pytest.skip(f"{name}: {error}")

    return installed


@pytest.fixture(scope="session")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path | str, str], str]:
    """Opens a file or an address with a `#` fragment, and returns the page as the browser renders it.

    It is HTML without code and data.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")

    profile = tmp_path_factory.mktemp("profile")

    def run(page: Path | str, address: str) -> str:
        quiet = ("--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}")
        opened = page if isinstance(page, str) else f"file://{page}"
        dumped = subprocess.run(
            [chromium, *flags, *quiet, "--virtual-time-budget=3000", "--dump-dom", f"{opened}#{address}"],
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        ).stdout
        return re.sub(r"<(script|style)\b.*?</\1>", "", dumped, flags=re.DOTALL)

    return run


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    pytest.importorskip("transformers")
    from openrlhf_lamer.warmstart.model import build_tokenizer

    return build_tokenizer(CORPUS, 400, 16384)


@pytest.fixture(scope="session")
def chat(tokenizer: Any) -> Chat:
    return Chat(tokenizer)


@pytest.fixture(scope="session")
def minesweeper() -> Agent:
    return load_agent("openrlhf_lamer.agents.minesweeper")[0]


@pytest.fixture
def play(chat: Chat, minesweeper: Agent) -> Callable[..., Trial]:
    """Plays one trial with a policy; keyword arguments become the configuration."""

    def run(
        policy: Policy,
        *,
        seed: int = 0,
        agent: Agent | None = None,
        max_new_tokens: int = 64,
        max_length: int = 9000,
        sample: int = 0,
        sampling_seed: int | None = None,
        **config: Any,
    ) -> Trial:
        agent = agent or minesweeper
        return asyncio.run(
            run_trial(
                Task(agent.env, seed=seed),
                agent,
                policy,
                chat,
                LamerConfig(**config),
                max_new_tokens=max_new_tokens,
                max_length=max_length,
                sample=sample,
                seed=sampling_seed,
            )
        )

    return run


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shortest valid command line."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # a Ray that runs on this machine is not to be joined
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    write_dataset(tmp_path / "train.jsonl", seeded_tasks("minesweeper", "train", 32))
    return [
        *("--agent_func", "openrlhf_lamer.agents.minesweeper"),
        *("--actor.model_name_or_path", str(tmp_path / "model")),
        *("--data.prompt_dataset", str(tmp_path / "train.jsonl")),
    ]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes a generator of trials on simulated engines."""
    from simulated_engines import generator_on_simulated

    return partial(generator_on_simulated, monkeypatch)


@pytest.fixture
def maker() -> Callable[..., Any]:
    """Makes an experience maker of the host that calls no model, by default for groups of four.

    Log-probabilities and divergences are zero, the critic's values random.
    """
    import torch

    from openrlhf_lamer.integration.training.experience_maker import LamerExperienceMaker

    def make(
        estimator: str,
        *,
        config: LamerConfig | None = None,
        gamma: float = 1.0,
        ranks: int = 1,
        group: int = 4,
        forest: bool = True,
    ) -> LamerExperienceMaker:
        strategy = host_strategy(
            {
                "algo.advantage.estimator": estimator,
                "algo.advantage.gamma": gamma,
                "algo.advantage.lambd": 0.9,
                "algo.advantage.no_std_norm": False,
                "algo.kl.use_loss": False,
                "rollout.n_samples_per_prompt": group,
                "rollout.micro_batch_size": 3,
                "rollout.max_new_tokens": 64,
                "rollout.max_tokens_per_gpu": None,
                "train.max_tokens_per_gpu": 8192,
                "train.micro_batch_size": 3,
                "train.batch_size": 8,
                "train.seed": 42,
                "actor.num_nodes": 1,
                "actor.num_gpus_per_node": ranks,
                "ds.ring_attn_size": 1,
                "ds.tensor_parallel_size": 1,
                "reward.clip_range": (-100, 100),
                "reward.overlong_buffer_len": None,
                "reward.stop_properly_penalty_coef": None,
            }
        )
        tokenizer: Any = SimpleNamespace(pad_token_id=0)
        kl: Any = SimpleNamespace(value=0.0)
        nothing: Any = None
        given: dict[str, Any] = {"config": config or LamerConfig(), "estimator": estimator, "forest": forest}
        made = LamerExperienceMaker(nothing, nothing, nothing, nothing, kl, strategy, tokenizer, **given)

        def score(samples_list: list[Any]) -> list[Any]:
            generator = torch.Generator().manual_seed(0)
            for sample in samples_list:
                sample.action_log_probs = torch.zeros(sample.action_mask.shape)
                sample.kl = torch.zeros(sample.action_mask.shape)
                if estimator in ("gae", "lamer_ppo"):
                    sample.values = torch.rand(sample.action_mask.shape, generator=generator) * sample.action_mask
                sample.info["kl"] = (sample.kl * sample.action_mask).sum(-1) / sample.action_mask.sum(-1)
            return samples_list

        made.make_experience = score
        return made

    return make
