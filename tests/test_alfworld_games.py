"""ALFWorld: games from seeds, sets of tasks, bad input, and games prepared ahead of time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from alfworld_games import DATA, NAMES, file_of, kept, official, solve, transcript
from stand_ins import answer_under_any_hash_seed
from typer.testing import CliRunner

from openrlhf_lamer.cli.main import app
from openrlhf_lamer.envs import EpisodeOverError, Task, TaskError, make
from openrlhf_lamer.envs.alfworld import TASK_TYPES, catalogue, games, generator, sentences, storage, wheel
from openrlhf_lamer.envs.alfworld.env import AlfWorld

SEEDS = {name: number for number, name in enumerate(TASK_TYPES)}

PINNED = {0: "e00378aae37db75e", 2**30: "5730d90b24f46f08"}

TRANSCRIPTS = """
import random
from hashlib import sha256
from openrlhf_lamer.envs import Task, make
for types, seed in (("id", 5), ("ood", 5), ("all", 2**40), ("all", -1)):
    env, rng, lines = make("alfworld", task_types=types), random.Random(0), []
    observation = env.reset(Task("alfworld", seed=seed))
    for _ in range(15):
        lines.append(repr((observation, env.anchor(), env.oracle())))
        observation = env.step(rng.choice(observation.admissible)).observation
    print(sha256("".join(lines).encode()).hexdigest())
"""


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tests see these six official games and no others."""
    monkeypatch.setenv(catalogue.VARIABLE, str(DATA))
    return DATA / catalogue.FOLDER


class TestGenerated:
    @pytest.mark.parametrize("task_type", TASK_TYPES)
    def test_every_type_is_solved_by_the_oracle(self, task_type: str) -> None:
        env = AlfWorld(task_types=task_type)
        task = Task("alfworld", seed=SEEDS[task_type], options={"task_types": task_type})
        assert 3 <= solve(env, task) <= generator.MOST_COMMANDS

    def test_a_seed_is_the_same_game_on_every_machine(self) -> None:
        """The files' digests: they may change only together with `generator.VERSION`."""
        found = {seed: sha256(generator.make(seed, "all")[1]).hexdigest()[:16] for seed in (0, 2**30)}
        assert found == PINNED

    def test_neither_the_hash_seed_nor_the_process_matters(self, tmp_path: Path) -> None:
        answer = answer_under_any_hash_seed(TRANSCRIPTS, lambda seed: {storage.VARIABLE: str(tmp_path / seed)})
        assert len(answer.split()) == 4

    def test_games_are_kept_in_the_official_form_and_read_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        path = kept(3, "id")
        split, kind, trial = path.relative_to(generator.folder_of_games() / catalogue.FOLDER).parts[:3]
        told = json.loads((path.parent / "traj_data.json").read_text())
        assert (split, told["task_id"], told["task_type"]) == ("generated", trial, kind.split("-")[0])
        monkeypatch.setattr(generator, "make", lambda *_: pytest.fail("made again"))
        assert generator.game(3, "id").walkthrough

    def test_a_kept_game_that_broke_is_made_again(self) -> None:
        path = kept(4, "id")
        content = path.read_bytes()
        path.write_bytes(content[:1000])
        assert generator.game(4, "id").walkthrough
        assert path.read_bytes() == content

    def test_what_is_kept_is_read_again_and_made_again_where_it_broke(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def fresh() -> list[list[Any]]:
            games._compiled.cache_clear()
            sentences._parse.cache_clear()
            return transcript(file_of(NAMES[0]), 8)

        monkeypatch.setenv(storage.VARIABLE, str(tmp_path))
        before = fresh()
        with monkeypatch.context() as unread:
            unread.setattr(games, "_compile", lambda *_: pytest.fail("translated again"))
            unread.setattr(sentences, "_parse_uncached", lambda _: pytest.fail("parsed again"))
            assert fresh() == before
        for path in (*tmp_path.rglob("*.zlib"), *tmp_path.rglob("*.json")):
            path.write_bytes(path.read_bytes()[:-100])
        assert fresh() == before

    def test_several_processes_that_need_one_game_make_it_once(self, tmp_path: Path) -> None:
        code = (
            "from openrlhf_lamer.envs.alfworld import games, generator\n"
            "compile = games._compile\n"
            "games._compile = lambda *source: print('translated') or compile(*source)\n"
            "print(generator.game(6, 'id').key)\n"
        )
        env = {**os.environ, storage.VARIABLE: str(tmp_path)}
        running = [
            subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)
        ]
        lines = [line for each in running for line in each.communicate()[0].split()]
        assert lines.count("translated") == 1
        assert len(lines) == 4
        assert len(set(lines)) == 2


