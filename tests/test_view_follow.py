"""The viewer's server: trials of a file that grows, and curves over its steps, also in a real browser."""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from openrlhf_lamer import metrics
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.evaluation import viewer
from openrlhf_lamer.evaluation.viewer.growing import GrowingFile
from openrlhf_lamer.evaluation.viewer.live import Following, LiveServer, StaleError
from openrlhf_lamer.records import Episode, Failure, FailureKind, Phase, Stop, Task, Trial, Turn

Browsed = Callable[[Path | str, str], str]


def turn(phase: Phase, episode: int, logprobs: Sequence[float], *, valid: bool = True) -> Turn:
    return Turn(phase, episode, 0, (1, 2), (3,) * len(logprobs), logprobs, "ein Zug ✓", "a", valid, 0.0, "s", "a board")


def made(seed: int, won_at: int | None, *, valid: bool = True, surprise: float = 1.0) -> Trial:
    """A trial of at most two episodes of one turn."""
    last = won_at or 2
    episodes = []
    for n in range(last):
        won = n + 1 == won_at
        reflection = None if won or n == 1 else turn(Phase.REFLECT, n, [-3 * surprise])
        stop = Stop.WON if won else Stop.LOST
        episodes.append(Episode((turn(Phase.PLAY, n, [-surprise, -0.5], valid=valid),), stop, "the end", reflection))
    return Trial(Task("toy", seed=seed), tuple(episodes))


FAILED = replace(made(9, None), failure=Failure(FailureKind.ENGINE, "generate", "away"))
STEPS = {
    1: (made(0, None, valid=False), made(1, 2), made(2, None), FAILED),
    2: (made(3, 1), made(4, 2, surprise=0.5), made(5, 1, valid=False)),
}


def lines(step: int) -> str:
    return "".join(f'{each.to_json()[:-1]},"step":{step},"group":0}}\n' for each in STEPS[step])


WHOLE = (lines(1) + lines(2)).encode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "trials.jsonl"
    path.write_text(lines(1))
    return path


@pytest.fixture
def server(file: Path) -> Iterator[LiveServer]:
    with LiveServer(Following(file), file.name, "a run") as made_server:
        Thread(target=made_server.serve_forever, daemon=True).start()
        yield made_server
        made_server.shutdown()


def got(address: str, **headers: str) -> httpx.Response:
    return httpx.get(address, headers=headers, timeout=20, trust_env=False)


def news(server: LiveServer, run: str = "", known: int = 0) -> dict[str, Any]:
    return got(f"{server.url}news?run={run}&known={known}").json()


