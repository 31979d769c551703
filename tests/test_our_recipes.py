"""The recipes of this repository: each makes a command that the host's parser and our checks take."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from openrlhf_lamer import envs, recipes
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.tasks import read_dataset, write_dataset

pytest.importorskip("openrlhf")

from openrlhf_lamer.integration.launch import flags, launcher

FOLDER = Path(__file__).parent.parent / "recipes"
ALL = sorted(FOLDER.glob("*/*.toml"))
GAMES = sorted({file.parent.name for file in ALL})
BASELINES = {
    "ppo": "lamer_ppo",
    "rloo": "rloo",
    "grpo": "group_norm",
    "gigpo": "lamer_gigpo",
    "lamer_rloo": "lamer_rloo",
    "lamer_grpo": "lamer_grpo",
}
"""Single attempts, by recipe, with the estimators that they are named after."""


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], launcher.Plan]:
    """Checks the command of a recipe, each once, in a folder with a few tasks where the recipe looks for them."""
    home = tmp_path_factory.mktemp("home")

    @cache
    def checked(file: Path) -> launcher.Plan:
        game = file.parent.name
        for flag, split in (("data.prompt_dataset", "train"), ("eval.dataset", "eval")):
            tasks = home / recipes.read(file).settings[flag].value
            if not tasks.exists():
                write_dataset(tasks, envs.lookup(game).tasks(split, 16))
        with inside(home), pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_TMPDIR", str(home))  # a Ray that runs on this machine is not to be joined
            patch.delenv("RAY_ADDRESS", raising=False)
            return launcher.prepare(recipes.resolve(recipes.read(file)))

    return checked


def episodes(plan: launcher.Plan) -> int:
    """Most episodes of an update."""
    trials = plan.line["rollout.batch_size"] * plan.line["rollout.n_samples_per_prompt"]
    return trials * plan.line.config.num_episodes


def test_every_game_has_its_methods() -> None:
    assert GAMES == ["alfworld", "minesweeper", "sokoban", "webshop"]
    for game in GAMES:
        names = {file.stem for file in ALL if file.parent.name == game}
        assert {"lamer", *BASELINES} <= names
        if game != "alfworld":
            assert {"lamer-history", "lamer-reflection", *(f"lamer-gamma-{g}" for g in ("0.0", "0.3", "0.9"))} <= names
        if game in ("sokoban", "minesweeper"):
            assert {"mage", "orbit", "pkpo", "one-gpu-0.6b", "one-gpu-4b-lora", "lamer-llama-3.1-8b"} <= names


@pytest.mark.parametrize("file", ALL, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_its_command_passes_the_hosts_parser_and_our_checks(
    file: Path, plan: Callable[[Path], launcher.Plan], need: Callable[[str], None]
) -> None:
    need(file.parent.name)
    checked = plan(file)
    assert checked.agent_file.stem == file.parent.name
    assert checked.gpus == (1 if file.stem.startswith("one-gpu") else 8)
    assert checked.line["vllm.num_engines"] == checked.gpus
    run = f"runs/{file.parent.name}/{file.stem}"
    assert checked.line["ckpt.path"] == f"{run}/checkpoints"
    assert Path(checked.line.config.trials or "").parts[-4:-1] == Path(run).parts
    assert checked.line["ckpt.max_num"] >= 2, "the host removes one before the next is whole"


@pytest.mark.parametrize("game", GAMES)
def test_baselines_have_as_many_episodes_an_update(
    game: str, plan: Callable[[Path], launcher.Plan], need: Callable[[str], None]
) -> None:
    need(game)
    lamer = plan(FOLDER / game / "lamer.toml")
    assert lamer.line.config.num_episodes == 3
    assert episodes(lamer) == (384 if game in ("sokoban", "minesweeper") else 192)
    for name, estimator in BASELINES.items():
        baseline = plan(FOLDER / game / f"{name}.toml")
        assert baseline.line.config.num_episodes == 1
        assert episodes(baseline) == episodes(lamer), name
        assert baseline.estimator == estimator


@pytest.mark.parametrize("game", GAMES)
def test_lamer_and_its_baselines_have_the_papers_setting(
    game: str, plan: Callable[[Path], launcher.Plan], need: Callable[[str], None]
) -> None:
    """Section 5.1 and appendix C, and what only the authors' scripts say."""
    need(game)
    paper = {"actor.adam.lr": 1e-6, "rollout.temperature": 1.0, "eval.temperature": 0.7, "rollout.max_new_tokens": 1024}
    scripts = {"train.batch_size": 64, "train.max_epochs": 1, "actor.eps_clip": 0.2, "algo.kl.init_coef": 0.0}
    groups = {"rollout.batch_size": 16 if game in ("sokoban", "minesweeper") else 8}
    turns = {"sokoban": 7, "minesweeper": 7, "webshop": 12, "alfworld": 10}
    for name in ("lamer", *BASELINES):
        line = plan(FOLDER / game / f"{name}.toml").line
        found = {flag: line[flag] for flag in {**paper, **scripts, **groups}}
        assert found == {**paper, **scripts, **groups}, name
        assert line["actor.model_name_or_path"] == "Qwen/Qwen3-4B"
        assert line["rollout.n_samples_per_prompt"] == (8 if name == "lamer" else 24)
        own = line.config
        assert (own.gamma_traj, own.gamma_step, own.memory, own.reward, own.thinking) == (
            0.6, 0.95, "both", "sparse", False
        )  # fmt: skip
        assert own.max_turns is None
        assert load_agent(line.agents[0])[0].max_turns == turns[game]
    assert plan(FOLDER / game / "lamer.toml").estimator == "lamer_gigpo"


