"""The page on reading a run: its metrics are those that are logged, its alarms those that are raised."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from host_stand_ins import failed, samples_of

from openrlhf_lamer import alarms, metrics
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.integration.rollout.engines import Engines
from openrlhf_lamer.integration.training import logs, trainer
from openrlhf_lamer.integration.training.actors import OPTIMIZER_STEPS, ROWS_TRAINED, TOKENS_TRAINED
from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn

PAGE = (Path(__file__).parent.parent / "docs" / "reading-a-run.md").read_text("utf-8")
SOURCES = (
    metrics.summarize,
    metrics.diversity,
    logs.batch_metrics,
    logs._trained,
    logs._credit_metrics,
    Engines.metrics,
)
"""Functions that name metrics."""


def section(title: str) -> str:
    """The page's section under a heading, with those below it."""
    level, rest = re.split(rf"^(#+) {re.escape(title)}$", PAGE, maxsplit=1, flags=re.MULTILINE)[1:]
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text: str) -> list[str]:
    """Names in code in the first column of the tables of a text."""
    rows = re.findall(r"^\| ([^|]*`[^|]*) \|", text, re.MULTILINE)
    return [name for cell in rows for name in re.findall(r"`([^`]+)`", cell)]


def generic(name: str) -> str:
    """A metric's name with placeholders for environment, episode, kind and stage."""
    name = re.sub(r"^minesweeper/", "<env>/", name)
    name = re.sub(r"(?<=failed/)\w+$", "<kind>", re.sub(r"(?<=failed_at/)\w+$", "<stage>", name))
    return re.sub(r"(?<=[@/])\d+", "n", name)


def played(attempts: str, sampled: int = 2) -> Trial:
    """A trial with thoughts and log-probabilities, a turn each attempt: `w` is won, each but the last reflected on."""

    def turn(phase: Phase, episode: int, action: str) -> Turn:
        ids, logprobs = (3,) * sampled, (-0.5,) * sampled
        where = (phase, episode, int(phase is Phase.REFLECT))
        return Turn(*where, (1, 2), ids, logprobs, "", action, True, 0.0, "s", "", thought_tokens=1)

    episodes = [
        Episode(
            (turn(Phase.PLAY, n, each),),
            Stop.WON if each == "w" else Stop.LOST,
            "",
            turn(Phase.REFLECT, n, "aha") if n < len(attempts) - 1 else None,
        )
        for n, each in enumerate(attempts)
    ]
    return Trial(Task("minesweeper", seed=0), tuple(episodes))


