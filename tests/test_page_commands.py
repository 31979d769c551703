"""Every shell command on a page: the program that it calls accepts it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from page_blocks import PAGES, ROOT, blocks
from page_commands import UnknownCommandError, check_block

from openrlhf_lamer import LamerError
from openrlhf_lamer.config import ConfigError


def test_shell_blocks_are_called_bash() -> None:
    """And are neither in a list nor in a tab, where `blocks` would not see them."""
    for page in PAGES:
        fences = re.findall(r"^(.*)```(\w*)$", page.read_text("utf-8"), re.MULTILINE)
        assert [fence for fence in fences if fence[0] or fence[1] in ("sh", "shell", "console")] == [], page


@pytest.fixture(autouse=True)
def in_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openrlhf")
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "bash")], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_commands_of_a_page_are_known(page: Path) -> None:
    assert sum(map(check_block, blocks(page, "bash"))) > 0


@pytest.mark.parametrize(
    ("block", "error", "named"),
    [
        ("openrlhf-lamer trains", UnknownCommandError, "no command trains"),
        ("openrlhf-lamer prepare task --env doors", UnknownCommandError, "no command task"),
        ("openrlhf-lamer play doors --tries 3", UnknownCommandError, "--tries"),
        ("openrlhf-lamer eval --out runs/x", UnknownCommandError, "parameter: tasks"),
        ("python -m openrlhf_lamer.cli.train_ppo_ray ... --lamer.gama_traj 1", ConfigError, "--lamer.gamma_traj"),
        ("python -m openrlhf_lamer.cli.train_ppo_ray ... --ds.packing_samples", ConfigError, "--ds.packing_samples"),
        ("ray job submit -- python -m openrlhf.cli.train_ppo_ray ... --actor.lr 1", ConfigError, "--actor.lr"),
        ("openrlhf-lamer train recipes/sokoban/nothing.toml", LamerError, "nothing.toml"),
        ("openrlhf-lamer train recipes/sokoban/lamer.toml --lamer.norms mean", LamerError, "--lamer.norms"),
        ("python scripts/nothing.py", UnknownCommandError, "scripts/nothing.py"),
        ("python scripts/learning run doors --hours 3", UnknownCommandError, "--hours"),
        ("python -m openrlhf_lamer.nothing", UnknownCommandError, "openrlhf_lamer.nothing"),
        ("make venv && make everything", UnknownCommandError, "everything"),
        ("pip install 'openrlhf-lamer[cpu]'", UnknownCommandError, "extras are"),
        (".venv/bin/pytest tests/test_nothing.py", UnknownCommandError, "tests/test_nothing.py"),
        ("sbatch scripts/cluster/slurm.sbatch", UnknownCommandError, "needs a mark"),
    ],
)
def test_one_that_is_not_is_named(block: str, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        check_block(block)


def test_a_mark_lets_other_programs_pass_and_ours_not() -> None:
    assert check_block("# needs a cluster\nsbatch scripts/cluster/slurm.sbatch > log  # a job\n") == 1
    with pytest.raises(UnknownCommandError):
        check_block("# needs a cluster\nopenrlhf-lamer trains\n")
