"""One place turns an error of ours into a message and an exit code, whatever command it comes from."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from openrlhf_lamer import LamerError, manifest, panels
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.evaluation.run import RunError, RunStoppedError
from openrlhf_lamer.integration.cluster import StartError
from openrlhf_lamer.policies import EngineGoneError
from openrlhf_lamer.quickstart.following import StageError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LamerError, 2),
        (RunError, 2),
        (manifest.PanelError, 2),
        (RunStoppedError, 1),
        (EngineGoneError, 1),
        (StartError, 1),
        (StageError, 1),
    ],
)
@pytest.mark.parametrize("command", [["tasks"], ["prepare", "tasks", "--panel", "sokoban/2-boxes", "--out", "x"]])
def test_an_error_of_ours_is_one_message_and_its_exit_code(
    command: list[str], error: type[LamerError], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object) -> None:
        raise error("the sky\nfell")

    monkeypatch.setattr(manifest, "names", fails)
    monkeypatch.setattr(panels, "load", fails)
    result = CliRunner().invoke(app, command)
    if command[0] == "tasks" or not issubclass(error, ValueError):
        assert (result.exit_code, result.stderr) == (code, "openrlhf-lamer: error: the sky\nfell\n")
    else:  # the command adds the flag
        assert (result.exit_code, "the sky\nfell" in result.stderr) == (2, True)
    assert not result.stdout


def test_another_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(manifest, "names", fails)
    result = CliRunner().invoke(app, ["tasks"])
    assert isinstance(result.exception, KeyError)
    assert "error:" not in result.output
