"""The pages that show code: it runs as written."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from page_blocks import DOCS, PAGES, ROOT, blocks
from typer.testing import CliRunner

from openrlhf_lamer import __version__, advantage, envs, manifest
from openrlhf_lamer.advantage import CreditConfig
from openrlhf_lamer.advantage.registry import scoped as registered_estimators
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.envs import registry
from openrlhf_lamer.policies.scripted import RandomPolicy
from openrlhf_lamer.records import Phase, Task, Trial, Turn
from openrlhf_lamer.trial import run_trial

FOLDERS = "|".join(("benchmarks", "docs", "openrlhf_lamer", "recipes", "requirements", "scripts", "tests"))

RENDER = runpy.run_path(str(ROOT / "scripts" / "render_prompts.py"))


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        name, _, heading = link.partition("#")
        if "://" in name:
            continue
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not heading or heading in headings(target), link


@pytest.mark.parametrize("page", ["AGENTS.md", "CONTRIBUTING.md"])
def test_the_guides_name_files_that_there_are(page: str) -> None:
    named = re.findall(rf"`(?:python )?((?:{FOLDERS})/[\w/.-]+)`", (ROOT / page).read_text("utf-8"))
    assert len(named) > 3
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", ["AGENTS.md", "CONTRIBUTING.md", "README.md"])
def test_make_has_the_targets_that_are_named(page: str) -> None:
    named = set(re.findall(r"(?:^|`)make ([\w-]+)", (ROOT / page).read_text("utf-8"), re.MULTILINE))
    assert named
    assert named <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def test_before_a_commit_runs_a_ruff_that_the_project_allows() -> None:
    (version,) = re.findall(r"rev: v(\S+)", (ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    (allowed,) = re.findall(r'"ruff(\S+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert version in SpecifierSet(allowed)


def test_the_citation_names_this_version() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


@pytest.mark.parametrize("name", RENDER["AGENTS"])
def test_the_pages_of_prompts_are_up_to_date(name: str, need: Callable[[str], None]) -> None:
    need(load_agent(f"openrlhf_lamer.agents.{name}")[0].env)
    written = (DOCS / "prompts" / f"{name}.md").read_text("utf-8")
    assert RENDER["page"](name) == written, "run scripts/render_prompts.py"


class TestEnvironments:
    PAGE = "environments.md"

    @pytest.mark.parametrize("name", envs.names(plugins=False))
    def test_its_tables_hold_every_option(self, name: str) -> None:
        sections = re.split(r"\n##+ ", (DOCS / self.PAGE).read_text("utf-8"))
        (section,) = (each for each in sections if each.lower().startswith(f"{name}\n"))
        rows = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
        assert sorted(rows) == sorted(inspect.signature(envs.lookup(name)).parameters)

    def test_it_lists_every_panel(self) -> None:
        (table,) = re.findall(r"^\| panel .*?\n\n", (DOCS / self.PAGE).read_text("utf-8"), re.DOTALL | re.MULTILINE)
        listed = {part.rpartition("/")[2] for part in re.findall(r"`([^`]+)`", table)}
        assert listed == {name.rpartition("/")[2] for name in manifest.names()}

    def test_its_code_runs(self) -> None:
        names: dict[str, Any] = {}
        exec(blocks(self.PAGE, "python")[0], names)
        assert names["step"].valid
        assert names["step"].observation.text != names["env"].reset(names["Task"]("sokoban", seed=7)).text

    @pytest.mark.parametrize("line", blocks(PAGE, "bash")[0].splitlines())
    def test_its_first_commands_run(self, line: str) -> None:
        result = CliRunner().invoke(app, shlex.split(line)[1:], input="")
        assert result.exit_code == 0, result.output


def test_the_commands_for_several_games(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer tasks; and an agent with another number of turns may stand in for one of them."""
    pytest.importorskip("openrlhf")
    from openrlhf_lamer.integration.launch import launcher

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launcher.cluster, "find", lambda: None)
    (block,) = (each for each in blocks("environments.md", "bash") if "prepare mix" in each)
    *prepare, train = block.replace("\\\n", "").splitlines()
    for line in prepare:
        result = CliRunner().invoke(app, shlex.split(line.replace("4096", "60"))[1:])
        assert result.exit_code == 0, result.output
    assert "90 tasks (30 minesweeper, 60 sokoban)" in CliRunner().invoke(app, shlex.split(prepare[2])[1:]).output
    flags = shlex.split(train)[3:]
    assert len(launcher.prepare(flags).agent_files) == 3

    (code,) = (each for each in blocks("environments.md", "python") if "replace(sokoban.agent" in each)
    (tmp_path / "longer.py").write_text(code)
    agents = flags[flags.index("--agent_func") + 1].replace("openrlhf_lamer.agents.sokoban", "longer.py")
    plan = launcher.prepare([*flags, "--agent_func", agents])
    assert plan.agent_files[0] == tmp_path / "longer.py"
    agent, _ = load_agent("longer.py")
    assert (agent.env, agent.max_turns) == ("sokoban", 10)


