"""Experiments on learning across episodes: their plans and their runner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from learning_scripts import arms, commands, games, stages
from typer.testing import CliRunner

from openrlhf_lamer import advantage
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.quickstart.following import StageError
from openrlhf_lamer.tasks import read_dataset


def said(words: Sequence[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def planned(name: str, out: Path, seeds: Sequence[int] = (0,)) -> list[Any]:
    experiment = arms.EXPERIMENTS[name]
    return list(stages.plan(experiment, stages.Setup(experiment.game, out), experiment.arms, seeds))


def parse(words: Sequence[str]) -> dict[str, Any]:
    """Values of a command of ours, read as it reads them; nothing is run."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    name = ""
    while hasattr(command, "get_command"):
        name = rest.pop(0)
        command = command.get_command(None, name)
        assert command is not None, f"there is no command {name}"
    return command.make_context(name, rest).params


class TestPlan:
    @pytest.mark.parametrize("name", list(arms.EXPERIMENTS))
    def test_our_commands_take_its_flags_and_write_where_the_next_ones_read(self, name: str, tmp_path: Path) -> None:
        game = arms.EXPERIMENTS[name].game
        made = set()
        for stage in planned(name, tmp_path):
            words = stage.command[3:]
            if stage.command[2] == "openrlhf_lamer.cli.main":
                values = parse(words)
                assert Path(values["out"]) == stage.folder
                assert values.get("attempts", game.attempts) == game.attempts
                assert values.get("max_turns", game.max_turns) == game.max_turns
                for read in ("model", "base", "trained"):
                    assert values.get(read) is None or Path(values[read]).parent in made
                if words[0] == "eval":
                    assert (values["method"], values["memory"], values["samples"]) == ("rl", None, game.attempts)
            else:
                assert Path(said(words, "--actor.model_name_or_path")).parent in made
                assert Path(said(words, "--data.prompt_dataset")).parent in made
                assert Path(said(words, "--eval.dataset")).parent in made
            assert stage.folder not in made
            made.add(stage.folder)

    @pytest.mark.parametrize("name", list(arms.EXPERIMENTS))
    def test_training_commands_pass_the_launchers_checks(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("openrlhf")
        from openrlhf_lamer.integration.launch import launcher

        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        experiment = arms.EXPERIMENTS[name]
        game, found = experiment.game, {}
        for stage in planned(name, tmp_path):
            words = stage.command[3:]
            if words[0] == "prepare":
                assert CliRunner().invoke(app, words).exit_code == 0
                expected = game.steps * game.tasks if stage.folder.name == "train" else game.panel_size
                assert len(read_dataset(stage.folder / f"{stage.folder.name}.jsonl")) == expected
            elif stage.command[2] == "openrlhf.cli.train_ppo_ray":
                # The warm start's model does not exist yet; a name on the hub is not checked.
                start = said(words, "--actor.model_name_or_path")
                plan = launcher.prepare(["Qwen/Qwen3-4B" if word == start else word for word in words])
                line, config = plan.line, plan.line.config
                trials = line["rollout.batch_size"] * line["rollout.n_samples_per_prompt"]
                episodes = game.tasks * game.group * game.attempts
                assert trials * config.num_episodes == episodes, "all arms have as many an update"
                assert stage.trials == game.steps * trials
                assert config.eval_episodes == game.attempts
                assert config.evaluated().num_episodes == game.attempts
                assert config.trials == str(stage.results)
                assert config.eval_trials == str(stage.folder / "evaluations.jsonl")
                assert game.steps % line["eval.steps"] == 0, "the end is evaluated"
                assert game.steps % line["ckpt.save_steps"], "no checkpoint hides an end without evaluation"
                assert stage.resumes.is_relative_to(line["ckpt.path"])
                found[stage.folder.parent.name] = (config, plan.estimator)
        assert list(found) == [arm.name for arm in experiment.arms]
        for arm in experiment.arms:
            config, estimator = found[arm.name]
            assert estimator == said(arm.flags, "--algo.advantage.estimator")
            assert config.memory == (arm.memory or game.memory)
            assert (config.num_episodes == 1) == arm.single

    def test_arms_differ_in_what_they_are_named_for(self) -> None:
        own = {arm.name: arm for experiment in arms.EXPERIMENTS.values() for arm in experiment.arms}
        assert said(own["lamer-gamma-0"].flags, "--lamer.gamma_traj") == "0"
        assert said(own["lamer-gamma-0.9"].flags, "--lamer.gamma_traj") == "0.9"
        assert said(own["lamer-fixed-reflections"].flags, "--lamer.train_reflection") == "off"
        assert "--lamer.gamma_traj" not in own["lamer"].flags
        estimators = {said(a.flags, "--algo.advantage.estimator") for a in arms.EXPERIMENTS["estimators"].arms}
        assert estimators == {*advantage.names(), "group_norm", "rloo"}

    def test_arms_share_a_warm_start_and_experiments_of_a_game_share_trainings(self, tmp_path: Path) -> None:
        first, second = planned("doors-lamp", tmp_path, (0, 1)), planned("estimators", tmp_path, (0, 1))
        starts = {said(s.command, "--actor.model_name_or_path") for s in first + second if "training" in s.name}
        assert starts == {str(s.folder / "model") for s in first if "warm start" in s.name}
        assert len(starts) == 2
        assert [s for s in first if s.folder.parent.name == "lamer"] == [
            s for s in second if s.folder.parent.name == "lamer"
        ]

    def test_a_given_model_has_a_place_of_its_own_and_no_size(self, tmp_path: Path) -> None:
        experiment = arms.EXPERIMENTS["doors-lamp"]
        game = games.pretrained(experiment.game)
        given = stages.Setup(game, tmp_path, tmp_path / "models" / "smollm2")
        (start,) = (s for s in stages.plan(experiment, given, experiment.arms, [0]) if "warm start" in s.name)
        assert said(start.command, "--model") == str(tmp_path / "models" / "smollm2")
        assert "--hidden" not in start.command
        assert start.folder == tmp_path / "smollm2" / "doors-lamp" / "warmstart" / "seed-0"
        assert said(start.command, "--trials") == str(game.demonstrations) != str(experiment.game.demonstrations)

    def test_a_given_model_sees_as_many_episodes_in_each_arm_too(self, tmp_path: Path) -> None:
        experiment = arms.EXPERIMENTS["doors-lamp"]
        given = stages.Setup(games.pretrained(experiment.game), tmp_path, tmp_path / "models" / "smollm2")
        for stage in stages.plan(experiment, given, experiment.arms, [0]):
            if "training" in stage.name:
                episodes = ("--rollout.batch_size", "--rollout.n_samples_per_prompt", "--lamer.num_episodes")
                assert math.prod(int(said(stage.command, flag)) for flag in episodes) == 4 * 8 * 3


class TestCommand:
    def invoke(self, *words: str) -> Any:
        return CliRunner().invoke(commands, words)

    def test_it_lists_experiments_and_arms(self) -> None:
        text = self.invoke("list").output
        for experiment in arms.EXPERIMENTS.values():
            assert f"{experiment.name}: {experiment.game.env}" in text
            assert all(f"  {arm.name}: " in text for arm in experiment.arms)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("report", "doors-lamp"), "has no evaluation of doors-lamp yet"),
            (("run", "chess"), "no experiment is called 'chess'"),
            (("run", "doors", "--arms", "lamer,gamma"), "doors has no arm 'gamma'"),
            (("run", "doors", "--seeds", "a"), "give whole numbers"),
            (("run", "doors", "--seeds", "0,-1"), "give whole numbers from 0 on"),
            (("run", "doors", "--model", "nowhere"), "no config.json there"),
        ],
    )
    def test_what_cannot_be_is_said(self, words: tuple[str, ...], message: str, tmp_path: Path) -> None:
        result = self.invoke(*words, "--out", str(tmp_path))
        assert result.exit_code == 2
        assert message in result.output

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        result = self.invoke("run", "doors", "--out", str(tmp_path / "file"))
        assert (result.exit_code, "is a file; give a folder" in result.output) == (2, True)

    def test_a_budget_that_is_used_up_leaves_stages_and_names_each_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(commands.registered_commands[1].callback.__globals__, "require_stack", lambda: None)
        words = ("run", "doors", "--arms", "lamer", "--seeds", "0,1,0", "--minutes", "0", "--out", str(tmp_path))
        result = self.invoke(*words)
        assert result.exit_code == 0, result.output
        shown = " ".join(result.output.split())
        expected = ["train tasks", "eval tasks"]
        expected += [f"seed {seed}: {what}" for seed in (0, 1) for what in ("warm start", "training of lamer")]
        assert shown.endswith(
            f"0 minutes are used up. To go on, type the same command again. Not run yet: {', '.join(expected)}"
        )

    def test_models_of_one_name_are_kept_apart(self, tmp_path: Path) -> None:
        game = arms.EXPERIMENTS["doors"].game
        first, second = (stages.Setup(game, tmp_path / "out", tmp_path / each / "model") for each in ("a", "b"))
        for _ in range(2):
            first.claim()
        with pytest.raises(StageError, match=r"start from another model: .*/a/model\. Give another --out"):
            second.claim()
        stages.Setup(game, tmp_path / "out").claim()
