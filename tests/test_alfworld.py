"""ALFWorld: the same game as the stock engine's, games from seeds, bad input, and nothing that grows."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.envs import EpisodeOverError, Task, TaskError, check_env, make
from openrlhf_lamer.envs.alfworld import TASK_TYPES, catalogue, games, generator, planner, sentences, storage, wheel
from openrlhf_lamer.envs.alfworld.env import AlfWorld
from openrlhf_lamer.envs.base import SUCCESS_REWARD
from openrlhf_lamer.policies.scripted import OraclePolicy
from openrlhf_lamer.records import Phase, Trial

DATA = Path(__file__).parent / "data" / "alfworld"
"""One official game of each task type."""
STOCK = Path(__file__).parent / "alfworld_stock.py"

NAMES = catalogue.official_names("valid_seen", folder=DATA / catalogue.FOLDER)
SEEDS = {name: number for number, name in enumerate(TASK_TYPES)}


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tests see these six official games and no others."""
    monkeypatch.setenv(catalogue.VARIABLE, str(DATA))
    return DATA / catalogue.FOLDER


def official(name: str) -> Task:
    return Task("alfworld", spec={"game": name})


def file_of(name: str) -> Path:
    return DATA / catalogue.FOLDER / name / catalogue.FILE


def transcript(path: Path, steps: int) -> list[list[Any]]:
    """What our engine answers to the commands that `alfworld_stock.py` gives."""
    game = games.load(path)
    play = games.Play()
    rows: list[list[Any]] = [["", play.begin(game), list(play.commands), play.won]]
    walkthrough = list(game.walkthrough)
    rng = random.Random(0)
    for _ in range(steps):
        wanders = rng.random() < 0.5 or not walkthrough
        command = rng.choice(play.commands) if wanders else walkthrough.pop(0)
        answer = play.do(command)
        rows.append([command, games.NOTHING_HAPPENS if answer is None else answer, list(play.commands), play.won])
        if play.won:
            break
    play.close()
    return rows


def kept(seed: int, task_types: str) -> Path:
    """The file of a generated game."""
    generator.game(seed, task_types)
    folder = generator.folder_of_games()
    return folder / (folder / "seeds" / task_types / str(seed)).read_text() / catalogue.FILE


def solve(env: AlfWorld, task: Task) -> int:
    """Let the oracle play; returns the number of commands, or 0 where it does not win."""
    env.reset(task)
    commands = 0
    while (command := env.oracle()) is not None:
        step = env.step(command)
        commands += 1
        assert step.valid, command
        if step.won:
            return commands
    return 0