class TestReadme:
    PAGE = "../README.md"

    def test_its_first_screen_is_five_lines_a_picture_and_two_commands(self) -> None:
        first, _, _ = (ROOT / "README.md").read_text("utf-8").partition("\n## ")
        title, text, picture, block = first.strip().split("\n\n")
        assert title == "# openrlhf-lamer"
        assert len(text.splitlines()) == 5
        assert picture.endswith("(docs/img/quickstart.png)")
        assert [line.split("#")[0].strip() for line in block.splitlines()[1:-1]] == ["make quickstart", "make test"]

    def test_its_start_without_torch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (block,) = (each for each in blocks(self.PAGE, "bash") if each.startswith("pip install .\n"))
        monkeypatch.chdir(tmp_path)
        heavy = ("torch", "transformers", "ray", "vllm", "openrlhf", "deepspeed")
        code = (
            f"import sys; sys.modules.update(dict.fromkeys({heavy}))\nfrom openrlhf_lamer.cli.main import main; main()"
        )
        printed = []
        for line in block.splitlines()[1:]:
            command = [sys.executable, "-c", code, *shlex.split(line, comments=True)[1:]]
            result = subprocess.run(command, input="", capture_output=True, text=True, timeout=100, check=False)
            assert result.returncode == 0, result.stderr
            printed.append(result.stdout)
        assert "0 of 1 won" in printed[0]
        assert "success@3" in printed[1]
        assert printed[2] == "128 trials in trials.html\n"


class TestThePapersSettings:
    """The table of what the paper's text and its scripts set, and what is the default here."""

    @pytest.fixture
    def here(self) -> dict[str, str]:
        """The last column, by the first one."""
        _, _, section = (DOCS / "from-other-projects.md").read_text("utf-8").partition("\n### The paper's text and")
        lines = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("| ")]
        return {line.strip("| ").split(" | ")[0]: line.strip("| ").split(" | ")[-1] for line in lines[1:]}

    def test_it_states_our_defaults(self, here: dict[str, str]) -> None:
        pytest.importorskip("openrlhf")
        from openrlhf_lamer.integration.host import DEFAULTS, host_parser

        stated = dict(re.findall(r"(?<!give )`--([\w.]+) ([^`]+)`", " ".join(here.values())))
        assert len(stated) > 15
        defaults = {action.dest: action.default for action in host_parser()._actions} | dict(DEFAULTS)
        defaults |= {f"lamer.{name}": info.default for name, info in LamerConfig.model_fields.items()}
        defaults["lamer.cross_episode"] = advantage.get("lamer_gigpo").settle(CreditConfig()).cross_episode
        for flag, value in stated.items():
            default = defaults[flag]
            words = map(str, default) if isinstance(default, tuple) else [str(default).replace("None", "none")]
            assert value == " ".join(words), flag

    def test_agents_have_the_turns_of_its_scripts(self) -> None:
        """Sokoban and MineSweeper 7, WebShop 12, ALFWorld 10 and in evaluations 30."""
        agents = {name: load_agent(f"openrlhf_lamer.agents.{name}")[0] for name in RENDER["AGENTS"]}
        turns = {name: (agent.max_turns, agent.evaluated().max_turns) for name, agent in agents.items()}
        assert {name: turns[name] for name in ("sokoban", "minesweeper", "webshop", "alfworld")} == {
            "sokoban": (7, 7),
            "minesweeper": (7, 7),
            "webshop": (12, 12),
            "alfworld": (10, 30),
        }