class TestTasks:
    def test_families_have_one_form(self) -> None:
        assert catalogue.family(["pick_two_obj_and_place", "pick_cool_then_place_in_recep"]) == "ood"
        assert catalogue.family(",".join(reversed(TASK_TYPES))) == "all"
        assert AlfWorld(task_types=("look_at_obj_in_light",)).task_types == "look_at_obj_in_light"

    def test_options_of_a_task_may_be_written_in_any_form(self) -> None:
        types = ["pick_cool_then_place_in_recep", "pick_two_obj_and_place"]
        env = make("alfworld", task_types=types)
        env.reset(Task("alfworld", seed=1, options={"task_types": types}))
        env.reset(Task.from_json(Task("alfworld", seed=1, options={"task_types": tuple(types)}).to_json()))
        with pytest.raises(TaskError, match="needs task_types='id'"):
            env.reset(Task("alfworld", seed=1, options={"task_types": "id"}))

    @pytest.mark.parametrize("value", ["pick_nothing", "", [], 3, ["id", "ood"]])
    def test_an_unknown_task_type_is_answered_with_the_list(self, value: Any) -> None:
        with pytest.raises(TaskError, match="task_types"):
            make("alfworld", task_types=value)

    def test_official_splits_are_listed_by_name_with_hashes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        one_each = dict.fromkeys(TASK_TYPES, 1)
        monkeypatch.setattr(catalogue, "COUNTS", {"valid_seen": one_each})
        found = catalogue.official_tasks("valid_seen")
        assert [task.spec and task.spec["game"] for task in found] == sorted(NAMES)
        assert found[0].spec == {"game": NAMES[0], "sha256": sha256(file_of(NAMES[0]).read_bytes()).hexdigest()}
        assert len(catalogue.official_tasks("valid_seen", "id")) == 4
        ood = AlfWorld.tasks("valid_seen", options={"task_types": "ood"})
        assert [task.options for task in ood] == [{"task_types": "ood"}] * 2
        assert solve(AlfWorld(task_types="ood"), ood[1]) > 0
        assert AlfWorld.tasks("valid_seen", 2, first=1) == AlfWorld.tasks("valid_seen")[1:3]
        with pytest.raises(TaskError, match="valid_seen has 6 tasks"):
            AlfWorld.tasks("valid_seen", 2, first=5)

    def test_the_official_counts_add_up_to_the_papers(self) -> None:
        def count(split: str, names: tuple[str, ...]) -> int:
            return sum(catalogue.COUNTS[split][name] for name in names)

        indistribution = [count(split, catalogue.IN_DISTRIBUTION) for split in catalogue.COUNTS]
        assert indistribution == [2207, 91, 96]
        assert [count(split, catalogue.OUT_OF_DISTRIBUTION) for split in catalogue.COUNTS] == [1346, 49, 38]

    def test_seeds_are_the_tasks_of_train_and_eval(self) -> None:
        train, held = AlfWorld.tasks("train", 3), AlfWorld.tasks("eval", options={"task_types": "ood"})
        assert [task.seed for task in train] == [0, 1, 2]
        assert len(held) == 128
        assert not {task.seed for task in train} & {task.seed for task in held}
        with pytest.raises(TaskError, match="no split 'test'; there are: train, eval, official_train, valid_seen"):
            AlfWorld.tasks("test")


