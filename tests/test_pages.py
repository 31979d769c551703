"""Pages of advice: names exist, defaults are right, and quoted messages are in the code."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from page_blocks import ROOT, blocks_of
from typer.testing import CliRunner

from openrlhf_lamer import advantage
from openrlhf_lamer.advantage import CreditConfig
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.config import LamerConfig

TEXTS = {file.stem: file.read_text("utf-8") for file in (*(ROOT / "docs").glob("*.md"), ROOT / "README.md")}
ADVICE, TROUBLE = TEXTS["hyper-parameters"], TEXTS["troubleshooting"]
TRAINING = ("python -m openrlhf_lamer.cli.train_ppo_ray", "python -m openrlhf.cli.train_ppo_ray")
FIGURE = r"\d+\.\d+%?|\d+%|\d+,\d+"
HIDDEN = re.compile(r"…+")
"""Stands in a quoted message for what varies."""


def spans(text: str) -> list[str]:
    """Pieces of code in a text, without those in blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


def code(text: str) -> list[str]:
    """Command lines in blocks, and spans."""
    lines = [line for block in blocks_of(text, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [line.partition("  #")[0].strip() for line in lines if line.strip()] + spans(text)


def cells(text: str, title: str) -> list[list[str]]:
    """Rows of the first table under a heading."""
    _, _, rest = text.partition(f"\n## {title}\n")
    table = re.findall(r"(?:^\|.*\|\n)+", rest, re.MULTILINE)[0]
    return [line.strip("|").split("|") for line in table.splitlines()[2:]]


@cache
def training_flags() -> dict[str, object]:
    """Every flag of training, and its default."""
    from openrlhf_lamer.integration.host import DEFAULTS, host_parser

    known = {action.dest: action.default for action in host_parser()._actions} | dict(DEFAULTS)
    known |= {f"lamer.{name}": info.default for name, info in LamerConfig.flags().items()}
    return known | {"agent_func": None, "lamer.config": None, "help-host": None}


@pytest.mark.parametrize(
    ("page", "least"),
    [
        ("host-options", 25),
        ("cluster", 5),
        ("from-other-projects", 60),
        ("hyper-parameters", 50),
        ("reading-a-run", 25),
        ("troubleshooting", 25),
    ],
)
def test_flags_of_training_exist(page: str, least: int) -> None:
    pytest.importorskip("openrlhf")
    named = set()
    for piece in code(TEXTS[page]):
        if piece.startswith(("--", *TRAINING)):
            named |= set(re.findall(r"(?<!\S)--([\w.-]+\w)(?![\w*])", piece))
    known = training_flags()
    groups = {name for name in named if any(flag.startswith((f"{name}.", f"{name}_")) for flag in known)}
    assert len(named) > least
    assert named - groups - {*known} == set()


def commands(text: str) -> list[str]:
    return [piece for piece in code(text) if piece.startswith("openrlhf-lamer ")]


@pytest.mark.parametrize("page", [name for name, text in TEXTS.items() if commands(text)])
def test_commands_and_their_options_exist(page: str) -> None:
    """Words in capitals stand for what a user names."""
    for line in commands(TEXTS[page]):
        words = [word for word in shlex.split(line)[1:] if not word.isupper()]
        command: Any = typer.main.get_command(app)
        while words and not words[0].startswith("-") and hasattr(command, "get_command"):
            command = command.get_command(typer.Context(command), words.pop(0))
            assert command is not None, line
        options = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        if command.context_settings.get("ignore_unknown_options"):  # a training by a recipe takes its flags too
            options |= {f"--{flag}" for flag in training_flags()}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, line


def test_hyper_parameters_have_the_defaults_that_the_page_states() -> None:
    pytest.importorskip("openrlhf")
    rows = cells(ADVICE, "Defaults")
    assert len(rows) > 25
    known = training_flags()
    for flag, stated, *_ in rows:
        name = flag.strip(" `").removeprefix("--")
        default = known[name]
        words = map(str, default) if isinstance(default, tuple) else [str(default).replace("None", "none")]
        assert stated.strip(" `") == " ".join(words), name


def test_the_estimators_own_norm_and_form_stand_where_no_flag_is_given() -> None:
    settled = {name: advantage.get(name).settle(CreditConfig()) for name in advantage.names()}
    assert {name for name, own in settled.items() if own.cross_episode != "paper"} == {"lamer_ppo"}
    assert "`lamer_ppo` needs one of the last two" in ADVICE


def test_each_estimator_has_its_advice() -> None:
    named = {name for row in cells(ADVICE, "Estimator") for name in re.findall(r"`([^`]+)`", row[0])}
    bundled = {name for name in advantage.names() if name.startswith("lamer_")}
    assert named == bundled | {"group_norm", "rloo"}


@pytest.mark.parametrize("row", cells(ADVICE, "Measurements"), ids=lambda row: row[0].strip())
def test_figures_are_those_of_the_page_that_they_come_from(row: list[str]) -> None:
    ((page, anchor),) = re.findall(r"\]\(([\w-]+\.md)#([\w-]+)\)", row[2])
    source = (ROOT / "docs" / page).read_text("utf-8")
    parts = re.split(r"^#+ (.+)$", source, flags=re.MULTILINE)
    titles = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in parts[1::2]]
    section = parts[2 * titles.index(anchor) + 2]
    figures = re.findall(FIGURE, row[1])
    assert figures
    assert [figure for figure in figures if figure not in section] == []


def test_the_papers_figures_are_those_that_the_experiments_compare_with() -> None:
    figures = tomllib.loads((ROOT / "scripts/experiments/paper.toml").read_text("utf-8"))["memory"]["figures"]
    rows = cells(ADVICE, "Memory of earlier attempts")
    stated = {row[0].strip(): [float(cell) for cell in row[1:]] for row in rows}
    assert stated == {name: [own["Sokoban"], own["MineSweeper"], own["WebShop"]] for name, own in figures.items()}


def test_its_sums_are_right() -> None:
    for n in (8, 24):
        assert f"{1 - 0.05**n - 0.95**n:.0%} with n = {n}" in ADVICE
    assert f"leaves {0.95**6:.2f} of a win" in ADVICE


@pytest.mark.parametrize("number", [0, 1])
def test_its_starting_points_pass_the_checks_of_training(
    number: int, base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a model of this machine and fewer tasks."""
    pytest.importorskip("openrlhf")
    from openrlhf_lamer.integration.launch import launcher

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launcher.cluster, "find", lambda: None)
    block = [each for each in blocks_of(ADVICE, "bash") if "train_ppo_ray" in each][number]
    *prepare, train = block.replace("\\\n", "").splitlines()
    for line in prepare:
        result = CliRunner().invoke(app, shlex.split(line.replace("4096", "40"))[1:])
        assert result.exit_code == 0, result.output
    plan = launcher.prepare([*shlex.split(train)[3:], *base[2:4]])
    assert plan.estimator == ("lamer_hgpo", "lamer_gigpo")[number]
    assert plan.gpus == (1, 16)[number]


@cache
def said() -> tuple[str, ...]:
    """Every text of the package's code, with `…` for what is filled in."""
    texts = []
    for file in (ROOT / "openrlhf_lamer").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values)
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return tuple(texts)


def quoted() -> list[str]:
    """Messages that the page on trouble quotes as ours."""
    return [message for line in re.findall(r"^Ours: (.+)$", TROUBLE, re.MULTILINE) for message in spans(line)]


@pytest.mark.parametrize("message", quoted())
def test_messages_that_are_quoted_as_ours_are_said(message: str) -> None:
    """The fixed parts of a message stand in one text of the code, in this order."""
    pattern = ".*".join(map(re.escape, HIDDEN.split(message)))
    assert len(HIDDEN.sub("", message)) > 15, "too short to be told from others"
    assert any(re.search(pattern, text, re.DOTALL) for text in said())


def test_each_trouble_has_a_cause_and_a_remedy() -> None:
    entries = re.split(r"^### ", TROUBLE.partition("\n## Questions\n")[0], flags=re.MULTILINE)[1:]
    assert len(entries) > 20
    for entry in entries:
        assert "**Cause.**" in entry, entry
        assert "**Remedy.**" in entry, entry
    assert len(quoted()) > 15
