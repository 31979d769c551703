"""Recipes: their settings with those of their bases, their commands, and the errors for wrong ones."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from openrlhf_lamer import recipes
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.recipes import RecipeError


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes the files of a folder of recipes, and gives the path of the first."""

    def to_files(**files: str) -> Path:
        for name, text in files.items():
            path = tmp_path / "game" / f"{name}.toml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
        return tmp_path / "game" / f"{next(iter(files))}.toml"

    return to_files


def test_a_recipe_changes_its_bases(write: Callable[..., Path]) -> None:
    file = write(
        own='base = "middle.toml"\n[lamer]\nnum_episodes = 1\n',
        middle='base = "../game/far.toml"\n[actor]\nadam.lr = 1e-6\n[train]\ncolocate_all = false\n',
        far='[lamer]\nnum_episodes = 3\nmemory = "both"\n[train]\ncolocate_all = true\n',
    )
    recipe = recipes.read(file)
    assert [base.name for base in recipe.bases] == ["middle.toml", "far.toml"]
    told = {flag: (setting.value, setting.file.name) for flag, setting in recipe.settings.items()}
    assert told == {
        "lamer.num_episodes": (1, "own.toml"),
        "lamer.memory": ("both", "far.toml"),
        "train.colocate_all": (False, "middle.toml"),
        "actor.adam.lr": (1e-6, "middle.toml"),
    }
    assert recipes.resolve(recipes.read(file)) == shlex.split(
        "--lamer.num_episodes 1 --lamer.memory both --actor.adam.lr 1e-06"
    )


def test_values_become_words_of_their_parsers(write: Callable[..., Path]) -> None:
    file = write(
        own="""
        agent_func = "my agent.py"
        [lamer]
        reference = true
        stop_on_success = false
        trials = "{run}/trials.jsonl"
        env_options = { mines = 4 }
        [lamer.hgpo]
        depth = 2
        [ds]
        enable_sleep = true
        packing_samples = false
        [actor.adam]
        betas = [0.9, 0.999]
        """
    )
    assert recipes.grouped(recipes.resolve(recipes.read(file), run=Path("there"))) == [
        ["--agent_func", "my agent.py"],
        ["--lamer.reference", "on"],
        ["--lamer.stop_on_success", "off"],
        ["--lamer.trials", "there/trials.jsonl"],
        ["--lamer.env_options", '{"mines": 4}'],
        ["--lamer.hgpo.depth", "2"],
        ["--ds.enable_sleep"],
        ["--actor.adam.betas", "0.9", "0.999"],
    ]
    assert "runs/game/own/trials.jsonl" in recipes.resolve(recipes.read(file))


def test_options_of_an_environment_are_merged_by_name(write: Callable[..., Path]) -> None:
    file = write(
        own='base = "far.toml"\n[lamer.env_options]\nmines = 4\n', far="[lamer.env_options]\nmines = 3\nsize = 6\n"
    )
    assert json.loads(recipes.resolve(recipes.read(file))[1]) == {"mines": 4, "size": 6}