class TestBadInput:
    def test_a_missing_data_set_is_named_with_the_remedy(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv(catalogue.VARIABLE, str(tmp_path))
        with pytest.raises(TaskError, match=rf"no games in {tmp_path}.*alfworld-download"):
            catalogue.official_tasks("valid_seen")
        with pytest.raises(TaskError, match=rf"{tmp_path}.*No such file.*alfworld-download"):
            make("alfworld").reset(official(NAMES[0]))

    def test_a_half_downloaded_split_is_refused(self) -> None:
        with pytest.raises(TaskError, match=r"valid_seen holds 6 games.*official split 140.*alfworld-download"):
            catalogue.official_tasks("valid_seen")

    @pytest.mark.parametrize(
        ("spoil", "problem"),
        [
            (lambda content: content[:5000], "not JSON"),
            (lambda content: b"", "not JSON"),
            (lambda content: b"[]", "no 'pddl_domain'"),
            (lambda content: content.replace(b'"grammar"', b'"grammer"'), "no 'grammar'"),
            (lambda content: content.replace(b"(:init", b"(:unit"), "rules cannot be read"),
            (lambda content: content.replace(b"action GotoLocation {", b"action GotoLocation"), "rules cannot be read"),
        ],
    )
    def test_a_corrupt_game_file_is_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spoil: Callable[[bytes], bytes], problem: str
    ) -> None:
        path = tmp_path / catalogue.FOLDER / NAMES[0] / catalogue.FILE
        path.parent.mkdir(parents=True)
        path.write_bytes(spoil(file_of(NAMES[0]).read_bytes()))
        monkeypatch.setenv(catalogue.VARIABLE, str(tmp_path))
        env = make("alfworld")
        with pytest.raises(TaskError, match=rf"{re.escape(str(path))}: .*{problem}.*alfworld-download"):
            env.reset(official(NAMES[0]))
        with pytest.raises(EpisodeOverError):
            env.step("look")

    def test_another_version_of_a_game_is_refused(self) -> None:
        task = Task("alfworld", spec={"game": NAMES[0], "sha256": "0" * 64})
        with pytest.raises(TaskError, match=r"game\.tw-pddl is not the game of this task.*alfworld-download"):
            make("alfworld").reset(task)

    @pytest.mark.parametrize("spec", [{}, {"file": "a"}, {"game": "../../etc"}, {"game": "/etc"}])
    def test_a_spec_of_another_kind_is_refused(self, spec: dict[str, Any]) -> None:
        with pytest.raises(TaskError, match="spec"):
            make("alfworld").reset(Task("alfworld", spec=spec))

    def test_without_the_extra_the_error_names_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wheel, "find_spec", lambda name: None)
        with pytest.raises(TaskError, match=r"pip install 'openrlhf-lamer\[alfworld\]'"):
            make("alfworld")

    def test_a_folder_that_cannot_be_written_to_is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv(storage.VARIABLE, str(tmp_path / "file"))
        with pytest.raises(TaskError, match=f"{tmp_path}.*set {storage.VARIABLE}"):
            make("alfworld").reset(Task("alfworld", seed=99))


class TestPrepare:
    def test_a_complete_split_passes_and_a_cut_one_is_named(self, tmp_path: Path) -> None:
        content = json.dumps({"pddl_domain": "", "pddl_problem": "", "grammar": "", "solvable": True})
        folder = tmp_path / catalogue.FOLDER / "valid_unseen"
        for name, count in catalogue.COUNTS["valid_unseen"].items():
            for number in range(count):
                path = folder / f"{name}-A-None-B-1" / str(number)
                path.mkdir(parents=True)
                (path / catalogue.FILE).write_text(content)
        whole = CliRunner().invoke(app, ["prepare", "alfworld", "--data", str(tmp_path)])
        assert whole.exit_code == 0, whole.output
        assert "24 of 24" in whole.output
        broken = folder / f"{TASK_TYPES[0]}-A-None-B-1" / "7" / catalogue.FILE
        broken.write_text(content[:20])
        cut = CliRunner().invoke(app, ["prepare", "alfworld", "--data", str(tmp_path)])
        assert cut.exit_code == 2
        assert f"{broken}: it is not JSON" in cut.output
        assert "incomplete: valid_unseen, 1 broken files; run `alfworld-download" in cut.output

    def test_no_folder_and_nothing_to_do_are_errors(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        missing = CliRunner().invoke(app, ["prepare", "alfworld", "--data", str(tmp_path)])
        assert (missing.exit_code, "it holds no folder" in missing.output) == (2, True)
        monkeypatch.delenv(catalogue.VARIABLE)
        nothing = CliRunner().invoke(app, ["prepare", "alfworld"])
        assert (nothing.exit_code, "--games N" in nothing.output) == (2, True)
        unknown = CliRunner().invoke(app, ["prepare", "alfworld", "--games", "1", "--task-types", "pick_all"])
        assert (unknown.exit_code, "'pick_all'" in unknown.output) == (2, True)

    def test_official_games_are_translated_ahead(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv(storage.VARIABLE, str(tmp_path))
        monkeypatch.setattr(catalogue, "COUNTS", counts := {"valid_seen": dict.fromkeys(TASK_TYPES, 1)})
        monkeypatch.setattr("openrlhf_lamer.envs.alfworld.prepare.COUNTS", counts)
        done = CliRunner().invoke(app, ["prepare", "alfworld", "--data", str(DATA), "--translate", "--workers", "2"])
        assert done.exit_code == 0, done.output
        games._compiled.cache_clear()
        monkeypatch.setattr(games, "_compile", lambda *_: pytest.fail("translated again"))
        assert [solve(AlfWorld(), official(name)) > 0 for name in NAMES] == [True] * 6

    def test_games_are_made_by_several_processes(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv(storage.VARIABLE, str(tmp_path))
        monkeypatch.delenv(catalogue.VARIABLE)
        done = CliRunner().invoke(app, ["prepare", "alfworld", "--games", "2", "--split", "eval", "--workers", "2"])
        assert done.exit_code == 0, done.output
        assert "2 generated games (eval, id)" in done.output
        monkeypatch.setattr(generator, "make", lambda *_: pytest.fail("made again"))
        for task in AlfWorld.tasks("eval", 2):
            make("alfworld").reset(task)