@pytest.fixture
def logged(maker: Callable[..., Any], make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names after `lamer/` that a training step logs, with a batch that has something of everything."""
    config = LamerConfig(num_episodes=3, stop_on_success=False)
    made = maker("lamer_rloo", config=config, group=4)

    class Host:
        def train_step(self, rollout_samples: Any, global_step: int) -> tuple[dict[str, Any], int]:
            made.make_experience_batch(samples_of([played("awa"), played("bca"), played("aa", 3), failed(0)], 0.6))
            rows = made.batch.rows
            counts = {ROWS_TRAINED: len(rows.rows), TOKENS_TRAINED: rows.sampled, OPTIMIZER_STEPS: 1.0}
            return {"vllm_kl": 0.001, **counts}, global_step + 1

    own: Any = type("Trainer", (trainer.TrialTraining, Host), {"config": config})
    step = own.__new__(own)
    step.experience_maker, step._alarms = made, alarms.Alarms()
    step.args = SimpleNamespace(train=SimpleNamespace(max_epochs=1))
    generator, _ = make(outcome=lambda task, sample: "01"[sample % 2])
    samples, *_ = generator.generate_samples()
    status, _ = step.train_step(samples, 0)
    return {name.removeprefix("lamer/") for name in status if name.startswith("lamer/")}


def test_it_explains_every_metric_that_is_logged_and_no_other(logged: set[str]) -> None:
    named = first_cells(section("Metrics"))
    assert len(named) == len({*named})
    assert {*named} == {generic(name) for name in logged}


def test_no_metric_is_left_out_of_that_test(logged: set[str]) -> None:
    """Each key that the code writes, as a dictionary's or by assignment, is one that the batch produces."""
    keys = [key for source in SOURCES for key in written(source)]
    assert len(keys) > 40
    names = {name.removeprefix("minesweeper/") for name in logged}
    assert [key for key in keys if not any(re.fullmatch(key, name) for name in names)] == []


def written(function: Callable[..., Any]) -> Iterator[str]:
    """Patterns of the string keys that a function puts into a dictionary."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        keys: list[ast.expr | None] = [*node.keys] if isinstance(node, ast.Dict) else []
        keys += [node.key] if isinstance(node, ast.DictComp) else []
        keys += [node.slice] if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) else []
        for key in keys:
            if isinstance(key, ast.Constant):
                yield re.escape(str(key.value))
            elif isinstance(key, ast.JoinedStr):
                parts = (re.escape(str(v.value)) if isinstance(v, ast.Constant) else ".+" for v in key.values)
                yield "".join(parts)


def test_an_evaluation_logs_what_the_page_says() -> None:
    found = logs.evaluation_metrics(samples_of([played("aw")], 0.6), LamerConfig(num_episodes=2))
    named = first_cells(section("Metrics"))
    assert {generic(name.removeprefix("lamer/")) for name in found if name.startswith("lamer/")} <= {*named}
    assert "eval_minesweeper_pass1" in found
    for name in ("eval_<env>_pass1", "eval_all_pass1", "eval/lamer/<env>/success@n"):
        assert f"`{name}`" in PAGE


def test_the_host_logs_what_the_page_says_of_it() -> None:
    spec = importlib.util.find_spec("openrlhf")
    assert spec is not None
    assert spec.submodule_search_locations
    files = [*Path(spec.submodule_search_locations[0]).rglob("trainer/**/*.py"), Path(trainer.__file__)]
    source = "\n".join(file.read_text("utf-8") for file in files)
    named = first_cells(section("Metrics of OpenRLHF"))
    assert len(named) > 12
    assert [name for name in named if f'"{name}"' not in source] == []


class TestAlarms:
    """The page's alarms, against every alarm that there is."""

    STEP = {"lamer/doors/turns": 3.0, "lamer/doors/success@1": 0.1}
    BAD = (
        *({f"lamer/doors/{each.metric}": float(not each.good)} for each in alarms.SHARES),
        *({f"lamer/doors/entropy/{phase}": 0.0} for phase in Phase),
        {"vllm_kl": 1.0},
        {"lamer/groups_that_teach": 0.0},
        {"lamer/groups_that_teach": 0.0, "lamer/doors/success@1": 1.0},
    )

    @pytest.fixture(params=BAD, ids=str)
    def alarm(self, request: pytest.FixtureRequest) -> alarms.Alarm:
        own = alarms.Alarms()
        *_, (last,) = [own.step(self.STEP | request.param) for _ in range(alarms.LAST)]
        return last

    def test_each_is_named_with_every_flag_that_it_proposes(self, alarm: alarms.Alarm) -> None:
        text = section("Alarms")
        assert f"`{alarm.name.replace('doors/', '<env>/')}`" in text
        proposed = re.findall(r"--[\w.]+\w(?: [\d.]+)*", alarm.message)
        assert [flag for flag in proposed if f"`{flag}" not in text and f" {flag}" not in text] == []

    def test_limits_are_those_of_the_code(self) -> None:
        text = section("Alarms")
        good = sum(each.good for each in alarms.SHARES)
        assert text.count(f"of {1 - alarms.NEARLY_ALL:.0%} or less") == good
        assert text.count(f"of {alarms.NEARLY_ALL:.0%} or more") == len(alarms.SHARES) - good
        assert f"below {alarms.STILL:g} nats" in text
        assert f"fewer than {alarms.SOLVED:.0%} of trials won" in text
        assert f"median of {alarms.LAST} steps" in text
        assert f"above {alarms.KL_LARGE:g}" in text
        assert f"above {alarms.KL_FINE:g} and {alarms.KL_RISE:g} times the median of the first {alarms.FIRST}" in text
        assert f"of 0 in {alarms.LAST} steps in a row" in text
        assert f"absent for {alarms.AWAY} steps" in text
