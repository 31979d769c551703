"""`openrlhf-lamer estimate`: lengths, rows, optimizer steps and seconds, and what the command prints."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from openrlhf_lamer.chat import Chat
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.estimate import EstimateError, memory
from openrlhf_lamer.estimate.lengths import Lengths, recorded, stages, typical
from openrlhf_lamer.estimate.work import Batch, optimizer_steps, seconds, work
from openrlhf_lamer.policies.scripted import RandomPolicy
from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn
from openrlhf_lamer.update.plan import by_tokens, steps_of_groups, steps_of_rows

ROOT = Path(__file__).parent.parent
RECIPES = sorted(ROOT.glob("recipes/*/*.toml"))


def turn(phase: Phase, episode: int, index: int, prompt: list[int], sampled: list[int]) -> Turn:
    return Turn(phase, episode, index, prompt, sampled, None, "", "up", True, 0.0, "s", "")


def trial() -> Trial:
    """A lost attempt of two turns that grow one row, a reflection that begins as it does, and a second attempt."""
    first = turn(Phase.PLAY, 0, 0, [1, 2, 3], [10, 11])
    second = turn(Phase.PLAY, 0, 1, [1, 2, 3, 10, 11, 4], [12, 13])
    reflection = turn(Phase.REFLECT, 0, 0, [1, 2, 5], [14, 15])
    third = turn(Phase.PLAY, 1, 0, [1, 2, 6, 7], [16, 17])
    episodes = (Episode((first, second), Stop.LOST, "", reflection), Episode((third,), Stop.LOST, ""))
    return Trial(Task("toy", seed=0), episodes)


def test_stages_of_a_trial_by_hand() -> None:
    assert stages(trial()) == {
        # Prompts of 3 and 6 tokens, with 2 sampled ones in the second; the row has 4 that were not sampled.
        "play": [(2, 1, 3 + 4, 1, 4, 4, 4, 1), (1, 1, 4, 0, 4, 2, 4, 0)],
        "reflect": [(1, 1, 3, 0, 3, 1, 3, 0)],
    }


def test_lengths_of_recorded_trials_by_hand() -> None:
    assert recorded([trial()]) == Lengths(
        turns=4, sampled=8, prompts=16, rows=3, trained=8, in_rows=8 + 5 + 6, distinct=8 + 3 + 4, longest=8
    )
    without = recorded([trial()], train_reflection=False)
    assert (without.rows, without.sampled, without.trained, without.distinct) == (2, 8, 6, 8 + 4)
    with pytest.raises(EstimateError, match="no trial there without a failure"):
        recorded([])


@pytest.mark.parametrize("context", ["turn", "episode", "trial"])
def test_lengths_of_typical_trials_are_sums_of_stages(context: Any) -> None:
    one = typical("sokoban", LamerConfig(context=context, num_episodes=1), 7)
    config = LamerConfig(context=context)
    three = typical("sokoban", config, 7)
    assert one.turns < 7
    assert three.turns == pytest.approx(3 * one.turns + 2, rel=0.05)
    assert three.sampled == three.trained == 200 * three.turns
    assert one.rows == (one.turns if context == "turn" else 1)
    assert three.distinct <= three.in_rows
    longer = typical("sokoban", config, 7, reply=300)
    assert longer.distinct - three.distinct == pytest.approx(100 * three.turns)
    assert typical("sokoban", config, 14).turns == pytest.approx(2 * (three.turns - 2) + 2)
    four = typical("sokoban", config.model_copy(update={"num_episodes": 4}), 7)
    assert four.prompts > three.prompts
    unseen = config.model_copy(update={"train_reflection": False})
    assert typical("sokoban", unseen, 7).trained == pytest.approx(three.trained - 2 * 200)


def test_a_budget_of_turns_bounds_the_attempts() -> None:
    config = LamerConfig(context="trial", turn_budget=20, stop_on_success=False)
    assert typical("alfworld", config, 10).turns == pytest.approx(20 + 1)
    for env in ("sokoban", "minesweeper"):  # attempts of 5.6 and 2.4 to 2.7 turns, the last one cut short
        many = typical(env, config.model_copy(update={"num_episodes": 21}), 7)
        play = typical(env, config.model_copy(update={"num_episodes": 21, "memory": "history"}), 7)
        assert play.turns == pytest.approx(20)
        assert 20 + 3 <= many.turns <= 20 + 8


def test_attempts_beyond_the_measured_ones_are_no_shorter_than_the_last() -> None:
    for env in ("sokoban", "minesweeper", "webshop", "alfworld"):
        turns = [typical(env, LamerConfig(num_episodes=n), 7).turns for n in (2, 3, 4, 8)]
        third = turns[1] - turns[0]
        assert turns[2:] == pytest.approx([turns[1] + third, turns[1] + 5 * third])


def test_a_game_without_lengths_is_told_what_to_record() -> None:
    with pytest.raises(EstimateError, match=r"no typical lengths of chess.*--trials"):
        typical("chess", LamerConfig(), 7)


def test_the_file_of_lengths_is_what_the_script_measures(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of turns and rows don't depend on the tokenizer."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = runpy.run_path(str(ROOT / "scripts" / "trial_lengths.py"))
    content = json.loads(script["FILE"].read_text())
    assert set(content) == set(script["GAMES"])
    found = script["measured"]("doors", chat, "turn", "both", 4)
    for phase, attempts in content["doors"]["turn both"].items():
        assert [each[:2] for each in found[phase]] == [each[:2] for each in attempts]


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 64), st.integers(1, 9), st.integers(0, 99))
def test_optimizer_steps_are_those_of_the_plan(trials: int, size: int, rows: int, seed: int) -> None:
    owner, rng = np.repeat(np.arange(trials), rows), np.random.default_rng(seed)
    assert optimizer_steps(trials * rows, Batch(trials, 1, size)) == len(steps_of_rows(owner, size, rng))
    updates = 1 + seed % 12
    groups = np.arange(trials) // 4
    batch = Batch(int(groups[-1]) + 1, 4, size, updates=updates)
    assert optimizer_steps(trials * rows, batch) == len(steps_of_groups(owner, groups, updates, rng))


def test_work_of_an_update_by_hand() -> None:
    """16 tasks with 8 trials of 10 rows: 20 steps of 64 rows; each has 6.4 trials of 1,000 distinct tokens."""
    own = work(Lengths(12, 600, 4000, 10, 500, 4500, 1000, 450), Batch(16, 8, 64, epochs=2, ranks=2, limit=2000))
    assert (own.trials, own.replies, own.rows, own.sampled) == (128, 1536, 1280, 76_800)
    assert (own.trained, own.in_rows, own.processed) == (64_000, 576_000, 128_000)
    assert own.optimizer_steps == 2 * 20
    assert own.micro_batches == 2  # 6,400 tokens, on two ranks in parts of at most 2,000
    rows = [np.arange(8) * 1000 + row for row in range(10)]
    shares = by_tokens(rows, np.arange(10), range(10), 16, 2, np.random.default_rng(0))
    alike = work(Lengths(1, 8, 0, 1, 8, 8, 8, 8), Batch(10, 1, 10, ranks=2, limit=16))
    assert alike.micro_batches == len(shares[0])


def test_seconds_of_a_step_by_hand() -> None:
    batch = Batch(16, 8, 64, ranks=2)
    own = work(Lengths(12, 600, 4000, 10, 500, 4500, 1000, 450), batch)
    plain = seconds(own, batch, engines=4, generated=1920, trained=6400)
    assert (plain.generation, plain.training) == (10, 10)
    assert plain.scoring == pytest.approx(10 / 3)
    assert plain.step == pytest.approx(20 + 10 / 3)
    both = seconds(own, batch, engines=4, generated=1920, trained=6400, scorers=3, learners=2, checkpointing=True,
                   asynchronous=True)  # fmt: skip
    assert (both.scoring, both.training, both.step) == (7.5, 20, 27.5)


def estimated(*words: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["estimate", *words, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


@pytest.fixture(autouse=True)
def _host() -> None:
    pytest.importorskip("openrlhf")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_fits_into_80_gib(recipe: Path, need: Callable[[str], None]) -> None:
    need(recipe.parent.name)  # for the length of its prompts
    found = estimated(str(recipe))
    assert found["computed"] is True
    for group in found["groups"]:
        assert 0 < group["peak"] < 80 * memory.GIB
    assert found["cache"]["longest"] >= 1


@pytest.mark.parametrize("game", sorted({path.parent.name for path in RECIPES}))
def test_the_page_of_recipes_has_what_is_computed(game: str, need: Callable[[str], None]) -> None:
    need(game)
    page = (ROOT / "recipes" / "README.md").read_text("utf-8")
    rows = re.findall(rf"^\| `{game}/(\S+)` \| (.+) \|$", page, re.MULTILINE)
    assert {"lamer", "gigpo"} <= {name for name, _ in rows}
    for name, told in rows:
        found = estimated(str(ROOT / "recipes" / game / f"{name}.toml"))
        (group,), own = found["groups"], found["work"]
        figures = [group["gpus"], round(own["replies"]), round(own["sampled"], -3), own["optimizer_steps"]]
        figures.append(round(group["peak"] / memory.GIB))
        assert told == " | ".join(f"{figure:,.0f}" for figure in figures), name


def test_flags_after_a_recipe_replace_what_it_says() -> None:
    recipe = str(ROOT / "recipes" / "sokoban" / "lamer.toml")
    before = estimated(recipe)
    assert before["parameters"] == 4_022_468_096
    assert [group["roles"] for group in before["groups"]] == [["policy", "engine"]]
    more = ("--algo.kl.init_coef", "0.01", "--train.colocate_all", "false", "--rollout.batch_size", "8")
    after = estimated(recipe, *more, "--ds.zero_stage", "3", "--model", "Qwen/Qwen3-8B")
    assert after["parameters"] == 8_190_735_360
    assert [group["roles"] for group in after["groups"]] == [["policy"], ["reference"], ["engine"]]
    assert after["work"]["trials"] == before["work"]["trials"] / 2
    weights = next(part["size"] for part in after["groups"][1]["parts"] if part["name"] == "weights")
    assert weights == 2 * 8_190_735_360 / 8


def test_a_wrong_value_of_a_recipe_is_told_with_its_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'base = "{ROOT}/recipes/sokoban/lamer.toml"\n[lamer]\nmemory = "all"\n')
    result = CliRunner().invoke(app, ["estimate", str(file)])
    assert result.exit_code == 2
    assert result.output.endswith(f"--lamer.memory is set in {file}\n")


def test_an_adapter_needs_no_reference_but_its_scores_take_time() -> None:
    recipe = str(ROOT / "recipes" / "sokoban" / "one-gpu-4b-lora.toml")
    rates = ("--generated-per-second", "1000", "--trained-per-second", "10000")
    plain, scored = (estimated(recipe, "--algo.kl.init_coef", each, *rates) for each in ("0", "0.01"))
    assert plain["groups"] == scored["groups"]
    assert scored["seconds"]["scoring"] == pytest.approx(2 * plain["seconds"]["scoring"])
    assert plain["learnt"] == 32 * 36 * (2 * 2560 + 2 * 4096 + 2 * (2560 + 1024) + 3 * (2560 + 9728))


def test_tables_say_that_they_are_computed() -> None:
    flags = ("--agent_func", "openrlhf_lamer.agents.doors", "--actor.model_name_or_path", "Qwen/Qwen3-0.6B")
    result = CliRunner().invoke(app, ["estimate", "--", *flags], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    tables = re.split(r"\n(?=A training step|GiB on|Key-value)", result.output)
    assert len(tables) == 4  # work, the policy's GPUs, the engine's, the cache
    assert all("Computed, not measured." in table for table in tables)
    assert "GiB on each of 8 GPUs: policy" in result.output
    small = CliRunner().invoke(app, ["estimate", "--gpu-memory", "11", *flags], env={"COLUMNS": "120"})
    assert "does NOT fit into 11 GiB" in " ".join(small.output.split())


def test_recorded_trials_give_their_own_lengths(play: Callable[..., Trial], chat: Chat, tmp_path: Path) -> None:
    played = [play(RandomPolicy(chat, seed)) for seed in range(3)]
    file = tmp_path / "trials.jsonl"
    file.write_text("".join(f"{each.to_json()}\n" for each in played))
    recipe = str(ROOT / "recipes" / "minesweeper" / "lamer.toml")
    found = estimated(recipe, "--trials", str(file))["work"]
    lengths = recorded(played)
    assert found["rows"] == 128 * lengths.rows
    assert found["processed"] == 128 * lengths.distinct


def test_the_page_shows_what_its_command_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "estimate.md").read_text("utf-8")
    (command,) = re.findall(r"```bash\nopenrlhf-lamer (.*)\n```", page)
    (shown,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(app, command.split(), env={"COLUMNS": "110"})
    assert [line.rstrip() for line in result.output.strip().splitlines()] == shown.splitlines()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--generated-per-second", "5"], "--trained-per-second go together"),
        (["--trials", "x", "--reply-tokens", "5"], "leave out this flag or --trials"),
        (["--lamer.num_episode", "3"], "Did you mean --lamer.num_episodes"),
        (["--vllm.gpu_memory_utilization", "0.05"], "fewer than one sequence"),
        (["--ds.lora.target_modules", "router"], "only the sizes of q_proj"),
        (["--ds.tensor_parallel_size", "16"], "gives 8 GPUs only"),
    ],
)
def test_what_cannot_be_estimated_is_said(words: list[str], said: str) -> None:
    if "router" in words:
        words = ["--ds.lora.rank", "8", *words]
    result = CliRunner().invoke(app, ["estimate", str(ROOT / "recipes" / "sokoban" / "lamer.toml"), *words])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_it_needs_nothing_of_the_gpu_stack() -> None:
    """Imports of all that OpenRLHF needs are made to fail; OpenRLHF's own source is read."""
    code = f"""
import sys
for name in ("torch", "ray", "vllm", "deepspeed", "transformers", "huggingface_hub"):
    sys.modules[name] = None
sys.argv = ["openrlhf-lamer", "estimate", {str(ROOT / "recipes/sokoban/lamer.toml")!r}, "--json"]
from openrlhf_lamer.cli.main import main
main()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters"] == 4_022_468_096