def test_typed_flags_replace_those_of_the_file(write: Callable[..., Path]) -> None:
    file = write(own="[lamer]\nnum_episodes = 3\n[actor.adam]\nbetas = [0.9, 0.95]\n[train]\ncolocate_all = true\n")
    typed = "--lamer.num_episodes=1 --actor.adam.betas 0.8 0.9 --train.colocate_all false --ds.enable_sleep true"
    expected = "--lamer.num_episodes 1 --actor.adam.betas 0.8 0.9 --ds.enable_sleep"
    assert recipes.resolve(recipes.read(file), shlex.split(typed)) == shlex.split(expected)
    assert recipes.typed(["--lamer.reference", "false"]) == {"lamer.reference": ["--lamer.reference", "off"]}
    with pytest.raises(RecipeError, match=r"^8: after the recipe come flags"):
        recipes.resolve(recipes.read(file), ["8"])


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"own": "lamer = both"}, r"own\.toml: not valid TOML: .*line 1"),
        ({"own": 'base = "none.toml"'}, r"own\.toml: base = 'none\.toml', .*none\.toml cannot be read"),
        ({"own": "base = 3"}, r"own\.toml: base = 3 is no path"),
        ({"own": 'base = "own.toml"'}, r"own\.toml: base leads back to .*own\.toml"),
        ({"own": 'base = "b.toml"', "b": 'base = "own.toml"'}, r"b\.toml: base leads back to .*own\.toml"),
        ({"own": "[lamer]\nmemory = []"}, r"own\.toml: \[lamer\] memory = \[\]: give"),
        ({"own": "[lamer]\ndates = 2026-01-01"}, r"own\.toml: \[lamer\] dates = .*: give"),
        ({"own": "[actor.adam]\nbetas = [[1]]"}, r"own\.toml: \[actor\.adam\] betas = \[\[1\]\]: give"),
        ({"own": '"lamer.memory" = "both"'}, r"own\.toml: 'lamer\.memory' cannot be in a flag; .*\[lamer\] memory"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(files: dict[str, str], told: str, write: Callable[..., Path]) -> None:
    with pytest.raises(RecipeError, match=told):
        recipes.read(write(**files))


def test_unknown_flags_are_refused_with_the_nearest_one(write: Callable[..., Path]) -> None:
    file = write(own='base = "far.toml"\n', far='agent_func = "a.py"\n[rollout]\nbatchsize = 8\n[lamer]\ndepth = 2\n')
    known = {"agent_func", "rollout.batch_size"}
    for host, told in (
        (known, r"far\.toml: \[rollout\] batchsize: .* no flag --rollout\.batchsize; did you mean --rollout\.batch_s"),
        (None, r"far\.toml: \[lamer\] depth: --lamer\.depth: no such option\. Did you mean --lamer\.hgpo\.depth"),
    ):
        with pytest.raises(RecipeError, match=told):
            recipes.check_names(recipes.read(file), [], host)
    right = write(right="[rollout]\nbatch_size = 8\n")
    recipes.check_names(recipes.read(right), ["--lamer.memory", "both"], known)
    with pytest.raises(RecipeError, match=r"^the training command has no flag --agentfunc; did you mean --agent_func"):
        recipes.check_names(recipes.read(right), ["--agentfunc", "a.py"], known)


def test_flags_before_the_recipe_are_told_apart_from_it(write: Callable[..., Path]) -> None:
    result = CliRunner().invoke(app, ["train", "--lamer.num_episodes", "1", str(write(own=""))])
    assert result.exit_code == 2
    assert result.stderr.endswith("--lamer.num_episodes: the recipe comes first, and flags after it\n")


def test_a_job_gets_absolute_paths_of_files(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "own.toml").touch()
    line = (
        "--agent_func openrlhf_lamer.agents.sokoban,mine.py --actor.model_name_or_path Qwen/Qwen3-4B "
        "--critic.model_name_or_path models --data.prompt_dataset a.jsonl,/b.jsonl --ckpt.path runs/c "
        "--lamer.trials /d.jsonl --lamer.memory both --lamer.config own.toml --train.agent_func_path mine.py"
    )
    expected = (
        f"--agent_func openrlhf_lamer.agents.sokoban,{tmp_path}/mine.py --actor.model_name_or_path Qwen/Qwen3-4B "
        f"--critic.model_name_or_path {tmp_path}/models --data.prompt_dataset {tmp_path}/a.jsonl,/b.jsonl "
        f"--ckpt.path {tmp_path}/runs/c --lamer.trials /d.jsonl --lamer.memory both --lamer.config {tmp_path}/own.toml "
        f"--train.agent_func_path {tmp_path}/mine.py"
    )
    assert recipes.absolute(line.split(), tmp_path) == expected.split()


def test_a_dry_run_prints_commands_that_a_shell_reads(write: Callable[..., Path], base: list[str]) -> None:
    """The command of this machine and the job, which the host's parser and our checks take."""
    pytest.importorskip("openrlhf")
    flags = dict(recipes.grouped(base))
    file = write(
        own=f'agent_func = "{flags["--agent_func"]}"\n[lamer]\nnum_episodes = 2\ntrials = "{{run}}/trials.jsonl"\n'
        f'[data]\nprompt_dataset = "{flags["--data.prompt_dataset"]}"\n'
        f'[actor]\nmodel_name_or_path = "{flags["--actor.model_name_or_path"]}"\n'
    )
    result = CliRunner().invoke(app, ["train", str(file), "--lamer.gamma_traj", "0.5", "--run", "a b", "--dry-run"])
    assert result.exit_code == 0, result.output
    here, there = (part.split("\n", 1)[1] for part in result.stdout.split("\n\n"))
    words = shlex.split(here.replace("\\\n", ""))
    assert words[:3] == ["python", "-m", "openrlhf_lamer.cli.train_ppo_ray"]
    assert words[3:] == recipes.resolve(recipes.read(file), ["--lamer.gamma_traj", "0.5"], Path("a b"))
    assert all(line.startswith("    --") for line in here.splitlines()[1:])
    job = shlex.split(there.replace("\\\n", ""))
    assert job[:3] == ["ray", "job", "submit"]
    assert job[job.index("--") + 1 :] == [*words[:3], *recipes.absolute(words[3:], Path.cwd())]
    assert "256 episodes at most" in result.stderr


def test_a_training_is_launched_with_the_recipes_plan(
    write: Callable[..., Path], base: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openrlhf")
    launched: list[Any] = []
    monkeypatch.setattr("openrlhf_lamer.integration.launch.launcher.launch", launched.append)
    file = write(own="[lamer]\nnum_episodes = 2\ngamma_traj = 0.3\n")
    result = CliRunner().invoke(app, ["train", str(file), *base, "--lamer.num_episodes", "4"])
    assert (result.exit_code, result.output) == (0, "")
    (plan,) = launched
    assert (plan.line.config.num_episodes, plan.line.config.gamma_traj) == (4, 0.3)


def test_a_dry_run_says_where_a_wrong_value_stands(write: Callable[..., Path], base: list[str]) -> None:
    pytest.importorskip("openrlhf")
    file = write(own='base = "far.toml"\n', far='[lamer]\nmemory = "all"\n')
    result = CliRunner().invoke(app, ["train", str(file), *base, "--dry-run"])
    assert result.exit_code == 2
    assert "--lamer.memory 'all'" in result.stderr
    assert result.stderr.endswith(f"--lamer.memory is set in {file.with_name('far.toml')}\n")
    typed = CliRunner().invoke(app, ["train", str(file), *base, "--lamer.memory", "none", "--dry-run"])
    assert typed.exit_code == 2
    assert "--lamer.memory 'none'" in typed.stderr
    assert "is set in" not in typed.stderr  # it is not the file's


@pytest.mark.parametrize(("flag", "split"), [("data.prompt_dataset", "train"), ("eval.dataset", "eval")])
def test_a_recipe_without_its_data_leads_to_the_page_that_prepares_them(
    flag: str, split: str, write: Callable[..., Path], base: list[str]
) -> None:
    pytest.importorskip("openrlhf")
    table, key = flag.split(".")
    file = write(own=f'[{table}]\n{key} = "data/3-boxes/{split}.jsonl"\n')
    page = file.with_name("README.md")
    page.touch()
    rest = [word for group in recipes.grouped(base) if group[0] != f"--{flag}" for word in group]
    result = CliRunner().invoke(app, ["train", str(file), *rest, "--dry-run"])
    assert result.exit_code == 2
    told = f"--split {split} --num {128 if split == 'eval' else 4096} --out data/3-boxes/{split}.jsonl\n"
    assert result.stderr.endswith(f"{told}--{flag} is set in {file}; {page} has the commands that prepare it\n")


def test_without_the_host_a_dry_run_says_that_it_checked_little(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    file = write(own="[rollout]\nanything = 8\n")
    result = CliRunner().invoke(app, ["train", str(file), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "--rollout.anything 8" in result.stdout
    assert "OpenRLHF is not installed here" in result.stderr
    wrong = CliRunner().invoke(app, ["train", str(file), "--lamer.memori", "both", "--dry-run"])
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "Did you mean --lamer.memory?" in wrong.stderr


NAMES = st.from_regex(r"[a-z][a-z_]{0,6}", fullmatch=True)
TEXTS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=9).filter(
    lambda text: not text.startswith("--") and text not in ("true", "false") and recipes.RUN not in text
)
SCALARS = st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | TEXTS
VALUES = st.booleans() | SCALARS | st.lists(SCALARS, min_size=1, max_size=3)
TREES = st.recursive(VALUES, lambda below: st.dictionaries(NAMES, below, min_size=1, max_size=3), max_leaves=8)


def as_toml(table: dict[str, Any], path: tuple[str, ...] = ()) -> str:
    """A table as TOML: its values, then the tables in it."""

    def text(value: Any) -> str:
        if isinstance(value, list):
            return f"[{', '.join(map(text, value))}]"
        # JSON's strings and booleans are TOML's.
        return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)

    lines = [f"[{'.'.join(path)}]"] if path else []
    lines += [f"{key} = {text(value)}" for key, value in table.items() if not isinstance(value, dict)]
    tables = [as_toml(value, (*path, key)) for key, value in table.items() if isinstance(value, dict)]
    return "\n".join([*lines, *tables])


def leaves(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@given(st.dictionaries(NAMES.filter(lambda name: name != recipes.BASE), TREES, max_size=4))
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read_and_typed_back(tree: dict[str, Any]) -> None:
    """Flags of a file are those written, and its arguments, typed as overrides of an empty recipe, make the same."""
    folder = Path(tempfile.mkdtemp())
    try:
        full, empty = folder / "full.toml", folder / "empty.toml"
        full.write_text(as_toml(tree), "utf-8")
        empty.touch()
        read = {flag: setting.value for flag, setting in recipes.read(full).settings.items()}
        arguments = recipes.resolve(recipes.read(full))
        assert recipes.resolve(recipes.read(empty), arguments) == arguments
    finally:
        shutil.rmtree(folder)
    expected = leaves(tree)
    assert read == expected
    there = {group[0].removeprefix("--"): group[1:] for group in recipes.grouped(arguments)}
    assert there.keys() == {flag for flag, value in expected.items() if value is not False or flag.startswith("lamer.")}
    for flag, words in there.items():
        value = expected[flag]
        if not isinstance(value, bool):
            values = value if isinstance(value, list) else [value]
            assert [type(one)(word) for one, word in zip(values, words, strict=True)] == values
