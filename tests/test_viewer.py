"""The page that trials are browsed in, read by a real browser where there is one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from openrlhf_lamer.cli.main import app
from openrlhf_lamer.evaluation import viewer
from openrlhf_lamer.evaluation.viewer.pieces import Piece
from openrlhf_lamer.records import Episode, Phase, SchemaError, Stop, Task, Trial, Turn

Browsed = Callable[[Path, str], str]

EVIL = "<script>document.title = 'broken in'</script><b>bold</b> <!-- </script>"


def trial(seed: int, *, won: bool, text: str = "I try <action>(1, 2)</action>") -> Trial:
    turn = Turn(
        phase=Phase.PLAY,
        episode=0,
        index=0,
        prompt_ids=(1, 2, 3),
        sampled_ids=(4, 5),
        logprobs=None,
        text=text,
        action="(1, 2)",
        valid=True,
        reward=10.0 if won else 0.0,
        anchor="a",
        observation=f"Row 1: ? {seed} ?",
        truncated=False,
    )
    episode = Episode((turn,), Stop.WON if won else Stop.LOST, "the end")
    return Trial(Task("minesweeper", seed=seed), (episode,))


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Three trials, one of them won and one with a text that tries to run."""
    trials = (trial(0, won=False), trial(1, won=True), trial(2, won=False, text=EVIL))
    lines = [
        f'{each.to_json()[:-1]},"step":1,"group":0,"returns":[1.5],"advantages":[{number - 1}.25]}}'
        for number, each in enumerate(trials)
    ]
    source, out = tmp_path / "trials.jsonl", tmp_path / "trials.html"
    source.write_text("\n".join(lines) + "\n")
    result = CliRunner().invoke(app, ["view", str(source), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "3 trials" in result.output
    return out


def test_no_text_of_a_trial_is_markup_in_the_page(page: Path) -> None:
    html = page.read_text()
    assert EVIL not in html
    assert "<b>bold" not in html
    assert not re.search(r"(src|href)=[\"']?https?:", html)


def test_half_of_a_surrogate_pair_is_no_obstacle(tmp_path: Path) -> None:
    source, out = tmp_path / "trials.jsonl", tmp_path / "trials.html"
    source.write_text(trial(0, won=True, text="half \ud83d").to_json() + "\n")
    result = CliRunner().invoke(app, ["view", str(source), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert r'"half \ud83d"' in out.read_text("utf-8")


def test_a_browser_shows_the_trial_that_is_asked_for_and_its_text_as_text(page: Path, browsed: Browsed) -> None:
    shown = browsed(page, "trial=3&expand=1")
    assert "Row 1: ? 2 ?" in shown
    assert "advantage 1.25" in shown
    assert "&lt;script&gt;document.title" in shown
    assert "broken in</title>" not in shown


def test_a_browser_filters_the_list(page: Path, browsed: Browsed) -> None:
    assert "3 of 3 trials" in browsed(page, "")
    shown = browsed(page, "won=1")
    assert "1 of 3 trials" in shown
    assert "seed=1" in shown
    assert "seed=0" not in shown


def test_files_of_evaluation_have_no_credit_and_half_a_last_line_is_left_out() -> None:
    whole = trial(0, won=True).to_json()
    (entry,) = viewer.read([whole + "\n", whole[:40]])
    assert entry == viewer.Entry(trial(0, won=True))
    with pytest.raises(SchemaError, match="line 1"):
        viewer.read([whole[:40] + "\n"])


def test_credit_that_does_not_fit_its_trial_is_refused() -> None:
    beside = json.dumps({"advantages": [1.0, 2.0]})[1:]
    with pytest.raises(SchemaError, match="2 advantages for a trial of 1 turns"):
        viewer.read([f"{trial(0, won=True).to_json()[:-1]},{beside}\n"])


def test_prompts_are_shown_where_they_can_be_read() -> None:
    entry = viewer.Entry(replace(trial(0, won=True), retries=1))
    assert "ids 1 2 3" in viewer.page([entry], "t", lambda ids: [Piece("ids " + " ".join(map(str, ids)))])
    assert "ids 1 2 3" not in viewer.page([entry], "t")


def test_a_file_without_trials_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    result = CliRunner().invoke(app, ["view", str(tmp_path / "empty.jsonl")])
    assert result.exit_code == 2
    assert "no trials there" in result.output