class TestYourOwnEnvironment:
    PAGE = "your-own-environment.md"

    @pytest.fixture(autouse=True)
    def written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """The page's game as a file in the current folder."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "guess.py").write_text(blocks(self.PAGE, "python")[0])
        with registry.scoped():
            yield tmp_path

    def test_it_is_forty_lines_at_most(self) -> None:
        code = [blocks(self.PAGE, "python")[0], *blocks(self.PAGE, "bash")[0].splitlines()[1:]]
        assert len([line for part in code for line in part.splitlines() if line.strip()]) <= 40

    @pytest.mark.parametrize("number", range(1, len(blocks(PAGE, "python"))))
    def test_the_other_blocks_run(self, written: Path, number: int) -> None:
        code = f"import sys; sys.path.insert(0, '.')\n{blocks(self.PAGE, 'python')[number]}"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stderr

    def test_the_answer_to_a_broken_one(self, written: Path) -> None:
        code = blocks(self.PAGE, "python")[0]
        broken = code.replace("action.isdecimal() and ", "").replace("10.0 * self.over", "10 * self.over")
        (written / "guess.py").write_text(broken)
        environment = load_agent("guess.py")[0].env
        with pytest.raises(envs.CheckError) as raised:
            envs.check_env(environment)
        assert f"\n```\n{raised.value}\n```\n" in (DOCS / self.PAGE).read_text("utf-8")

    def test_a_trial_of_it(self, chat: Chat) -> None:
        agent, _ = load_agent("guess.py")
        policy = RandomPolicy(chat, seed=1)
        config = LamerConfig(num_episodes=2)
        for seed in range(5):
            trial = asyncio.run(
                run_trial(Task("guess", seed=seed), agent, policy, chat, config, max_new_tokens=200, max_length=9000)
            )
            assert trial.failure is None
            assert all(turn.valid for turn in trial.turns)
            assert len(trial.episodes[0].turns) == 4 or trial.episodes[0].won
            prompts = {turn.phase: chat.decode(turn.prompt_ids) for turn in trial.turns}
            assert "Find a whole number from 1 to 20." in prompts[Phase.PLAY]
            if Phase.REFLECT in prompts:
                assert "try the same task again" in prompts[Phase.REFLECT]

    def test_its_commands(self, written: Path) -> None:
        pytest.importorskip("openrlhf")
        from openrlhf_lamer.integration.launch import launcher

        play, prepare, train = blocks(self.PAGE, "bash")[0].replace("\\\n", "").splitlines()
        for line in (f"{play} --player random --json", prepare):
            result = CliRunner().invoke(app, shlex.split(line)[1:])
            assert result.exit_code == 0, result.output
        assert len((written / "data/guess/train.jsonl").read_text().splitlines()) == 1024
        python, module, name, *flags = shlex.split(train)
        assert (python, module, name) == ("python", "-m", "openrlhf.cli.train_ppo_ray")
        plan = launcher.prepare(flags)
        assert plan.agent_file == written / "guess.py"
        assert plan.estimator == "lamer_gigpo"

    def test_a_random_player_is_scored(self) -> None:
        result = CliRunner().invoke(app, ["play", "guess.py", "--player", "random", "--tasks", "3", "--json"])
        assert [json.loads(line)["won"] for line in result.stdout.splitlines()] == [True] * 3, result.output


class TestPython:
    PAGE = "python.md"

    @pytest.fixture
    def written(self) -> Iterator[dict[str, Any]]:
        """Names that the blocks define, run one after the other, and what each printed."""
        names: dict[str, Any] = {"printed": []}
        with registered_estimators():
            for block in blocks(self.PAGE, "python"):
                with redirect_stdout(StringIO()) as output:
                    exec(block, names)
                names["printed"].append(output.getvalue())
            yield names

    def test_each_block_has_twenty_lines_at_most_and_prints_what_stands_below_it(self, written: dict[str, Any]) -> None:
        code = blocks(self.PAGE, "python")
        assert len(code) == 3
        assert max(len([line for line in block.splitlines() if line.strip()]) for block in code) <= 20
        assert written["printed"] == blocks(self.PAGE, "text")

    def test_its_figures_are_those_of_a_plain_computation(self, written: dict[str, Any]) -> None:
        """A win of 10 in episode k is worth 10 · 0.6^(k-n) in episode n, and to its remark as in episode n + 1."""

        def worth(trial: Trial, turn: Turn) -> float:
            later = turn.episode + (turn.phase is Phase.REFLECT)
            return 10 * 0.6 ** (trial.wins[0] - 1 - later) if trial.wins else 0.0

        expected = [[worth(trial, turn) for turn in trial.turns] for trial in written["trials"]]
        starts = [own[0] for own in expected]
        baselines = [(sum(starts) - start) / (len(starts) - 1) for start in starts]
        assert written["table"].returns == pytest.approx([g for own in expected for g in own])
        own = [g - baseline for each, baseline in zip(expected, baselines, strict=True) for g in each]
        assert written["first_return"](written["table"], written["credit"]) == pytest.approx(own)

    def test_it_needs_neither_torch_nor_the_host(self) -> None:
        heavy = ("torch", "transformers", "ray", "vllm", "openrlhf", "deepspeed")
        code = f"import sys; sys.modules.update(dict.fromkeys({heavy}))\n" + "\n".join(blocks(self.PAGE, "python"))
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert (result.returncode, result.stdout) == (0, "".join(blocks(self.PAGE, "text"))), result.stderr
