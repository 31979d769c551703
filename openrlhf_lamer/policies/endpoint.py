"""A policy that asks a server with OpenAI's API: vLLM, SGLang, or a service.

With the model's own tokenizer, prompts and replies are token ids (vLLM's `/completions`), so that a
server gets exactly the prompts of an engine in this process. Without it, a `TextChat` and
`/chat/completions` work with any server.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openrlhf_lamer.policies.base import EngineError, EngineGoneError, Generation, Request
from openrlhf_lamer.text_chat import END, messages
from openrlhf_lamer.thinking import written

if TYPE_CHECKING:
    import httpx

OPEN_SERVERS = frozenset({"vllm", "sglang"})
"""Servers, as they call themselves in `owned_by`, that take more parameters than OpenAI's API has."""

BUSY = frozenset({408, 409, 425, 429})
"""Status codes besides 5xx that mean "try again later"."""

FIRST_WAIT, LONGEST_WAIT = 0.5, 20.0
"""Seconds before a request is sent again: the first wait, which doubles each time, and the longest."""

THOUGHT = re.compile(r"\s*<think>\s*(?!</think>)\S")
"""Beginning of a reply that thinks; a template leaves an empty block where thinking is off."""

THINKING = (
    "the model at {url} thinks before it replies, and evaluation is without thinking. Serve it with "
    """--default-chat-template-kwargs '{{"enable_thinking": false}}' (vLLM), or a model that can do without, or """
    "evaluate with --thinking"
)


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Server:
    """A server, and how long to wait for it.

    Attributes:
        url: Base of the API with its version, `http://host:8000/v1`.
        model: Name of the model there.
        key: API key, if the server wants one.
        patience: Seconds to keep asking a server that does not answer or is busy.
        timeout: Seconds that one answer may take.
    """

    url: str
    model: str
    key: str | None = None
    patience: float = 120.0
    timeout: float = 600.0


@asynccontextmanager
async def open_endpoint(
    server: Server, *, temperature: float, top_p: float, token_ids: bool, thinking: bool = False
) -> AsyncIterator[EndpointPolicy]:
    """Open a policy that asks `server`, once it answers and has the model.

    Args:
        server: The server.
        temperature: Temperature of sampling.
        top_p: Nucleus of sampling.
        token_ids: Whether prompts and replies are ids of the model's tokenizer; else they are a `TextChat`'s.
        thinking: Whether the model is to think; else a reply with thoughts ends the run.

    Raises:
        EngineGoneError: The server does not answer, or has no such model.
    """
    import httpx

    headers = {"Authorization": f"Bearer {server.key}"} if server.key else {}
    async with httpx.AsyncClient(
        base_url=server.url.rstrip("/") + "/",
        headers=headers,
        timeout=httpx.Timeout(server.timeout, connect=10.0, pool=None),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
    ) as client:
        policy = EndpointPolicy(
            server, client, temperature=temperature, top_p=top_p, token_ids=token_ids, thinking=thinking
        )
        await policy.greet()
        yield policy