def test_a_recipe_shows_only_what_differs() -> None:
    """No value is that of a base."""
    for file in ALL:
        recipe = recipes.read(file)
        base = recipes.read(recipe.bases[0]).settings
        own = {flag: setting.value for flag, setting in recipe.settings.items() if setting.file == file}
        assert own, file
        assert [flag for flag, value in own.items() if flag in base and base[flag].value == value] == [], file


def test_each_says_first_what_it_is() -> None:
    heads = [file.read_text("utf-8").splitlines()[0] for file in [*ALL, FOLDER / "paper.toml"]]
    assert all(head.startswith("# ") and len(head) > 30 for head in heads)


@pytest.mark.parametrize("game", GAMES)
def test_the_page_of_a_game_has_its_recipes_and_sizes(
    game: str, plan: Callable[[Path], launcher.Plan], need: Callable[[str], None]
) -> None:
    need(game)
    page = (FOLDER / game / "README.md").read_text("utf-8")
    there = {file.stem for file in ALL if file.parent.name == game}
    assert there <= set(re.findall(r"`([\w.-]+)`", page))
    assert set(re.findall(rf"recipes/{game}/([\w.-]+)\.toml", page)) <= there
    lamer = plan(FOLDER / game / "lamer.toml").line
    trials, most = lamer["rollout.batch_size"] * lamer["rollout.n_samples_per_prompt"], lamer.config.num_episodes
    turns = load_agent(lamer.agents[0])[0].max_turns
    replies = trials * (most * turns + most - 1)
    told = f"{lamer['rollout.batch_size']} tasks: at most {trials * most} attempts and {replies:,} replies, of 1,024"
    assert told in " ".join(page.split())


def test_the_pages_of_games_have_the_papers_figures() -> None:
    """Those that the tables of the experiments have too."""
    paper = tomllib.loads((FOLDER.parent / "scripts" / "experiments" / "paper.toml").read_text("utf-8"))
    main, memory, with_memory = (paper[name]["figures"] for name in ("main-table", "memory", "rl-memory"))
    for game, title in (("sokoban", "Sokoban"), ("minesweeper", "MineSweeper"), ("webshop", "WebShop")):
        page = (FOLDER / game / "README.md").read_text("utf-8")
        rows = dict(re.findall(r"^\| `?([^`|]+?)`? \| (.+) \|$", page, re.MULTILINE))
        told = {name: ", ".join(map(str, figures[title])) for name, figures in main.items()}
        more = f"; with a memory in evaluation {with_memory['GiGPO with memory'][title]} within 3"
        assert rows["before training, zero-shot"] == told["Zero-shot"]
        assert (rows["lamer"], rows["gigpo"]) == (told["LaMer"], told["GiGPO"] + more)
        assert [rows[name] for name in ("grpo", "rloo", "ppo")] == [told[name] for name in ("GRPO", "RLOO", "PPO")]
        assert rows["lamer-history"] == f"{memory['Trajectory only'][title]} within 3"
        assert rows["lamer-reflection"] == f"{memory['Reflection only'][title]} within 3"
    page = (FOLDER / "alfworld" / "README.md").read_text("utf-8")
    told = re.findall(r"^\| .+? \| ([\d. |]+) \|$", page, re.MULTILINE)
    numbers = [[float(value) for value in row.split(" | ")] for row in told]
    prompting, rl, lamer = (list(paper["alfworld"]["figures"][name].values()) for name in ("Prompting", "RL", "LaMer"))
    assert numbers == [prompting, lamer, rl]


@pytest.mark.parametrize("game", GAMES)
def test_the_page_of_a_game_prepares_the_data_of_its_recipes(
    game: str, tmp_path: Path, need: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    need(game)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)
    page = (FOLDER / game / "README.md").read_text("utf-8")
    (block, *_) = re.findall(r"^```bash\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    prepare = [shlex.split(line)[1:] for line in block.splitlines() if " prepare " in line]
    for words in prepare:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    steps = 300 if game in ("sokoban", "minesweeper") else 150
    for file in (file for file in ALL if file.parent.name == game):
        settings = recipes.read(file).settings
        assert len(read_dataset(Path(settings["eval.dataset"].value))) == 128
        if not file.stem.startswith("one-gpu"):
            tasks = read_dataset(Path(settings["data.prompt_dataset"].value))
            assert len(tasks) == steps * settings["rollout.batch_size"].value


def test_every_flag_can_stand_in_a_recipe() -> None:
    """No flag's name is a prefix of another's, which would make it a table too."""
    known = flags.names()
    assert {"agent_func", "lamer.hgpo.depth", "actor.adam.betas", "train.seed"} <= known
    assert [flag for flag in known for other in known if other.startswith(f"{flag}.")] == []
