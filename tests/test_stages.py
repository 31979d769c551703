"""Stages: commands that run once, are tracked by the lines they write, and resume where they were cut off."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from openrlhf_lamer.quickstart import stages
from openrlhf_lamer.quickstart.following import StageError, follow, watch
from openrlhf_lamer.quickstart.stages import Stage, read_note


class TestRunning:
    CONSOLE = Console(quiet=True)

    def stage(self, folder: Path, code: str, resumes: Path | None = None) -> Stage:
        lines = f"import pathlib; f = pathlib.Path({str(folder)!r}); {code}"
        return Stage(folder.name, folder, (sys.executable, "-c", lines), folder / "trials.jsonl", 2, resumes)

    def writes(self, folder: Path, resumes: Path | None = None) -> Stage:
        return self.stage(folder, "(f / 'trials.jsonl').open('a').write('x\\n')", resumes)

    def test_a_finished_stage_is_not_run_again(self, tmp_path: Path) -> None:
        own = [self.writes(tmp_path / name) for name in ("a", "b")]
        ran: list[str] = []
        for _ in range(2):
            assert stages.run(own, self.CONSOLE, after=lambda stage: ran.append(stage.name)) == []
        assert ran == ["a", "b"]
        assert [(stage.folder / "trials.jsonl").read_text() for stage in own] == ["x\n", "x\n"]

    def test_its_note_says_what_it_took(self, tmp_path: Path) -> None:
        stage = self.stage(tmp_path / "a", "import time; time.sleep(1.5)")
        stages.run([stage], self.CONSOLE)
        note = read_note(stage.folder)
        assert (note.command, note.finished) == (stage.said, True)
        assert 1.5 <= note.seconds < 60

    def test_a_command_may_show_its_own_progress(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        stages.run([Stage("own", tmp_path / "a", (sys.executable, "-c", "print('half done')"))], self.CONSOLE)
        assert capfd.readouterr().out == "half done\n"
        assert read_note(tmp_path / "a").finished

    def test_one_that_failed_is_run_again(self, tmp_path: Path) -> None:
        fails = self.stage(tmp_path / "a", "print('no memory'); exit(0 if (f.parent / 'fixed').exists() else 3)")
        with pytest.raises(StageError, match=r"^a: .* ended with code 3(.|\n)*no memory"):
            stages.run([fails, self.writes(tmp_path / "b")], self.CONSOLE)
        assert not (tmp_path / "b").exists()
        assert not fails.finished
        (tmp_path / "fixed").touch()
        stages.run([fails], self.CONSOLE)
        assert fails.finished

    @pytest.mark.parametrize("resumes", [False, True])
    def test_what_was_cut_off_goes_on_or_begins_again(self, resumes: bool, tmp_path: Path) -> None:
        folder = tmp_path / "a"
        folder.mkdir()
        (folder / "trials.jsonl").write_text("old\n")
        (folder / "evaluations.jsonl").write_text("whole\n")
        if resumes:
            (folder / "latest").touch()
        stages.run([self.writes(folder, folder / "latest")], self.CONSOLE)
        assert (folder / "trials.jsonl").read_text() == ("old\nx\n" if resumes else "x\n")
        assert (folder / "evaluations.jsonl").exists() == resumes

    def test_a_folder_of_another_command_is_refused(self, tmp_path: Path) -> None:
        stages.run([self.writes(tmp_path / "a")], self.CONSOLE)
        with pytest.raises(StageError, match="another command"):
            stages.run([self.stage(tmp_path / "a", "pass")], self.CONSOLE)

    def test_another_process_in_the_folder_is_waited_for_and_its_work_is_taken(self, tmp_path: Path) -> None:
        """Two processes begin one stage: the second neither removes the first's files nor does its work again."""
        folder = tmp_path / "a"
        slow = self.stage(folder, "import time; time.sleep(3); (f / 'trials.jsonl').write_text('x\\n')")
        heard = io.StringIO()
        with ThreadPoolExecutor(2) as pool:  # each call opens the lock file itself, as another process would
            first = pool.submit(stages.run, [slow], self.CONSOLE)
            while not read_note(folder).command:
                time.sleep(0.05)
            second = pool.submit(stages.run, [slow], Console(file=heard, width=200))
            assert (first.result(), second.result()) == ([], [])
        assert "Another process runs this stage" in heard.getvalue()
        assert "$ " not in heard.getvalue(), "the command was not run again"
        assert (folder / "trials.jsonl").read_text() == "x\n"

    def test_no_stage_begins_after_the_budget(self, tmp_path: Path) -> None:
        own = [self.writes(tmp_path / name) for name in ("a", "b", "c")]
        times = iter([0, 0, 119, 121])  # the start, then before each stage
        left = stages.run(own, self.CONSOLE, 2, clock=lambda: next(times))
        assert [stage.name for stage in left] == ["c"]
        assert not (tmp_path / "c").exists()
        assert stages.run(own, self.CONSOLE, 0) == [own[2]]


class TestFollowing:
    @pytest.fixture
    def command(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[str, ...]]:
        """A command that runs a module of this code."""

        def make(code: str) -> tuple[str, ...]:
            (tmp_path / "its_stage.py").write_text(code)
            return (sys.executable, "-m", "its_stage")

        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return make

    def test_lines_are_shown_in_a_pipe(self, command: Callable[[str], tuple[str, ...]], tmp_path: Path) -> None:
        results, log = tmp_path / "results", tmp_path / "logs" / "log"
        code = f"open({str(results)!r}, 'w').write('a\\n' * 3); print('done so far')"
        shown = io.StringIO()
        follow(Console(file=shown), command(code), log, results, 3, "trials")
        *told, last = shown.getvalue().splitlines()
        assert told[0].endswith(" -m its_stage")
        assert f"(log: {log})" in told[1]
        assert told[2] == "trials: 0 of 3, 0 s"
        assert last.startswith("trials: 3 of 3, ")
        assert log.read_text() == "done so far\n"

    def test_a_failure_names_the_log_and_shows_its_end(
        self, command: Callable[[str], tuple[str, ...]], tmp_path: Path
    ) -> None:
        log = tmp_path / "log"
        failing = command("import sys\nfor n in range(40): print('line', n)\nsys.exit(3)")
        with pytest.raises(StageError) as caught:
            follow(Console(file=io.StringIO()), failing, log, tmp_path / "results", 3, "trials")
        first, *rest = str(caught.value).splitlines()
        assert first == f"its_stage ended with code 3; the end of {log}:"
        assert rest == [f"line {n}" for n in range(25, 40)]

    def test_a_command_that_shows_its_own_progress(
        self, command: Callable[[str], tuple[str, ...]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        shown = io.StringIO()
        watch(Console(file=shown), command("print('mine')"))
        assert capfd.readouterr().out == "mine\n"
        assert shown.getvalue().endswith(" -m its_stage\n")
        with pytest.raises(StageError, match=r"^its_stage ended with code 2$"):
            watch(Console(file=shown), command("import sys; sys.exit(2)"))
