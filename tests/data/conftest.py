import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """Every test has a cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("UNLABELED_CACHE", str(folder))
    return folder


class Server:
    """A server on this machine that gives out files, and fails as real ones do.

    Attributes:
        address: Where it is.
        files: Content by name.
        failures: How many of the first requests for the content of each file fail.
        status: The status that such a request gets; 0 cuts its content in the middle.
        ranges: Whether it gives parts of files.
        asked: Requests for the content of each file.
        sent: Bytes of content that were sent.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.address, self.files = "", files
        self.failures, self.status, self.ranges = 0, 503, True
        self.asked: Counter[str] = Counter()
        self.sent = 0

    @contextmanager
    def running(self) -> Iterator["Server"]:
        """Serve meanwhile."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        self.address = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        state = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, *, body: bool) -> None:
                content = state.files.get(self.path.lstrip("/"))
                state.asked[self.path.lstrip("/")] += body
                fails = body and state.asked[self.path.lstrip("/")] <= state.failures
                if content is None or (fails and state.status):
                    self.begin(state.status if content is not None else 404, 0)
                    return
                span = self.headers.get("Range") if state.ranges else None
                if span:
                    first, last = (int(part or len(content) - 1) for part in span[6:].split("-"))
                    part = content[first : last + 1]
                    self.begin(206, len(part), f"bytes {first}-{last}/{len(content)}")
                else:
                    part = content
                    self.begin(200, len(part))
                if fails:
                    part, self.close_connection = part[: len(part) // 2], True
                if body:
                    state.sent += len(part)
                    self.wfile.write(part)

            def begin(self, status: int, length: int, span: str = "") -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                self.send_header("Accept-Ranges", "bytes" if state.ranges else "none")
                if span:
                    self.send_header("Content-Range", span)
                self.end_headers()

        return Handler


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, bytes]], Server]]:
    """Starts a server of some files, by name."""
    with ExitStack() as stack:
        yield lambda files: stack.enter_context(Server(files).running())