class TestEngine:
    def test_transcripts_equal_the_stock_engines(self, tmp_path: Path) -> None:
        """All six official games and a generated one: answers, commands and endings, word for word."""
        files = [*map(file_of, NAMES), kept(1, "ood")]
        answer = subprocess.run(
            [sys.executable, str(STOCK), "12", *map(str, files)],
            env={**os.environ, catalogue.VARIABLE: str(tmp_path)},
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        stock = json.loads(answer.stdout)
        for path, theirs in zip(files, stock, strict=True):
            assert transcript(path, 12) == theirs, path
        assert any(rows[-1][-1] for rows in stock)

    def test_the_grammar_is_that_of_the_game_whatever_its_goal(self) -> None:
        """A goal with signs of the grammar takes the slow way, and says the same."""
        text = wheel.grammar()
        plain = games.parse(text.replace("UNKNOWN GOAL", "put a mug on desk"))
        signs = games.parse(text.replace("UNKNOWN GOAL", "put {'a' + ' mug'} on desk"))
        assert len({*plain.predicates()}) > 10
        said = [each.say(each.rules["task"][0].symbols, {}, {}, {}) for each in (plain, signs)]
        assert said == ["Your task is to: put a mug on desk."] * 2

    def test_translating_leaves_the_process_as_it_was(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["mine", "--flag"])
        before = sys.argv
        planner.translate(wheel.domain(), json.loads(file_of(NAMES[0]).read_bytes())["pddl_problem"])
        assert sys.argv is before

    def test_copies_of_the_planner_are_small_and_used_again(self) -> None:
        def copies() -> set[str]:
            return set(re.findall(r"\S+\.so(?= \(deleted\))", Path("/proc/self/maps").read_text()))

        game = games.load(file_of(NAMES[0]))
        plays = [games.Play() for _ in range(6)]
        for play in plays:
            play.begin(game)
        opened = copies()
        assert len(opened) >= 6
        for play in plays:
            play.close()
            play.close()
        del plays[3:]
        again = [games.Play() for _ in range(6)]
        assert copies() == opened
        for play in again:
            play.close()
        assert len(planner._loaded_part(Path(wheel._root().parent / "fast_downward" / "libdownward.so"))) < 2**21

    def test_a_dropped_play_gives_its_copy_back(self) -> None:
        idle = len(planner._idle)
        play = games.Play()
        had = len(planner._idle)
        del play
        assert len(planner._idle) == max(idle, 1) == had + 1

    def test_a_copy_that_a_thread_hangs_in_is_not_used_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        entered, leave = threading.Event(), threading.Event()
        apply = planner.apply

        def hang(*arguments: Any) -> Any:
            entered.set()
            leave.wait()
            return apply(*arguments)

        play = games.Play()
        play.begin(games.load(file_of(NAMES[0])))
        monkeypatch.setattr(planner, "apply", hang)
        thread = threading.Thread(target=play.do, args=("look",))
        thread.start()
        entered.wait()
        idle = list(planner._idle)
        play.close()
        assert planner._idle == idle
        leave.set()
        thread.join()
        play.close()
        assert planner._idle == idle

    def test_games_played_at_once_do_not_meet(self) -> None:
        """Two in turns answer as each of them alone."""
        alone = [transcript(file_of(name), 12) for name in NAMES[:2]]
        plays = [games.Play(), games.Play()]
        texts = [[play.begin(games.load(file_of(name)))] for play, name in zip(plays, NAMES, strict=False)]
        for turn in range(1, 13):
            for play, rows, said in zip(plays, alone, texts, strict=True):
                if turn < len(rows):
                    said.append(play.do(rows[turn][0]) or games.NOTHING_HAPPENS)
        assert texts == [[row[1] for row in rows] for rows in alone]


class TestEnvironment:
    @pytest.mark.parametrize("name", NAMES, ids=[name.split("/")[1] for name in NAMES])
    def test_official_games_keep_the_contract_and_are_won_by_their_walkthrough(self, name: str) -> None:
        check_env("alfworld", tasks=[official(name)], steps=25)
        assert 3 <= solve(AlfWorld(), official(name)) <= 10

    def test_a_refused_command_is_answered_and_changes_nothing(self) -> None:
        env = AlfWorld(max_steps=2)
        first = env.reset(official(NAMES[0]))
        anchor = env.anchor()
        for _ in range(3):
            step = env.step("go to the moon")
            assert (step.observation.text, step.valid, step.truncated) == ("Nothing happens.", False, False)
            assert step.observation.admissible == first.admissible
        assert env.anchor() == anchor

    def test_commands_are_listed_without_help_and_taken_in_any_spelling(self) -> None:
        env = AlfWorld()
        observation = env.reset(official(NAMES[0]))
        assert list(observation.admissible) == sorted(observation.admissible)
        assert "look" in observation.admissible
        assert "help" not in observation.admissible
        assert env.step("help").valid
        command = next(each for each in observation.admissible if each.startswith("go to"))
        assert env.step("  " + command.upper().replace(" ", "  ")).valid

    def test_the_cap_truncates(self) -> None:
        env = AlfWorld(max_steps=3)
        env.reset(official(NAMES[0]))
        steps = [env.step("look") for _ in range(3)]
        assert [step.truncated for step in steps] == [False, False, True]
        assert not any(step.terminated for step in steps)
        with pytest.raises(EpisodeOverError):
            env.step("look")

    def test_only_the_winning_command_pays(self) -> None:
        for reward in ("sparse", "shaped"):
            env = make("alfworld", reward=reward)
            env.reset(official(NAMES[0]))
            rewards = []
            while (command := env.oracle()) is not None:
                rewards.append(env.step(command).reward)
            assert rewards == [0.0] * (len(rewards) - 1) + [SUCCESS_REWARD]

    def test_anchors_tell_states_apart_and_looking_around_changes_none(self) -> None:
        env = AlfWorld()
        env.reset(official(NAMES[0]))
        anchors = [env.anchor()]
        while (command := env.oracle()) is not None:
            env.step("look")
            env.step("inventory")
            assert env.anchor() == anchors[-1]
            env.step(command)
            anchors.append(env.anchor())
        assert len(set(anchors)) == len(anchors)
        others = set()
        for name in NAMES:
            env.reset(official(name))
            others.add(env.anchor())
        assert len(others) == len(NAMES)

    def test_ways_to_one_state_have_one_anchor(self) -> None:
        env = AlfWorld()
        observation = env.reset(official(NAMES[0]))
        places = [each for each in observation.admissible if each.startswith("go to")]
        env.step(places[0])
        anchor = env.anchor()
        env.step(places[1])
        assert env.anchor() != anchor
        env.step(places[0])
        assert env.anchor() == anchor

    def test_the_oracle_is_silent_off_its_path_and_finds_back_to_it(self) -> None:
        env = AlfWorld()
        observation = env.reset(official(NAMES[0]))
        first = env.oracle()
        away = next(each for each in observation.admissible if each.startswith("go to") and each != first)
        env.step(away)
        assert env.oracle() is None
        env.reset(official(NAMES[0]))
        assert env.oracle() == first

    def test_the_agent_plays_a_whole_trial(self, play: Callable[..., Trial], chat: Chat) -> None:
        """The oracle wins with ten turns; with two it must write a reflection."""
        agent = load_agent("openrlhf_lamer.agents.alfworld")[0]
        assert (agent.max_turns, agent.window) == (10, 15)
        trial = play(OraclePolicy(chat), agent=agent, max_length=16000)
        assert trial.failure is None
        assert trial.won_by(1)
        lost = play(OraclePolicy(chat), agent=agent, max_turns=2, num_episodes=2, max_length=16000)
        assert [turn.phase for turn in lost.turns].count(Phase.REFLECT) == 1
        assert [turn.phase for turn in lost.turns].count(Phase.PLAY) == 4

    def test_the_prompt_lists_the_commands_and_the_reflection_what_was_answered(self) -> None:
        agent = load_agent("openrlhf_lamer.agents.alfworld")[0]
        env = AlfWorld()
        start = env.reset(official(NAMES[0]))
        common: dict[str, Any] = {"env": env.facts, "initial": start, "episode": 0, "num_episodes": 3}
        prompt = agent.play_message(continuing=False, memory=(), turns=(), observation=start, turns_left=10, **common)
        assert "\n".join(start.admissible) in prompt
        assert "Your task is to:" in prompt
        assert prompt.count(start.text) == 1


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
        answers = {
            subprocess.run(
                [sys.executable, "-c", TRANSCRIPTS],
                env={**os.environ, "PYTHONHASHSEED": hash_seed, storage.VARIABLE: str(tmp_path / hash_seed)},
                capture_output=True,
                encoding="utf-8",
                check=True,
            ).stdout
            for hash_seed in ("0", "4711")
        }
        assert len(answers) == 1
        assert len(answers.pop().split()) == 4

    def test_games_are_kept_in_the_official_form_and_read_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        path = kept(3, "id")
        split, kind, trial = path.relative_to(generator.folder_of_games() / catalogue.FOLDER).parts[:3]
        told = json.loads((path.parent / "traj_data.json").read_text())
        assert (split, told["task_id"], told["task_type"]) == ("generated", trial, kind.split("-")[0])
        monkeypatch.setattr(generator, "make", lambda *_: pytest.fail("made anew"))
        assert generator.game(3, "id").walkthrough

    def test_a_kept_game_that_broke_is_made_anew(self) -> None:
        path = kept(4, "id")
        content = path.read_bytes()
        path.write_bytes(content[:1000])
        assert generator.game(4, "id").walkthrough
        assert path.read_bytes() == content

    def test_what_is_kept_is_read_again_and_made_anew_where_it_broke(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def anew() -> list[list[Any]]:
            games._compiled.cache_clear()
            sentences._parse.cache_clear()
            return transcript(file_of(NAMES[0]), 8)

        monkeypatch.setenv(storage.VARIABLE, str(tmp_path))
        before = anew()
        with monkeypatch.context() as unread:
            unread.setattr(games, "_compile", lambda *_: pytest.fail("translated anew"))
            unread.setattr(sentences, "_parse_anew", lambda _: pytest.fail("parsed anew"))
            assert anew() == before
        for path in (*tmp_path.rglob("*.zlib"), *tmp_path.rglob("*.json")):
            path.write_bytes(path.read_bytes()[:-100])
        assert anew() == before

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
        monkeypatch.setattr(games, "_compile", lambda *_: pytest.fail("translated anew"))
        assert [solve(AlfWorld(), official(name)) > 0 for name in NAMES] == [True] * 6

    def test_games_are_made_by_several_processes(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv(storage.VARIABLE, str(tmp_path))
        monkeypatch.delenv(catalogue.VARIABLE)
        done = CliRunner().invoke(app, ["prepare", "alfworld", "--games", "2", "--split", "eval", "--workers", "2"])
        assert done.exit_code == 0, done.output
        assert "2 generated games (eval, id)" in done.output
        monkeypatch.setattr(generator, "make", lambda *_: pytest.fail("made anew"))
        for task in AlfWorld.tasks("eval", 2):
            make("alfworld").reset(task)


def test_memory_and_disk_stay_flat() -> None:
    """Resets and steps on all games, in turns, with instances dropped and closed: nothing is left behind."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def held() -> int:
        return Path("/proc/self/maps").read_text().count("(deleted)")

    rng = random.Random(0)

    def some(resets: int) -> None:
        for number in range(resets):
            env = AlfWorld()
            observation = env.reset(official(NAMES[number % len(NAMES)]))
            for _ in range(10):
                observation = env.step(rng.choice(observation.admissible)).observation
            if number % 2:
                env.close()

    some(60)
    memory, disk = resident(), held()
    some(240)
    assert held() == disk
    assert resident() < 1.05 * memory


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
