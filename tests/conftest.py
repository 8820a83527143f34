"""What every test needs: one thread for its small tensors, a cache of its own, and little time."""

import gc
import importlib
import importlib.metadata
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from tempfile import TemporaryFile
from typing import Any, NamedTuple, NoReturn

import pytest

# Threads that wait for each other cost more than they help here; programs that tests start inherit this.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Lightning asks for them in each of a thousand trainings.
importlib.metadata.entry_points = cache(importlib.metadata.entry_points)
# Tests end processes, not machines: what a process has written is there without waiting for the disk.
os.fsync = lambda file: None
gc.disable()  # until all is imported, as hardly any of it is garbage


def pytest_configure(config: pytest.Config) -> None:
    """Files go to the processes in their usual order, the last of which are cheap: all end at about the same time."""
    config.option.loadscopereorder = False  # else those of the fewest tests are last, which start programs


def pytest_collection_finish(session: pytest.Session) -> None:
    """All that was imported stays: without it, each collection of garbage is many times as fast."""
    import torch

    for devices in (torch.cuda, torch.xpu, torch.mtia):
        if (
            not devices.is_available()
        ):  # whose seeds would be kept for later, each with the stack of calls as text
            devices.manual_seed_all = lambda seed: None
    if any(
        "fresh_process" in item.fixturenames for item in session.items if isinstance(item, pytest.Function)
    ):
        FRESH.begin()
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    FRESH.end()


MOST_SECONDS = 90.0
"""Processor time that a test may take, its fixtures and processes included: several times what the dearest takes."""
SPENT = pytest.StashKey[float]()
SECONDS: dict[str, float] = {}
"""Processor time by test, in the process that prints the summary."""


