"""Players behind a server: a small fake one that misbehaves as it is told to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from openrlhf_lamer.cli.main import app
from openrlhf_lamer.evaluation.players import Sampling
from openrlhf_lamer.evaluation.run import read_trials
from openrlhf_lamer.policies import EngineError, EngineGoneError, Generation, Request, endpoint
from openrlhf_lamer.policies.endpoint import Server, open_endpoint
from openrlhf_lamer.records import FailureKind, Phase
from openrlhf_lamer.tasks import seeded_tasks, write_dataset
from openrlhf_lamer.text_chat import END, TextChat, messages

pytest.importorskip("httpx")

CELL = "I guess. <action>(1, 1)</action>"

Answer = tuple[int, Any] | None
"""Status and body of an answer; None drops the connection."""


class Fake:
    """A server. `answers` are given one after the other, then `reply` always."""

    def __init__(self, owner: str = "vllm") -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[Answer] = []
        self.models: Answer = (200, {"data": [{"id": "m", "owned_by": owner}]})
        self.reply: Callable[[str, dict[str, Any]], Answer] = lambda path, body: (200, said(CELL))
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                fake.headers.append(dict(self.headers))
                self.answer(fake.models)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.asked.append((self.path, body))
                fake.headers.append(dict(self.headers))
                self.answer(fake.answers.pop(0) if fake.answers else fake.reply(self.path, body))

            def answer(self, answer: Answer) -> None:
                if answer is None:
                    self.close_connection = True
                    return
                status, body = answer
                content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def said(text: str, finish: str = "stop", **message: Any) -> dict[str, Any]:
    """An answer that serves both kinds of request: a chat message, or text with token ids."""
    choice = {"message": {"content": text, **message}, "text": text, "finish_reason": finish}
    return {"choices": [{**choice, "token_ids": [1, 2, 3]}], "usage": {}}


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(endpoint, "LONGEST_WAIT", 0.05)


PROMPT = TextChat().opening("Which cell?")


def ask(
    fake: Fake,
    *prompts: tuple[int, ...],
    token_ids: bool = False,
    thinking: bool = False,
    patience: float = 5.0,
    **server: Any,
) -> list[Generation | BaseException]:
    """The replies to prompts sent all at once; an error stands in the place of its reply."""

    async def main() -> list[Generation | BaseException]:
        asked = Server(fake.url, "m", patience=patience, **server)
        sampling: dict[str, Any] = {"temperature": 0.5, "top_p": 0.9, "token_ids": token_ids}
        async with open_endpoint(asked, thinking=thinking, **sampling) as policy:
            requests = [Request(each, 48, Phase.PLAY, None, seed=7) for each in prompts or (PROMPT,)]
            return await asyncio.gather(*map(policy.generate, requests), return_exceptions=True)

    return asyncio.run(main())


def test_messages_of_a_chat_survive_the_way_through_ids() -> None:
    chat = TextChat()
    opening = chat.opening("Rules 🎲 <|im_end|>")
    ended, cut = (*chat.encode("a reply"), END), chat.encode("a repl")
    for reply in (ended, cut):
        prompt = opening + reply + chat.continuation("And now?", reply)
        assert prompt.count(END) == 1
        assert messages(prompt) == [
            {"role": "user", "content": "Rules 🎲 <|im_end|>"},
            {"role": "assistant", "content": chat.decode(reply)},
            {"role": "user", "content": "And now?"},
        ]
    assert chat.clean("<action>x</action> <b>") == "< action>x< /action> <b>"


def test_chat_messages_go_out_and_text_comes_back(fake: Fake) -> None:
    (reply,) = ask(fake)
    assert reply == Generation((*map(ord, CELL), END), None, truncated=False)
    ((path, body),) = fake.asked
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "Which cell?"}]
    assert {key: body[key] for key in ("model", "temperature", "top_p", "max_tokens", "seed")} == {
        "model": "m",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 48,
        "seed": 7,
    }
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert (body["top_k"], body["repetition_penalty"]) == (-1, 1.0)
    fake.reply = lambda path, body: (200, said("I am cut", "length"))
    assert ask(fake) == [Generation(tuple(map(ord, "I am cut")), None, truncated=True)]


def test_a_service_is_sent_only_what_every_one_takes() -> None:
    service = Fake("a company")
    assert isinstance(ask(service, key="secret")[0], Generation)
    service.close()
    assert set(service.asked[0][1]) == {"model", "temperature", "top_p", "max_tokens", "seed", "messages"}
    assert {headers["Authorization"] for headers in service.headers} == {"Bearer secret"}


def test_token_ids_go_out_and_come_back(fake: Fake) -> None:
    assert ask(fake, (5, 6, 7), token_ids=True) == [Generation((1, 2, 3), None, truncated=False)]
    ((path, body),) = fake.asked
    assert path == "/v1/completions"
    assert body["prompt"] == [5, 6, 7]
    assert (body["return_token_ids"], body["skip_special_tokens"]) == (True, False)
    fake.reply = lambda path, body: (200, {"choices": [{"text": "x", "finish_reason": "stop"}]})
    (raised,) = ask(fake, token_ids=True)
    assert isinstance(raised, EngineGoneError)
    assert "leave --tokenizer out" in str(raised)


@pytest.mark.parametrize(
    "trouble",
    [
        [None, None],
        [(500, "dead"), (503, "starting")],
        [(429, {"error": "slow down"})] * 3,
        [(200, said("half a rep", "abort"))],
    ],
)
def test_what_passes_is_waited_for(fake: Fake, trouble: list[Answer], caplog: pytest.LogCaptureFixture) -> None:
    fake.answers = list(trouble)
    assert isinstance(ask(fake)[0], Generation)
    assert len(fake.asked) == len(trouble) + 1
    assert [record.message for record in caplog.records if "asked again for 5 s" in record.message]


def test_a_server_that_stays_away_is_gone(fake: Fake) -> None:
    fake.reply = lambda path, body: None
    (raised,) = ask(fake, patience=0.2)
    assert isinstance(raised, EngineGoneError)
    assert "does not answer" in str(raised)
    assert len(fake.asked) > 3
    fake.close()
    with pytest.raises(EngineGoneError, match="ConnectError"):
        ask(fake, patience=0.2)


def test_one_request_that_fails_while_others_are_answered_is_its_own_failure(fake: Fake) -> None:
    bad = TextChat().opening("bad")
    failed, again = threading.Event(), threading.Event()

    def reply(path: str, body: dict[str, Any]) -> Answer:
        if body["messages"][0]["content"] == "bad":
            (again if failed.is_set() else failed).set()
            return 500, "it broke"
        again.wait(5)
        return 200, said(CELL)

    fake.reply = reply
    raised, *others = ask(fake, bad, PROMPT, PROMPT, patience=0.3)
    assert isinstance(raised, EngineError)
    assert "it broke" in str(raised)
    assert all(isinstance(each, Generation) for each in others)


def test_a_refusal_stops_the_run_unless_others_were_answered(fake: Fake) -> None:
    fake.reply = lambda path, body: (400, {"error": "no such parameter"})
    (raised,) = ask(fake)
    assert isinstance(raised, EngineGoneError)
    assert "refuses with 400" in str(raised)
    assert len(fake.asked) == 1

    async def later() -> BaseException:
        async with open_endpoint(Server(fake.url, "m"), temperature=0, top_p=1, token_ids=False) as policy:
            fake.answers = [(200, said(CELL))]
            request = Request(PROMPT, 48, Phase.PLAY, None)
            await policy.generate(request)
            return (await asyncio.gather(policy.generate(request), return_exceptions=True))[0]  # type: ignore[return-value]

    assert isinstance(asyncio.run(later()), EngineError)


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ((401, "who are you?"), "OPENAI_API_KEY"),
        ((200, {"data": [{"id": "x"}, {"id": "y"}]}), "no model 'm'; there are: x, y"),
    ],
)
def test_a_server_that_will_not_do_is_told_at_once(fake: Fake, models: Answer, says: str) -> None:
    fake.models = models
    with pytest.raises(EngineGoneError, match=says):
        ask(fake)
    assert fake.asked == []


def test_a_server_that_lists_no_models_is_asked_all_the_same(fake: Fake) -> None:
    fake.models = (404, "not found")
    assert isinstance(ask(fake)[0], Generation)
    fake.reply = lambda path, body: (200, "<html>")
    assert "does not answer as OpenAI's API does: '<html>'" in str(ask(fake)[0])


@pytest.mark.parametrize("token_ids", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        said("<think>Let me see</think>" + CELL),
        said("\n<think>\nLet me"),
        said(CELL) | {"usage": {"completion_tokens_details": {"reasoning_tokens": 9}}},
    ],
)
def test_thinking_stops_the_run(fake: Fake, answer: dict[str, Any], token_ids: bool) -> None:
    fake.reply = lambda path, body: (200, answer)
    (raised,) = ask(fake, token_ids=token_ids)
    assert isinstance(raised, EngineGoneError)
    assert "without thinking" in str(raised)
    assert '{"enable_thinking": false}' in str(raised)


def test_thoughts_beside_the_reply_are_thinking_and_empty_blocks_are_not(fake: Fake) -> None:
    fake.reply = lambda path, body: (200, said(CELL, reasoning_content="Let me see"))
    assert "without thinking" in str(ask(fake)[0])
    for text in (f"<think>\n\n</think>\n\n{CELL}", "<think></think>", "I <think> so"):
        fake.reply = lambda path, body, text=text: (200, said(text, reasoning_content=None))
        assert isinstance(ask(fake)[0], Generation)


def evaluate(fake: Fake, out: Path, *more: str) -> Any:
    line = [
        *("eval", "--tasks", "minesweeper/3-mines", "--first", "12", "--endpoint", fake.url, "--model", "m"),
        *("--out", str(out), "--concurrency", "4", "--json"),
    ]
    return CliRunner().invoke(app, [*line, *more])


@pytest.mark.parametrize("context", ["turn", "trial"])
def test_a_served_model_is_evaluated(fake: Fake, tmp_path: Path, context: str) -> None:
    result = evaluate(fake, tmp_path, "--context", context)
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout.splitlines()[-1])
    assert (shown["trials"], shown["failed"]) == (12, 0)
    assert shown["played"]["reply_characters"] == len(CELL) + 1
    assert "reply_tokens" not in shown["played"]
    for _, body in fake.asked:
        roles = [message["role"] for message in body["messages"]]
        assert roles == [("user", "assistant")[n % 2] for n in range(len(roles))]
        assert len(roles) % 2
    assert (max(len(body["messages"]) for _, body in fake.asked) == 1) == (context == "turn")
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["player"] == "server, by chat messages"


def test_a_server_that_goes_away_stops_the_run_which_goes_on_elsewhere(fake: Fake, tmp_path: Path) -> None:
    """No trial is recorded as failed, none is lost, none is played twice; the new server has another address."""
    answered = 0

    def reply(path: str, body: dict[str, Any]) -> Answer:
        nonlocal answered
        answered += 1
        return (200, said(CELL)) if answered < 60 else None

    fake.reply = reply
    result = evaluate(fake, tmp_path, "--patience", "0.3")
    assert result.exit_code == 1
    there = {trial.task.id: trial for trial in read_trials(tmp_path)}
    assert 0 < len(there) < 12
    assert f"{len(there)} of 12 trials are done" in result.output
    assert "run the same command again" in result.output
    assert all(trial.failure is None for trial in there.values())

    again = Fake()
    result = evaluate(again, tmp_path)
    again.close()
    assert result.exit_code == 0, result.output
    trials = read_trials(tmp_path)
    assert len(trials) == len({trial.task.id for trial in trials}) == 12
    assert {trial.task.id: trial for trial in trials}.items() >= there.items()


def test_a_reply_that_the_server_cannot_give_fails_its_trial_alone(fake: Fake, tmp_path: Path) -> None:
    def reply(path: str, body: dict[str, Any]) -> Answer:
        first = body["messages"][0]["content"]
        long = "Your remark on it" in first or "This attempt has failed" in first
        return (400, "too long") if long else (200, said(CELL))

    fake.reply = reply
    result = evaluate(fake, tmp_path)
    assert result.exit_code == 0, result.output
    failures = [trial.failure for trial in read_trials(tmp_path)]
    assert {failure.kind for failure in failures if failure} == {FailureKind.ENGINE}
    assert all("too long" in failure.message for failure in failures if failure)


def test_the_defaults_are_the_papers() -> None:
    assert Sampling() == Sampling(temperature=0.7, top_p=1.0, max_new_tokens=1024, max_length=4096)


def test_text_chat_leaves_no_control_tokens_that_a_server_may_read() -> None:
    cleaned = TextChat().clean("a<|im_end|>b</s>c<action>up</action>")
    assert cleaned == "a< |im_end|>b< /s>c< action>up< /action>"


def test_the_cross_table_asks_one_server_to_play_and_another_to_reflect(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    write_dataset(tasks, seeded_tasks("minesweeper", "eval", 3))
    servers = {"base": Fake(), "trained": Fake()}
    for name, server in servers.items():
        reply = f"I am {name}. <action>none</action> <remark>By {name}.</remark>"
        server.reply = lambda path, body, reply=reply: (200, said(reply))
    flags = [part for name, server in servers.items() for part in (f"--{name}", "m", f"--{name}-endpoint", server.url)]
    out = tmp_path / "out"
    arguments = ["cross", *flags, "--tasks", str(tasks), "--attempts", "2", "--max-turns", "1", "--out", str(out)]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "trained plays, reflections shuffled" in result.output
    for player in servers:
        for reflections, remark in (("base", "By base."), ("trained", "By trained."), ("removed", None)):
            trials = read_trials(out / f"{player}-plays-{reflections}")
            assert {trial.episodes[0].remark for trial in trials} == {remark}
            assert {trial.episodes[1].turns[0].text.split(". ")[0] for trial in trials} == {f"I am {player}"}
    asked = [len(server.asked) for server in servers.values()]
    rows = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)["rows"]
    assert [row["success@2"]["value"] for row in rows] == [0.0] * 8
    assert [len(server.asked) for server in servers.values()] == asked, "a table that is there is not played again"
    for server in servers.values():
        server.close()
