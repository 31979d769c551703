"""Output of a command: where it lands, files of trials that are there already, and what is recorded of the run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from openrlhf_lamer import __version__, advantage
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.config import ConfigError, LamerConfig

pytest.importorskip("openrlhf")

from openrlhf_lamer.integration.host import host_parser
from openrlhf_lamer.integration.launch import launcher
from openrlhf_lamer.training_files import evaluated, settings_file, write_step

README = Path(__file__).parent.parent / "README.md"


def leave(file: Path, arguments: Sequence[str], steps: Sequence[int], *, evaluation: bool = False) -> None:
    """Write the file that a run with these arguments leaves if it is killed after the last of these steps."""
    plan = launcher.prepare(arguments)
    settings = evaluated(plan.settings, plan.line.config) if evaluation else plan.settings
    for step in steps:
        write_step(file, step, [json.dumps({"step": step})], settings)


def checkpoint(folder: Path) -> None:
    (folder / "_actor").mkdir(parents=True)
    (folder / "_actor" / "latest").write_text("global_step2")


@pytest.fixture
def files(base: list[str], tmp_path: Path) -> list[str]:
    """A command with files of trials, and checkpoints."""
    return [
        *base,
        *("--lamer.trials", str(tmp_path / "trials.jsonl"), "--lamer.eval_trials", str(tmp_path / "evaluations.jsonl")),
        *("--ckpt.path", str(tmp_path / "checkpoints"), "--lamer.eval_episodes", "2"),
    ]


class TestFilesOfAnotherRun:
    @pytest.mark.parametrize("flag", ["trials", "eval_trials"])
    def test_a_new_run_is_refused_with_the_remedy(self, flag: str, files: list[str], tmp_path: Path) -> None:
        file = Path(files[files.index(f"--lamer.{flag}") + 1])
        file.touch()
        leave(file, files, (1, 2, 3), evaluation=flag == "eval_trials")
        before = file.read_bytes()
        with pytest.raises(ConfigError) as refused:
            launcher.prepare(files)
        assert str(refused.value) == (
            f"--lamer.{flag} {file} holds the trials of a run, up to step 3; give another file, or rename or remove "
            f"that one and {file.stem}.settings.json. To go on with that run from its last checkpoint, add "
            "--ckpt.load_enable"
        )
        checkpoint(tmp_path / "checkpoints")
        with pytest.raises(ConfigError, match="holds the trials of a run"):
            launcher.prepare(files)  # it would begin at the first step all the same
        assert file.read_bytes() == before

    def test_a_run_with_a_checkpoint_goes_on(self, files: list[str], tmp_path: Path) -> None:
        leave(tmp_path / "trials.jsonl", files, (1, 2, 3))
        checkpoint(tmp_path / "checkpoints")
        launcher.prepare([*files, "--ckpt.load_enable", "--lamer.gamma_traj", "0.3"])

    @pytest.mark.parametrize("begun", [[], ["--ckpt.load_enable", "--ckpt.save_steps", "5"]])
    def test_the_same_run_begins_again_if_it_was_killed_before_a_checkpoint(
        self, begun: list[str], files: list[str], tmp_path: Path
    ) -> None:
        """Also if it was begun without checkpoints, as the message on a dead engine advises."""
        leave(tmp_path / "trials.jsonl", [*files, *begun], (1,))
        leave(tmp_path / "evaluations.jsonl", [*files, *begun, "--ckpt.load_enable"], (0,), evaluation=True)
        again = [*files, "--ckpt.load_enable", "--ckpt.save_steps", "5"]
        launcher.prepare(again)
        (tmp_path / "checkpoints" / "_actor").mkdir(parents=True)  # killed in the middle of the first one
        launcher.prepare(again)
        message = (
            r"--lamer\.trials .*trials\.jsonl holds the trials of another run, up to step 1 "
            r"\(in .*trials\.settings\.json, --lamer\.gamma_traj is 0\.6 there and 0\.3 here; "
            r"--train\.seed is not given there and 4 here\), and there is no checkpoint in --ckpt\.path "
            r".*checkpoints to go on from; give another file, or rename or remove that one and trials\.settings\.json"
        )
        with pytest.raises(ConfigError, match=message):
            launcher.prepare([*again, "--train.seed", "4", "--lamer.gamma_traj", "0.3"])
        with pytest.raises(ConfigError, match=r"--ckpt\.path is .*checkpoints there and .*other here"):
            launcher.prepare([*again, "--ckpt.path", str(tmp_path / "other")])
        settings_file(tmp_path / "trials.jsonl").unlink()
        with pytest.raises(ConfigError, match="no settings are beside it"):
            launcher.prepare(again)

    def test_what_is_no_file_of_a_training_is_refused_before_it_starts(self, files: list[str], tmp_path: Path) -> None:
        (tmp_path / "trials.jsonl").write_text('{"schema": 1, "sample": 0}\n')  # as `eval` writes them
        checkpoint(tmp_path / "checkpoints")
        resumed = [*files, "--ckpt.load_enable"]
        with pytest.raises(ConfigError, match=r"--lamer\.trials .*a line that no training wrote: .*give another file"):
            launcher.prepare(resumed)
        (tmp_path / "trials.jsonl").unlink()
        settings_file(tmp_path / "trials.jsonl").write_text("{}")
        with pytest.raises(ConfigError, match=r"--lamer\.trials .*trials\.settings\.json holds no settings"):
            launcher.prepare(resumed)
        (tmp_path / "trials.settings.json").unlink()
        with pytest.raises(ConfigError, match=r"--lamer\.trials .*is a folder; name a file in it, such as .*\.jsonl"):
            launcher.prepare([*resumed, "--lamer.trials", str(tmp_path)])
        with pytest.raises(ConfigError, match=r"--lamer\.trials and --lamer\.eval_trials are both .*give two files"):
            launcher.prepare([*resumed, "--lamer.trials", str(tmp_path / "evaluations.jsonl")])


class TestPlaces:
    def test_relative_paths_start_from_the_folder_of_the_command(
        self, base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Workers of a Ray that was started elsewhere are in another folder."""
        monkeypatch.chdir(tmp_path)
        given = "--lamer.trials", "runs/t.jsonl", "--ckpt.path=runs/c", "--logger.tensorboard_dir", "runs/b"
        plan = launcher.prepare([*base, *given])
        assert plan.line.config.trials == f"{tmp_path}/runs/t.jsonl"
        assert plan.line.config.eval_trials is None
        assert LamerConfig.model_validate_json(plan.line.config.to_env()).trials == f"{tmp_path}/runs/t.jsonl"
        parsed = vars(host_parser().parse_args(plan.host_argv))
        assert (parsed["ckpt.output_dir"], parsed["ckpt.path"]) == (f"{tmp_path}/ckpt", f"{tmp_path}/runs/c")
        assert parsed["logger.tensorboard_dir"] == f"{tmp_path}/runs/b"
        assert vars(host_parser().parse_args(launcher.prepare(base).host_argv))["logger.tensorboard_dir"] is None

    @pytest.mark.parametrize(
        "folder", ["ray/session_1", "elsewhere/session_1/runtime_resources/working_dir_files/_ray_pkg_ab"]
    )
    def test_output_in_a_temporary_folder_of_ray_is_a_warning(
        self, folder: str, base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = tmp_path / folder
        job.mkdir(parents=True)
        monkeypatch.chdir(job)
        assert told(base) == f"--ckpt.output_dir {job}/ckpt{LOST}"
        saving = [
            *base,
            "--ckpt.save_steps",
            "5",
            "--lamer.trials",
            "t.jsonl",
            "--ckpt.output_dir",
            str(tmp_path / "m"),
        ]
        assert told(saving) == f"--ckpt.path {job}/ckpt/checkpoints_ppo_ray, --lamer.trials {job}/t.jsonl{LOST}"
        lasting = ("--ckpt.path", str(tmp_path / "c"), "--lamer.trials", str(tmp_path / "t.jsonl"))
        assert told([*saving, *lasting]) is None
        (tmp_path / "link").symlink_to(job)
        assert told([*saving, *lasting, "--logger.tensorboard_dir", str(tmp_path / "link" / "b")]) is not None

    def test_no_warning_elsewhere(self, base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "ray").mkdir()
        for folder in ("raymond/ckpt", "runtime_resources/other/working_dir_files"):
            (tmp_path / folder).mkdir(parents=True)
            monkeypatch.chdir(tmp_path / folder)
            assert told(base) is None


LOST = (
    ": this is in a temporary folder of Ray's, which may be deleted when the job or Ray ends; give absolute paths on a "
    "disk that lasts"
)


def told(arguments: Sequence[str]) -> str | None:
    """The warning on temporary folders."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        launcher.prepare(arguments)
    found = [str(each.message) for each in caught if "temporary folder" in str(each.message)]
    assert len(found) < 2
    return found[0] if found else None


class TestSettings:
    def test_all_that_a_run_depends_on_is_recorded(self, base: list[str], tmp_path: Path) -> None:
        (tmp_path / "own.py").write_text("from openrlhf_lamer.agents.minesweeper import agent  # noqa: F401\n")
        given = ["--algo.advantage.estimator", "lamer_hgpo", "--lamer.hgpo.depth", "3", "--lamer.gamma_traj", "0.3"]
        given += ["--lamer.env_options", '{"mines": 4}', "--actor.adam.lr", "1e-5", "--logger.wandb.key", "secret"]
        plan = launcher.prepare([*base, *given, "--agent_func", str(tmp_path / "own.py")])
        settings = json.loads(json.dumps(plan.settings))
        assert "secret" not in json.dumps(settings)
        assert settings["estimator"] == "lamer_hgpo"
        assert settings["agent"] == {"name": str(tmp_path / "own.py"), "hash": settings["agent"]["hash"]}
        assert len(settings["agent"]["hash"]) == 32
        own = {flag for flag in LamerConfig.flags() if "." not in flag or flag.startswith("hgpo.")}
        assert settings["config"].keys() == own
        changed: Mapping[str, Any] = {"hgpo.depth": 3, "gamma_traj": 0.3, "env_options": {"mines": 4}}
        for name in own:
            expected = LamerConfig.flags()[name].get_default(call_default_factory=True)
            assert settings["config"][name] == changed.get(name, expected), name
        assert settings["host"] == {
            "actor.adam.lr": 1e-5,
            "actor.model_name_or_path": str(tmp_path / "model"),
            "algo.advantage.estimator": "lamer_hgpo",
            "data.prompt_dataset": str(tmp_path / "train.jsonl"),
        }
        assert settings["version"] == __version__
        for package in ("openrlhf", "ray", "torch"):
            assert settings["packages"][package] == importlib.metadata.version(package)

    def test_of_the_hosts_estimators_and_several_agents(self, base: list[str]) -> None:
        both = "openrlhf_lamer.agents.minesweeper,openrlhf_lamer.agents.sokoban"
        settings = launcher.prepare([*base, "--agent_func", both, "--algo.advantage.estimator", "rloo"]).settings
        assert settings["agent"] == [{"name": name} for name in both.split(",")]
        assert settings["estimator"] == "rloo"
        assert settings["estimator"] not in advantage.names()
        assert settings["config"].keys() == LamerConfig.model_fields.keys()


def readme(language: str = "bash") -> list[str]:
    """Command lines of the README, each in one line."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.replace("\\\n", "").splitlines() if line.strip()]


class TestReadme:
    def test_its_job_reads_and_writes_where_the_other_commands_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The tasks are written in one folder, with fewer of them, and the job begins in a folder of Ray's."""
        monkeypatch.setattr(launcher.cluster, "find", lambda: None)
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        home, job = tmp_path / "a b", tmp_path / "ray" / "session_1"
        home.mkdir()
        job.mkdir(parents=True)
        monkeypatch.chdir(home)
        for line in readme():
            if line.startswith("openrlhf-lamer prepare tasks"):
                result = CliRunner().invoke(app, shlex.split(line.replace("4096", "32"))[1:])
                assert result.exit_code == 0, result.output
        model = home / "models" / "Qwen3-4B"
        (download,) = (shlex.split(line) for line in readme() if line.startswith("hf download"))
        assert Path(download[download.index("--local-dir") + 1]).resolve() == model
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
        (model / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
        (line,) = (line for line in readme() if line.startswith("ray job submit"))
        submit, command = line.replace("$PWD", str(home)).split(" -- ")
        assert "--working-dir" not in submit
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "openrlhf.cli.train_ppo_ray"]
        monkeypatch.chdir(job)
        plan = launcher.prepare(words[3:])
        assert told(words[3:]) is None
        assert plan.line["ckpt.load_enable"]
        assert plan.line["ckpt.save_steps"] > 0

    def test_its_commands_read_what_earlier_ones_wrote(self) -> None:
        """Every folder in `runs` and `data`, and every model in `models`."""
        written, read = {"runs/quickstart"}, []
        for line in readme():
            words = [os.path.normpath(word.replace("$PWD/", "")) for word in shlex.split(line, comments=True)]
            outputs = {"--out", "--ckpt.output_dir", "--ckpt.path", "--lamer.trials", "--local-dir"}
            for flag, word in zip(["", *words], words, strict=False):
                if not word.startswith(("runs/", "data/", "models/")):
                    continue
                if flag in outputs:
                    written.add(word)
                else:
                    read.append(word)
                    above = {word, *map(str, Path(word).parents)}
                    assert above & written, f"{word} in: {line}"
        assert len(read) > 6
