"""Experiments on learning across episodes: their plans and their runner."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from learning_scripts import arms, commands, running, stages
from rich.console import Console
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
                assert len(read_dataset(stage.results)) == stage.trials
            elif stage.command[2] == "openrlhf.cli.train_ppo_ray":
                # The warm start's model is not there; one of the hub is not looked at.
                start = said(words, "--actor.model_name_or_path")
                plan = launcher.prepare(["Qwen/Qwen3-4B" if word == start else word for word in words])
                line, config = plan.line, plan.line.config
                trials = line["rollout.batch_size"] * line["rollout.n_samples_per_prompt"]
                assert trials * config.num_episodes == 16 * 8 * game.attempts, "as many episodes an update in all"
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
        given = stages.Setup(experiment.game, tmp_path, tmp_path / "models" / "smollm2")
        (start,) = (s for s in stages.plan(experiment, given, experiment.arms, [0]) if "warm start" in s.name)
        assert said(start.command, "--model") == str(tmp_path / "models" / "smollm2")
        assert "--hidden" not in start.command
        assert start.folder == tmp_path / "smollm2" / "doors-lamp" / "warmstart" / "seed-0"


class TestRunning:
    CONSOLE = Console(quiet=True)

    def stage(self, folder: Path, code: str, resumes: Path | None = None) -> Any:
        lines = f"import pathlib; f = pathlib.Path({str(folder)!r}); {code}"
        return stages.Stage(folder.name, folder, (sys.executable, "-c", lines), folder / "trials.jsonl", 2, resumes)

    def writes(self, folder: Path, resumes: Path | None = None) -> Any:
        return self.stage(folder, "(f / 'trials.jsonl').open('a').write('x\\n')", resumes)

    def test_a_finished_stage_is_not_run_again(self, tmp_path: Path) -> None:
        own = [self.writes(tmp_path / name) for name in ("a", "b")]
        ran: list[str] = []
        for _ in range(2):
            assert running.run(own, 1, self.CONSOLE, lambda stage: ran.append(stage.name)) == []
        assert ran == ["a", "b"]
        assert [stage.results.read_text() for stage in own] == ["x\n", "x\n"]

    def test_one_that_failed_is_run_again(self, tmp_path: Path) -> None:
        fails = self.stage(tmp_path / "a", "print('no memory'); exit(0 if (f.parent / 'fixed').exists() else 3)")
        with pytest.raises(StageError, match=r"code 3(.|\n)*no memory"):
            running.run([fails, self.writes(tmp_path / "b")], 1, self.CONSOLE)
        assert not (tmp_path / "b").exists()
        assert not running.finished(fails)
        (tmp_path / "fixed").touch()
        running.run([fails], 1, self.CONSOLE)
        assert running.finished(fails)

    @pytest.mark.parametrize("resumes", [False, True])
    def test_what_was_cut_off_goes_on_or_begins_again(self, resumes: bool, tmp_path: Path) -> None:
        folder = tmp_path / "a"
        folder.mkdir()
        (folder / "trials.jsonl").write_text('old\n{"half')
        (folder / "evaluations.jsonl").write_text("whole\n")
        if resumes:
            (folder / "latest").touch()
        running.run([self.writes(folder, folder / "latest")], 1, self.CONSOLE)
        assert (folder / "trials.jsonl").read_text() == ("old\nx\n" if resumes else "x\n")
        assert (folder / "evaluations.jsonl").exists() == resumes

    def test_a_folder_of_another_command_is_refused(self, tmp_path: Path) -> None:
        running.run([self.writes(tmp_path / "a")], 1, self.CONSOLE)
        with pytest.raises(StageError, match="another command"):
            running.run([self.stage(tmp_path / "a", "pass")], 1, self.CONSOLE)

    def test_no_stage_begins_after_the_budget(self, tmp_path: Path) -> None:
        own = [self.writes(tmp_path / name) for name in ("a", "b", "c")]
        times = iter([0, 0, 119, 121])  # the start, then before each stage
        left = running.run(own, 2, self.CONSOLE, clock=lambda: next(times))
        assert [stage.name for stage in left] == ["c"]
        assert not (tmp_path / "c").exists()
        assert running.run(own, 0, self.CONSOLE) == [own[2]]


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
            (("run", "doors", "--model", "nowhere"), "no config.json there"),
        ],
    )
    def test_what_cannot_be_is_said(self, words: tuple[str, ...], message: str, tmp_path: Path) -> None:
        result = self.invoke(*words, "--out", str(tmp_path))
        assert result.exit_code == 2
        assert message in result.output