def seconds_spent() -> float:
    """Processor time of this process and of those that it has waited for; other programs hardly change it."""
    times = os.times()
    return sum(times[:4]) + FRESH.spent


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    item.stash[SPENT] = seconds_spent()
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    if call.when != "teardown":
        return
    spent = seconds_spent() - item.stash[SPENT]
    item.user_properties.append(("seconds", spent))
    golden = item.get_closest_marker("golden")
    if spent > MOST_SECONDS and golden is None and call.excinfo is None:
        try:
            pytest.fail(
                f"a test must take at most {MOST_SECONDS:.0f} seconds of processor time, got {spent:.1f}",
                False,
            )
        except pytest.fail.Exception:
            call.excinfo = pytest.ExceptionInfo.from_current()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "teardown":
        SECONDS[report.nodeid] = dict(report.user_properties).get("seconds", 0.0)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Which files take the most processor time, so that those who add tests see what these cost."""
    files = Counter[str]()
    for test, spent in SECONDS.items():
        files[test.partition("::")[0]] += spent
    dearest = ", ".join(f"{name} {spent:.0f}" for name, spent in files.most_common(8))
    total = sum(files.values())
    if total > 60:
        terminalreporter.write_line(
            f"{total:.0f} seconds of processor time in {len(SECONDS):,} tests: {dearest}"
        )


class Ended(NamedTuple):
    """What came of a process: its exit code, below 0 for a signal, and what it wrote to both outputs."""

    code: int
    said: str


class FreshProcesses:
    """Runs functions in processes that have imported what the tests import, and have run none of them.

    Python takes seconds to import that anew; a process that is forked between tests has half of the threads' locks
    and may compute no gradients. So these are forked from one that was forked before the first test.
    """

    connection: Connection | None = None
    spent = 0.0
    """Processor time of all of them."""

    def begin(self) -> None:
        """Fork the process that the others are forked from; elsewhere than on Linux each starts anew."""
        if sys.platform != "linux":
            return
        for name in ("lightning_fabric", "torch._dynamo"):  # which a training imports
            importlib.import_module(name)
        gc.freeze()
        self.connection, other = Pipe()
        if os.fork():
            other.close()
            return
        self.connection.close()
        try:
            while True:
                environment, folder, function, arguments = other.recv()
                with TemporaryFile("w+") as said:
                    pid = os.fork()
                    if not pid:
                        os.setsid()
                        for output in (1, 2):
                            os.dup2(said.fileno(), output)
                        os.environ.clear()
                        os.environ.update(environment)
                        os.chdir(folder)
                        _end_after(function, arguments)
                    other.send(pid)
                    _, status, used = os.wait4(pid, 0)
                    said.seek(0)
                    ended = Ended(os.waitstatus_to_exitcode(status), said.read())
                    other.send((ended, used.ru_utime + used.ru_stime))
        except EOFError:
            pass
        finally:
            os._exit(0)

    def end(self) -> None:
        """End it."""
        if self.connection is not None:
            self.connection.close()

    def __call__(self, function: Callable[..., object], *arguments: Any, seconds: float = 240) -> Ended:
        """Run a function, found by its module and name, in the present folder and environment, and wait for its end.

        Patches of the test do not reach it.
        """
        if self.connection is None:
            process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
            process.start()
            process.join(seconds)
            return Ended(-1 if process.exitcode is None else process.exitcode, "")
        self.connection.send((dict(os.environ), os.getcwd(), function, arguments))
        pid = self.connection.recv()
        if late := not self.connection.poll(seconds):
            os.killpg(pid, signal.SIGKILL)
        ended, spent = self.connection.recv()
        self.spent += spent
        assert not late, f"{function} did not end within {seconds} seconds: {ended.said}"
        return ended


def _end_after(function: Callable[..., object], arguments: tuple[Any, ...]) -> NoReturn:
    """Run a function and end the process, with 1 after an error, whose traceback is printed."""
    code = 1
    try:
        sys.stdout, sys.stderr = outputs = [os.fdopen(output, "w", 1, closefd=False) for output in (1, 2)]
        function(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc(file=outputs[1])
    finally:
        for output in outputs:
            output.flush()
        os._exit(code)


FRESH = FreshProcesses()


@pytest.fixture(scope="session")
def fresh_process() -> FreshProcesses:
    """Call it with a function and arguments to run it in a process in which no test ran."""
    return FRESH


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLABELED_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow networks of images, and few samples whose features are judged after each epoch.

    For tests of what surrounds a network: its width then only costs time.
    """
    from unlabeled.data import KINDS
    from unlabeled.encoders import from_timm, image, stages
    from unlabeled.training import judge

    narrow = {
        "conv4": partial(stages.conv4, share=4),
        "resnet10": partial(from_timm.resnet, "resnet10", share=4),
        "vit-small": partial(from_timm.vit_small, width=48),
        "vit-gap-tiny": partial(from_timm.vit_small, width=48, gap=True),
    }
    for name, network in narrow.items():
        monkeypatch.setitem(image.NAMES, name, network)
    monkeypatch.setattr(judge, "PROBE_SAMPLES", dict.fromkeys(KINDS, 8))


@pytest.fixture
def small_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow networks of texts, sounds and clips, which read short texts."""
    from unlabeled.encoders import text, text_trunks, video_vit, wav2vec2

    for name in ("bert-tiny", "bert-rotary-tiny", "gpt-tiny"):
        monkeypatch.setitem(text_trunks.TRANSFORMERS, name, (2, 32, 2))
    monkeypatch.setattr(text, "LENGTH", 24)
    monkeypatch.setattr(text, "ROTARY_LENGTH", 24)
    small = wav2vec2.SIZES["wav2vec2-tiny"]._replace(channels=16, width=16)
    monkeypatch.setitem(wav2vec2.SIZES, "wav2vec2-tiny", small)
    monkeypatch.setitem(video_vit.NAMES, "vit3d-tiny", (2, 48, 3))


@pytest.fixture
def small_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Built-in sets of few samples, for tests that need no more: drawing thousands only costs time."""
    from unlabeled.data import worlds

    sizes = {name: (min(train, 32), min(test, 16)) for name, (train, test) in worlds.SIZES.items()}
    monkeypatch.setattr(worlds, "SIZES", sizes)


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
