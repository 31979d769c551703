"""Prompts, control tokens, order and groups in the page that trials are browsed in."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import pstdev
from typing import Any

import pytest
from typer.testing import CliRunner

from openrlhf_lamer.agents import Agent
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.evaluation import viewer
from openrlhf_lamer.evaluation.viewer.pieces import Piece, by_line, characters, tokens
from openrlhf_lamer.policies.scripted import RandomPolicy
from openrlhf_lamer.records import Episode, Failure, FailureKind, Phase, Stop, Task, Trial, Turn
from openrlhf_lamer.text_chat import TextChat, messages
from openrlhf_lamer.trial import run_trial

Browsed = Callable[[Path, str], str]


def viewed(folder: Path, trials: Sequence[Trial], *options: str, beside: Sequence[dict[str, Any]] = ()) -> Path:
    """The page of these trials, with further fields in their lines."""
    lines = [
        json.dumps(json.loads(each.to_json()) | more)
        for each, more in zip(trials, beside or [{}] * len(trials), strict=True)
    ]
    (folder / "trials.jsonl").write_text("\n".join(lines) + "\n")
    result = CliRunner().invoke(app, ["view", str(folder / "trials.jsonl"), "--out", str(folder / "p.html"), *options])
    assert result.exit_code == 0, result.output
    return folder / "p.html"


def made(task: int, turns: int, *, won_at: int | None = None, sample: int = 0, **turn: Any) -> Trial:
    """A trial of one-turn episodes, the last one longer, so that it has this many turns."""
    fields = {
        "phase": Phase.PLAY,
        "prompt_ids": (1, 2),
        "sampled_ids": (3,) * (sample + 1),
        "logprobs": None,
        "text": "",
        "action": "a",
        "valid": True,
        "reward": 0.0,
        "anchor": "s",
        "observation": "",
        **turn,
    }
    episodes = won_at or 1
    played = [Turn(episode=min(n, episodes - 1), index=max(0, n - episodes + 1), **fields) for n in range(turns)]
    won = [Stop.LOST] * (episodes - 1) + [Stop.WON if won_at else Stop.LOST]
    parts = [[each for each in played if each.episode == n] for n in range(episodes)]
    whole = [Episode(tuple(part), stop, "") for part, stop in zip(parts, won, strict=True)]
    return Trial(Task("toy", seed=task), tuple(whole), sample=sample)


def listed(html: str) -> list[int]:
    """Numbers of the trials in the list, in its order."""
    return [int(each) for each in re.findall(r'<span class="number">#(\d+)</span>', html)]


@pytest.fixture
def scripted(minesweeper: Agent) -> Trial:
    """A trial of a player without a tokenizer, with a chat that goes on."""
    chat = TextChat()
    return asyncio.run(
        run_trial(
            Task("minesweeper", seed=3, options={"size": 4, "mines": 5}),
            minesweeper,
            RandomPolicy(chat),
            chat,
            LamerConfig(context="trial", num_episodes=2),
            max_new_tokens=10**6,
            max_length=10**7,
        )
    )


def test_messages_of_a_player_without_a_tokenizer_are_pieces_by_role(scripted: Trial) -> None:
    prompt = scripted.turns[-1].prompt_ids
    pieces = characters(prompt)
    said: list[dict[str, str]] = []
    for piece in pieces[:-1]:
        if piece.kind == "role":
            said.append({"role": piece.text, "content": ""})
        elif piece.kind == "text":
            said[-1]["content"] += piece.text
    assert said == messages(prompt)
    assert len(said) > 2
    assert pieces[-1] == Piece("assistant", "role")


def test_a_browser_shows_prompts_of_scripts_and_counts_characters(
    scripted: Trial, tmp_path: Path, browsed: Browsed
) -> None:
    page = viewed(tmp_path, [scripted])
    shown = browsed(page, "trial=1&expand=1")
    assert "You are playing MineSweeper" in shown
    assert "its player has no tokenizer: characters are counted" in shown
    first = scripted.turns[0]
    assert f"prompt · {len(first.prompt_ids):,} characters" in shown
    assert f"reply · {len(first.sampled_ids):,} characters" in shown
    assert not re.search(r"(\d|\ba) tokens?\b", shown)
    assert "end of reply" not in shown
    # Every reply ends by itself here, and each is in its own fold and in the prompts after it.
    assert browsed(page, "trial=1&expand=1&special=1").count("end of reply") >= len(scripted.turns)


def test_control_tokens_are_pieces_of_their_own(tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Row 1: ? ?\nThe board"}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = list(by_line(tokens(tokenizer)(ids)))
    plain = "".join(each.text for each in pieces if each.kind == "text")
    assert "".join(each.text for each in pieces) == tokenizer.decode(ids) == text
    assert plain == tokenizer.decode(ids, skip_special_tokens=True) != text
    assert all("\n" not in each.text[:-1] for each in pieces if each.kind == "text")


def test_a_browser_shows_control_tokens_and_log_probabilities_on_request(
    tokenizer: Any, tmp_path: Path, browsed: Browsed
) -> None:
    tokenizer.save_pretrained(tmp_path / "model")
    ids = tuple(tokenizer("The board<|im_end|>", add_special_tokens=False)["input_ids"])
    logprobs = tuple(-0.25 * (n + 1) for n in range(len(ids)))
    trial = made(0, 1, prompt_ids=ids, sampled_ids=ids, logprobs=logprobs)
    page = viewed(tmp_path, [trial], "--tokenizer", str(tmp_path / "model"))
    shown = browsed(page, "trial=1&expand=1")
    assert f"log-probability −{sum(map(abs, logprobs)):g}" in shown
    assert f"−{float(f'{math.fsum(map(abs, logprobs)) / len(ids):.4g}'):g} a token" in shown
    assert 'title="log-probability −0.25"' in shown
    assert 'class="special"' not in shown
    assert browsed(page, "trial=1&expand=1&special=1").count('<span class="special">&lt;|im_end|&gt;</span>') == 2


def test_a_browser_sorts_trials_and_shows_a_group_side_by_side(tmp_path: Path, browsed: Browsed) -> None:
    failed = replace(made(1, 3, sample=2), failure=Failure(FailureKind.ENGINE, "generate", "away"))
    trials = [
        made(0, 3, won_at=2),
        made(0, 1, won_at=1, sample=1),
        made(1, 2),
        made(1, 5, won_at=3, sample=1),
        failed,
        made(2, 4, sample=3),
    ]
    returns = [6.0, 10.0, 0.0, 3.6, 0.0, 1.5]
    beside = [
        {"step": 1, "group": 7 + (trial.task.seed or 0), "returns": [each] * len(trial.turns)}
        for each, trial in zip(returns, trials, strict=True)
    ]
    page = viewed(tmp_path, trials, beside=beside)
    spread = {0: pstdev([6.0, 10.0]), 1: pstdev([0.0, 3.6])}
    keys: dict[str, list[float | None]] = {
        "return": list(returns),
        "won": [each.wins[0] if each.wins else math.inf for each in trials],
        "turns": [len(each.turns) for each in trials],
        "tokens": [sum(len(turn.sampled_ids) for turn in each.turns) for each in trials],
        "spread": [spread.get(each.task.seed or 0) for each in trials],
    }
    for name, values in keys.items():
        if name != "spread":
            values[4] = None
        for sign in ("", "-"):

            def key(place: int, values: list[float | None] = values, down: bool = bool(sign)) -> Any:
                value = values[place]
                return (value is None, 0.0 if value is None else -value if down else value, place)

            expected = [place + 1 for place in sorted(range(len(trials)), key=key)]
            assert listed(browsed(page, f"sort={sign}{name}")) == expected, (name, sign)
    beside_each_other = browsed(page, "trial=4&group=1")
    main = beside_each_other[beside_each_other.index("<main") :]
    assert re.findall(r'<header><a href="[^"]*">#(\d+)</a>', main) == ["3", "4", "5"]
    assert f"spread of returns {spread[1]:g}" in main
    assert "failed" in main
    assert "away" in main


def test_trials_of_an_evaluation_are_grouped_by_their_task(tmp_path: Path, browsed: Browsed) -> None:
    trials = [made(0, 1, sample=0, reward=1.0), made(1, 1), made(0, 1, sample=1, reward=4.0)]
    shown = browsed(viewed(tmp_path, trials), "trial=1&group=1")
    assert re.findall(r'<header><a href="[^"]*">#(\d+)</a>', shown) == ["1", "3"]
    assert "spread of rewards 1.5" in shown


def test_prompts_of_a_trial_share_their_lines(scripted: Trial) -> None:
    html = viewer.page([viewer.Entry(scripted)], "t")
    data = re.search(r'id="trials">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    body = json.loads(data[1])
    turns = [turn for each in body["episodes"] for turn in (*each["turns"], each["reflection"]) if turn]
    assert len(turns) == len(scripted.turns)
    for turn, shown in zip(scripted.turns, turns, strict=True):
        parts = [body["pieces"][place] for place in shown["prompt"]]
        assert "".join(each if isinstance(each, str) else "" for each in parts) == TextChat().decode(turn.prompt_ids)
    texts = [json.dumps(each) for each in body["pieces"]]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("address", ["", "trial=1&expand=1&special=1", "trial=1&group=1"])
def test_a_phone_needs_no_sideways_scrolling(address: str, scripted: Trial, tmp_path: Path, browsed: Browsed) -> None:
    page = viewed(tmp_path, [scripted, replace(scripted, sample=1)])
    measured = "const page = document.documentElement; parent.postMessage(page.scrollWidth - page.clientWidth, '*')"
    inner = tmp_path / "inner.html"
    inner.write_text(page.read_text().replace("</body>", f"<script>{measured}</script></body>"))
    phone = tmp_path / "phone.html"
    frame = f'<iframe src="inner.html#{address}" style="border: 0" width="390" height="844"></iframe>'
    phone.write_text(
        f"<body>{frame}<script>onmessage = (event) => (document.body.dataset.hidden = event.data)</script></body>"
    )
    assert 'data-hidden="0"' in browsed(phone, "")


def test_a_phone_opens_a_trial_at_its_head_and_goes_back_to_the_place_in_the_list(
    scripted: Trial, tmp_path: Path, browsed: Browsed
) -> None:
    page = viewed(tmp_path, [replace(scripted, sample=sample) for sample in range(60)])
    walk = """(async () => {
      const page = document.scrollingElement;
      const later = () => new Promise((go) => setTimeout(go, 200));
      const seen = [];
      await later();
      page.scrollTop = 900;
      document.querySelectorAll("#list a")[15].click();
      await later();
      seen.push(page.scrollTop, document.activeElement.id);
      page.scrollTop = 50;
      document.querySelector(".back").click();
      await later();
      parent.postMessage([...seen, page.scrollTop].join(" "), "*");
    })()"""
    (tmp_path / "inner.html").write_text(page.read_text().replace("</body>", f"<script>{walk}</script></body>"))
    phone = tmp_path / "phone.html"
    frame = '<iframe src="inner.html" style="border: 0" width="390" height="844"></iframe>'
    phone.write_text(f"<body>{frame}<script>onmessage = (e) => (document.body.dataset.places = e.data)</script></body>")
    assert 'data-places="0 trial 900"' in browsed(phone, "")
