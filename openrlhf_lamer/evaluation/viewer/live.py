"""The viewer as a server on this machine, whose page shows trials as they are written."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from openrlhf_lamer.evaluation import viewer
from openrlhf_lamer.evaluation.viewer.curves import Curves
from openrlhf_lamer.evaluation.viewer.growing import GrowingFile, Line
from openrlhf_lamer.evaluation.viewer.pieces import Decode
from openrlhf_lamer.records import SchemaError

HOST = "127.0.0.1"


class StaleError(Exception):
    """A page asks for trials of a file that is no longer there; its next request for news tells it so."""


class Following:
    """The trials of a file, as far as it is written. Only their summaries are kept, and where each stands in the file.

    Args:
        path: The file, which may not exist yet.
        decode: Reads token ids, as for `viewer.page`.
    """

    def __init__(self, path: Path, decode: Decode | None = None) -> None:
        self._file = GrowingFile(path)
        self._decode = decode
        self._lock = Lock()
        self._forget()

    def _forget(self) -> None:
        self._run = secrets.token_hex(8)
        self._starts: list[int] = []
        self._summaries: list[dict[str, Any]] = []
        self._curves = Curves()
        self._lines = 0
        self.problem = ""
        """Sentence about the first line that is no trial; empty without one."""

    def news(self, run: str, known: int) -> dict[str, Any]:
        """Read on, and return all that a page does not know yet.

        Args:
            run: Name of the file's content that the page knows; another one makes it begin again.
            known: Number of trials of that content that the page knows.

        Returns:
            `run`, the `index` of further trials, `points` of all curves, a `state` for people, and whether there is
            `more` to read at once.

        Raises:
            OSError: The file cannot be read.
        """
        with self._lock:
            more, missing = self._read()
            state = f"waiting for {self._file.path}, which does not exist yet" if missing else self.problem
            index = self._summaries[known if run == self._run else 0 :]
            points = [asdict(point) for point in self._curves.points()]
            return {"run": self._run, "index": index, "points": points, "state": state, "more": more}

    def details(self, run: str, first: int, end: int) -> list[str]:
        """Contents of the trials from place `first` up to `end`, as lines of JSON.

        Raises:
            StaleError: The file is no longer the one that the page knows.
        """
        with self._lock:
            starts = self._starts[first:end] if run == self._run else []
        try:
            texts = [self._file.line_at(start) for start in starts]
            found = [viewer.embedded(viewer.details(viewer.entry(text), self._decode)) for text in texts]
        except (OSError, SchemaError) as error:
            raise StaleError from error
        if not found:
            raise StaleError
        return found

    def _read(self) -> tuple[bool, bool]:
        """Read on; returns whether there is more, and whether there is no file."""
        reading = self._file.read()
        if reading.restarted:
            self._forget()
        for line in reading.lines:
            self._lines += 1
            if line.text.strip():
                self._add(line)
        return reading.more, reading.missing

    def _add(self, line: Line) -> None:
        try:
            entry = viewer.entry(line.text)
        except SchemaError as error:
            self.problem = self.problem or f"line {self._lines} is left out: {error}"
            return
        self._starts.append(line.start)
        self._summaries.append(viewer.summary(entry))
        self._curves.add(entry.trial, entry.step)

    def __len__(self) -> int:
        return len(self._starts)


class LiveServer(ThreadingHTTPServer):
    """Serves a page that follows a file, to browsers on this machine only.

    Args:
        following: The file's trials.
        title: Title of the page.
        about: Description of the file in a line.
        port: The port; 0 takes a free one. Raises `OSError` if it is taken.
    """

    daemon_threads = True

    def __init__(self, following: Following, title: str, about: str, port: int = 0) -> None:
        page = viewer.live_page(title, about).encode()
        super().__init__((HOST, port), partial(_Handler, following, page))

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    """Answers requests for the page, for news, and for trials that are opened."""

    def __init__(self, following: Following, page: bytes, *connection: Any) -> None:
        self._following, self._page = following, page
        super().__init__(*connection)

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        values = dict(parse_qsl(asked.query, keep_blank_values=True))
        # Against DNS rebinding: a page of another site whose name was pointed to this address sends that name.
        if self.headers.get("Host", "").partition(":")[0] not in (HOST, "localhost"):
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"This server is for this machine only.\n")
        elif asked.path == "/":
            self._answer(HTTPStatus.OK, "text/html", self._page)
        elif asked.path in ("/news", "/details"):
            try:
                made = self._news(values) if asked.path == "/news" else self._details(values)
                self._answer(HTTPStatus.OK, "application/json", made.encode())
            except (KeyError, ValueError):
                self._answer(HTTPStatus.BAD_REQUEST, "text/plain", b"run and numbers are needed\n")
            except StaleError:
                self._answer(HTTPStatus.CONFLICT, "text/plain", b"The file has changed.\n")
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"There is only / here.\n")

    def _news(self, values: dict[str, str]) -> str:
        try:
            found = self._following.news(values["run"], int(values["known"]))
        except OSError as error:
            return json.dumps({"state": f"{error.filename}: {error.strerror}"})
        return viewer.embedded(found)

    def _details(self, values: dict[str, str]) -> str:
        found: Sequence[str] = self._following.details(values["run"], int(values["first"]), int(values["end"]))
        return "\n".join(found)

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        with suppress(ConnectionError):  # the page was closed while it waited
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep requests out of the terminal."""