@settings(deadline=None)
@given(content=st.binary(max_size=60), cuts=st.lists(st.integers(0, 60)), most=st.integers(1, 70))
def test_lines_do_not_depend_on_how_they_were_written_and_read(content: bytes, cuts: list[int], most: int) -> None:
    ends = [*sorted(min(cut, len(content)) for cut in cuts), len(content)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "f"
        growing = GrowingFile(path)
        assert growing.read().missing
        found = []
        for end in ends:
            path.write_bytes(content[:end])
            more = True
            while more:
                reading = growing.read(most)
                assert not reading.restarted
                found.extend(reading.lines)
                more = reading.more
        texts = [line.decode("utf-8", "replace") for line in content.split(b"\n")[:-1]]
        assert [line.text for line in found] == texts
        assert [growing.line_at(line.start).removesuffix("\n") for line in found] == texts


@settings(deadline=None, max_examples=50)
@given(cuts=st.lists(st.integers(0, len(WHOLE)), max_size=8))
def test_any_split_of_writes_gives_the_same_trials(cuts: list[int]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trials.jsonl"
        following = Following(path)
        run, index, points = "", [], []
        for end in [*sorted(cuts), len(WHOLE)]:
            path.write_bytes(WHOLE[:end])
            found = following.news(run, len(index))
            assert found["run"] == run or not run
            assert found["state"] == ""
            run, points = found["run"], found["points"]
            index.extend(found["index"])
        entries = viewer.read(WHOLE.decode().splitlines(keepends=True))
        assert index == [viewer.summary(entry) for entry in entries]
        assert [json.loads(each) for each in following.details(run, 0, len(index))] == [
            json.loads(viewer.embedded(viewer.details(entry, None))) for entry in entries
        ]
        assert [point["step"] for point in points] == [1, 2]


@pytest.mark.parametrize(
    "replaced", [b"x\ny\n", b"one\ntwo\nthree and more\nfour\n", b""], ids=["cut", "other", "empty"]
)
def test_a_file_that_was_cut_or_replaced_is_read_again(tmp_path: Path, replaced: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one\nzwei\nhalf")
    growing = GrowingFile(path)
    assert [line.text for line in growing.read().lines] == ["one", "zwei"]
    path.write_bytes(replaced)
    reading = growing.read()
    assert reading.restarted
    assert [line.text for line in reading.lines] == replaced.decode().splitlines()
    path.unlink()
    assert growing.read().missing


def test_a_copy_that_has_grown_goes_on(tmp_path: Path) -> None:
    path, copy = tmp_path / "f", tmp_path / "copy"
    path.write_bytes(b"one\nhal")
    growing = GrowingFile(path)
    growing.read()
    copy.write_bytes(b"one\nhalf\n")
    copy.replace(path)
    reading = growing.read()
    assert not reading.restarted
    assert [(line.start, line.text) for line in reading.lines] == [(4, "half")]


def test_a_resumed_training_replaces_its_steps(file: Path) -> None:
    following = Following(file)
    first = following.news("", 0)
    file.write_text(lines(1) + lines(2))
    second = following.news(first["run"], len(first["index"]))
    assert (second["run"], len(second["index"])) == (first["run"], len(STEPS[2]))
    file.write_text(lines(1))
    third = following.news(first["run"], 7)
    assert third["run"] != first["run"]
    assert third["index"] == first["index"]
    assert [point["step"] for point in third["points"]] == [1]
    with pytest.raises(StaleError):
        following.details(first["run"], 0, 1)


@pytest.mark.parametrize("line", ['{"task": 1}', '{"task": ' + "9" * 5000 + "}", "[" * 100_000])
def test_a_line_that_is_no_trial_is_left_out_and_named(file: Path, line: str) -> None:
    with file.open("a") as written:
        written.write(f"{line}\n{lines(2)}")
    found = Following(file).news("", 0)
    assert len(found["index"]) == len(STEPS[1]) + len(STEPS[2])
    assert found["state"].startswith("line 5 is left out: not a trial")


def test_curves_are_those_of_a_plain_computation(server: LiveServer, file: Path) -> None:
    file.write_text(lines(1) + lines(2))
    first, second = news(server)["points"]
    assert first == {
        "env": "toy",
        "step": 1,
        "trials": 3,
        "first": 0.0,
        "won": pytest.approx(1 / 3),
        "play": pytest.approx((6 * 1.0 + 6 * 0.5) / 12),
        "reflect": pytest.approx(3.0),
        "invalid": pytest.approx(2 / 6),
    }
    logged = metrics.summarize(STEPS[2], 2, 0.6)
    names = {"first": "success@1", "won": "success@2", "play": "entropy/play", "reflect": "entropy/reflect"}
    for name, logs in (names | {"invalid": "invalid_actions"}).items():
        assert second[name] == pytest.approx(logged[logs]), name


def test_a_figure_without_observations_is_none() -> None:
    curves = viewer.Curves()
    silent = Episode((replace(turn(Phase.PLAY, 0, []), logprobs=None),), Stop.WON, "")
    curves.add(Trial(Task("toy", seed=0), (silent,)), 4)
    curves.add(FAILED, 4)
    curves.add(made(0, 1), None)
    (point,) = map(asdict, curves.points())
    assert (point["trials"], point["won"], point["invalid"]) == (1, 1.0, 0.0)
    assert point["play"] is point["reflect"] is None


def test_the_server_gives_new_trials_only(server: LiveServer, file: Path) -> None:
    first = news(server)
    assert [entry["task"] for entry in first["index"]] == [trial.task.id for trial in STEPS[1]]
    half = len(lines(2)) // 2
    with file.open("a") as written:
        written.write(lines(2)[:half])
        written.flush()
        some = news(server, first["run"], 4)["index"]
        written.write(lines(2)[half:])
    rest = news(server, first["run"], 4 + len(some))["index"]
    assert len(some) < 3
    assert [entry["task"] for entry in some + rest] == [trial.task.id for trial in STEPS[2]]
    assert news(server, first["run"], 7)["index"] == []
    opened = got(f"{server.url}details?run={first['run']}&first=1&end=3").text.splitlines()
    assert [len(json.loads(line)["episodes"]) for line in opened] == [2, 2]


def test_a_page_that_is_closed_while_it_waits_leaves_the_terminal_quiet(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    closed, handled = Event(), Event()
    answer, shutdown = Following.news, LiveServer.shutdown_request

    def late(following: Following, run: str, known: int) -> dict[str, Any]:
        assert closed.wait(20)
        return answer(following, run, known) | {"state": "x" * 10_000_000}

    def ended(served: LiveServer, request: Any) -> None:
        shutdown(served, request)
        handled.set()

    monkeypatch.setattr(Following, "news", late)
    monkeypatch.setattr(LiveServer, "shutdown_request", ended)
    with socket.create_connection(("127.0.0.1", server.server_port)) as page:
        page.sendall(b"GET /news?run=&known=0 HTTP/1.0\r\nHost: localhost\r\n\r\n")
        page.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, at once
    closed.set()
    assert handled.wait(20)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("asked", "status"), [("etc/passwd", 404), ("news?run=x", 400), ("details?run=x&first=0&end=1", 409)]
)
def test_other_requests_are_refused(server: LiveServer, asked: str, status: int) -> None:
    assert got(server.url + asked).status_code == status


def test_only_this_machine_is_served(server: LiveServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert got(server.url, Host="elsewhere.example").status_code == 403
    assert "connect-src 'self'" in got(server.url).text


def test_a_browser_shows_trials_and_curves_of_the_server(server: LiveServer, file: Path, browsed: Browsed) -> None:
    file.write_text(lines(1) + lines(2))
    shown = browsed(server.url, "trial=2")
    assert "7 of 7 trials" in shown
    assert "read to the end at" in shown
    assert "ein Zug ✓" not in shown  # folded
    assert "log-probability −1.5" in shown
    assert "first episode 66.7%" in shown
    assert "any episode 100%" in shown
    of_one = browsed(server.url, "step=2&sort=-step")
    assert "3 of 7 trials" in of_one
    assert re.findall(r'<span class="number">#(\d+)</span>', of_one) == ["5", "6", "7"]
    assert 'class="chosen"' in of_one
    assert "7 of 7 trials" in browsed(server.url, "text=zug")


SLOW = """<script>
const waits = "TYPED" ? [] : [2000, 600], get = fetch;
fetch = async (what, ...more) => {
  const answer = await get(what, ...more);
  if (what.startsWith("details") && waits.length) await new Promise((go) => setTimeout(go, waits.shift()));
  if (what.endsWith("known=4")) type("TYPED");
  return answer;
};
function type(text) {
  const field = document.getElementById("filters").elements.text;
  if (text) field.value = text;
  if (text) field.dispatchEvent(new Event("input", { bubbles: true }));
}
setTimeout(() => (location.hash = "HASH"), 500);
addEventListener("unhandledrejection", (event) => (document.body.dataset.broken = event.reason));
</script>"""
"""Makes the first answers with texts late, so that the file, asked for every 2 seconds, has changed before them."""


@pytest.mark.parametrize(
    ("chosen", "typed", "after", "seen"),
    [
        ("text=zug", "", lines(1) + lines(2), "7 of 7 trials"),
        ("trial=1", "", lines(2), "log-probability −1.5"),
        ("", "no such text", lines(1) + lines(2), "0 of 7 trials"),
    ],
    ids=["a search while trials come", "a trial while the file is replaced", "typing while trials come"],
)
def test_a_file_that_changes_while_the_page_waits(
    chosen: str, typed: str, after: str, seen: str, file: Path, browsed: Browsed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def page(title: str, about: str, made_page: Callable[[str, str], str] = viewer.live_page) -> str:
        slow = SLOW.replace("HASH", chosen).replace("TYPED", typed)
        return made_page(title, about).replace("<body>", f"<body>{slow}")

    def changed(following: Following, run: str, known: int, answer: Any = Following.news) -> dict[str, Any]:
        if known:
            file.write_text(after)
        return answer(following, run, known)

    monkeypatch.setattr(viewer, "live_page", page)
    monkeypatch.setattr(Following, "news", changed)
    with LiveServer(Following(file), file.name, "a run") as served:
        Thread(target=served.serve_forever, daemon=True).start()
        shown = browsed(served.url, "")
        served.shutdown()
    assert "data-broken" not in shown
    assert seen in shown


def test_texts_that_could_not_be_read_are_asked_for_again(
    server: LiveServer, browsed: Browsed, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [StaleError()]

    def second_time(following: Following, run: str, first: int, end: int, answer: Any = Following.details) -> list[str]:
        if failures:
            raise failures.pop()
        return answer(following, run, first, end)

    monkeypatch.setattr(Following, "details", second_time)
    assert "log-probability −1.5" in browsed(server.url, "trial=1")


def test_a_browser_shows_curves_of_a_page_without_a_server(file: Path, tmp_path: Path, browsed: Browsed) -> None:
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["view", str(file), "--out", str(page)])
    assert result.exit_code == 0, result.output
    shown = browsed(page, "")
    assert "any episode 33.3%" in shown
    assert "reflections 3" in shown


def test_the_command_waits_for_a_file_and_ends_by_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "openrlhf_lamer.cli.main", "view", "--follow", "later/trials.jsonl"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        address = re.match(r"(http://127\.0\.0\.1:\d+/) follows later/trials\.jsonl; Ctrl-C ends it", said)
        assert address is not None, said
        assert process.stdout.readline() == "waiting for later/trials.jsonl, which does not exist yet\n"
        asked = f"{address[1]}news?run=&known=0"
        assert got(asked).json()["index"] == []
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / "trials.jsonl").write_text(lines(1))
        assert len(got(asked).json()["index"]) == len(STEPS[1])
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--follow", "--out", "page.html"], "--follow writes no page"),
        (["--port", "8000"], "--port is the port of --follow"),
        (["--follow"], "line 1 is left out: not a trial"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: list[str], message: str) -> None:
    (tmp_path / "settings.json").write_text("{}\n")
    result = CliRunner().invoke(app, ["view", str(tmp_path / "settings.json"), *options])
    assert result.exit_code == 2
    assert message in result.output


def test_a_port_that_is_taken_is_refused(server: LiveServer, file: Path) -> None:
    result = CliRunner().invoke(app, ["view", "--follow", str(file), "--port", str(server.server_port)])
    assert result.exit_code == 2
    assert f"--port {server.server_port}: Address already in use" in result.output