class EndpointPolicy:
    """Replies of a server.

    A request that is not answered is sent again, after longer and longer waits, until `Server.patience` has passed. It
    then raises `EngineError` if other requests were answered meanwhile, else `EngineGoneError`.
    """

    def __init__(
        self,
        server: Server,
        client: httpx.AsyncClient,
        *,
        temperature: float,
        top_p: float,
        token_ids: bool,
        thinking: bool,
    ) -> None:
        self._server, self._client, self._token_ids, self._thinking = server, client, token_ids, thinking
        self._common: dict[str, Any] = {"model": server.model, "temperature": temperature, "top_p": top_p}
        self._answered = 0.0
        self._warned = 0.0

    async def greet(self) -> None:
        """Wait for the server and find out what it is; raises `EngineGoneError` where it can't be used."""
        response = await self._send("models")
        try:
            models = {str(each["id"]): each.get("owned_by") for each in response.json()["data"]}
        except (ValueError, LookupError, TypeError, AttributeError):
            models = {}  # not every server lists them
        if response.status_code in (401, 403):
            raise EngineGoneError(self._refusal(response))
        if models and self._server.model not in models:
            raise EngineGoneError(
                f"{self._server.url} has no model {self._server.model!r}; there are: {', '.join(sorted(models))}"
            )
        if self._token_ids or models.get(self._server.model) in OPEN_SERVERS:
            # Without these, the checkpoint's generation_config.json would set them.
            self._common |= {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
            if self._token_ids:
                self._common |= {"return_token_ids": True, "skip_special_tokens": False}
            else:
                self._common["chat_template_kwargs"] = {"enable_thinking": self._thinking}

    async def generate(self, request: Request) -> Generation:
        """The server's reply."""
        body = {**self._common, "max_tokens": request.max_tokens}
        if request.seed is not None:
            body["seed"] = request.seed
        if self._token_ids:
            choice = await self._ask("completions", body | {"prompt": list(request.prompt_ids)})
            self._refuse_thinking(choice.get("text"))
            ids = choice.get("token_ids")
            if ids is None:
                raise EngineGoneError(
                    f"{self._server.url} gives no token ids, as vLLM does; leave --tokenizer out, and it is asked "
                    "by chat messages"
                )
            return Generation(tuple(ids), None, truncated=choice["finish_reason"] == "length")
        choice = await self._ask("chat/completions", body | {"messages": messages(request.prompt_ids)})
        message = choice["message"]
        text, thought = str(message.get("content") or ""), message.get("reasoning_content") or message.get("reasoning")
        self._refuse_thinking(text, thought)
        cut = choice["finish_reason"] == "length"
        if self._thinking:
            text = written(str(thought or ""), text, cut=cut)
        text = text.encode("utf-8", "replace").decode("utf-8")
        return Generation((*map(ord, text), *(() if cut else (END,))), None, truncated=cut)

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The one choice of a completion."""
        response = await self._send(path, body)
        if response.status_code != 200:
            # Before the first answer, the fault lies in something that all requests share.
            error = EngineError if self._answered else EngineGoneError
            raise error(self._refusal(response))
        try:
            answer = response.json()
            choice = answer["choices"][0]
            usage = answer.get("usage") or {}
            thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
            if not {"finish_reason", "message" if path.startswith("chat") else "text"} <= choice.keys():
                raise KeyError("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise EngineGoneError(
                f"{self._server.url}/{path} does not answer as OpenAI's API does: {response.text[:200]!r}"
            ) from error
        self._refuse_thinking(None, thought)
        self._answered = time.monotonic()
        return choice

    async def _send(self, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """Send a request until the answer is not "try again later"."""
        import httpx

        failing_since: float | None = None
        wait = FIRST_WAIT
        while True:
            try:
                if body is None:
                    response = await self._client.get(path)
                else:
                    response = await self._client.post(path, json=body)
                if not (response.status_code in BUSY or response.status_code >= 500 or _aborted(response)):
                    return response
                problem = f"answers {response.status_code} {response.text[:200]!r}"
                wait = max(wait, _seconds(response.headers.get("retry-after")))
            except httpx.TransportError as error:
                problem = f"does not answer ({type(error).__name__}: {error})"
            now = time.monotonic()
            failing_since = failing_since or now
            left = failing_since + self._server.patience - now
            if left <= 0:
                error = EngineError if self._answered > failing_since else EngineGoneError
                raise error(f"{self._server.url} {problem}, for {self._server.patience:g} s now")
            if self._warned <= self._answered:
                self._warned = now
                logger.warning("%s %s; it is asked again for %g s", self._server.url, problem, self._server.patience)
            await asyncio.sleep(min(left, wait * random.uniform(0.7, 1.3)))
            wait = min(2 * wait, LONGEST_WAIT)

    def _refusal(self, response: httpx.Response) -> str:
        remedy = "; set OPENAI_API_KEY to a key that it takes" if response.status_code in (401, 403) else ""
        return f"{self._server.url} refuses with {response.status_code}: {response.text[:500]}{remedy}"

    def _refuse_thinking(self, text: str | None, thought: object = None) -> None:
        if not self._thinking and (thought or THOUGHT.match(text or "")):
            raise EngineGoneError(THINKING.format(url=self._server.url))


def _aborted(response: httpx.Response) -> bool:
    """Whether the server was stopped and cut the reply."""
    return response.status_code == 200 and bool(re.search(r'"finish_reason":\s*"(abort|error)"', response.text))


def _seconds(header: str | None) -> float:
    """A `Retry-After` in seconds; 0 for one that is a date."""
    return min(float(header), LONGEST_WAIT) if header and header.isdecimal() else 0.0
