"""Several processes as one: they start, wait for each other, and notice when one of them has ended."""

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from unlabeled.check import UserError
from unlabeled.parts import devices, gather
from unlabeled.training.settings import Settings

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Stop", "at_once", "first", "guarded", "in_turn", "join", "joined", "refuse_unshared", "together"]

SECONDS_BETWEEN_SIGNS = 2.0
"""Between two signs of life of processes that wait for each other."""

Result = TypeVar("Result")
Read = TypeVar("Read", bound=Sized)


def join(settings: Settings) -> "Fabric":
    """Start the processes that the settings ask for, or join those that torchrun has started.

    Raises:
        ValueError: The device is not there, or there is no script that other processes could run.
        ConnectionError: The processes do not reach each other.
    """
    from lightning_fabric import Fabric

    devices.require(settings.device)
    if settings.devices * settings.nodes > 1:
        _refuse_without_script(settings)
        _refuse_too_many(settings)
    for name in ("lightning_fabric", "lightning.fabric"):  # its advice on strategies is not for our users
        logging.getLogger(name).setLevel(logging.ERROR)
    fabric = Fabric(
        accelerator={"cuda": "gpu"}.get(settings.device, settings.device),
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy="ddp" if settings.devices * settings.nodes > 1 else "auto",
        precision=_precision(settings),
    )
    try:
        fabric.launch()
    except RuntimeError as error:
        if "Gloo" not in str(error):
            raise
        raise ConnectionError(
            "the processes cannot reach each other; GLOO_SOCKET_IFNAME must name the network interface that joins "
            f"them, got {os.environ.get('GLOO_SOCKET_IFNAME', 'none')}"
        ) from error
    if gather.processes() > 1:
        atexit.register(_leave)
    return fabric


@contextmanager
def joined(settings: Settings) -> Iterator["Fabric"]:
    """Join the processes, as `join` does, while the training is prepared; see `together`."""
    fabric = join(settings)
    with together(fabric, lambda: "before the training began"):
        yield fabric


def _refuse_without_script(settings: Settings) -> None:
    """Processes are started by running the script once more; a notebook, a prompt and `python -c` have none."""
    started = any(name in os.environ for name in ("LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID"))
    file = getattr(sys.modules["__main__"], "__file__", None)
    if not started and (hasattr(sys, "ps1") or file is None or not Path(file).is_file()):
        raise ValueError(  # only Python code gets here, and knows it by this name
            "devices and nodes must be 1 in a notebook, at a prompt and in python -c, which other processes cannot "
            f"run; write a script, or start one by torchrun --nproc-per-node {settings.devices} SCRIPT.py; got "
            f"{settings.devices} devices and {settings.nodes} nodes"
        )


def _refuse_too_many(settings: Settings) -> None:
    """More processes than processors only wait for each other; two are allowed anywhere, as a check."""
    cuda = settings.device in ("auto", "cuda") and torch.cuda.is_available()
    most = torch.cuda.device_count() if cuda else max(2, os.cpu_count() or 1)
    if settings.devices > most and "LOCAL_RANK" not in os.environ:  # torchrun has its own number
        what = "GPUs" if cuda else "processors"
        raise UserError(
            f"devices must be at most {most} with the {what} of this machine, got {settings.devices}"
        )


def _precision(settings: Settings) -> Any:
    cuda = settings.device in ("auto", "cuda") and torch.cuda.is_available()
    precision = ("bf16" if cuda else "32") if settings.precision == "auto" else settings.precision
    return {"32": "32-true", "bf16": "bf16-mixed"}[precision]


def _leave() -> None:
    """Close the connections to other processes, whose threads sometimes abort a process that is done."""
    if dist.is_initialized():
        dist.destroy_process_group()


def first(fabric: "Fabric", act: Callable[[], Result]) -> Result:
    """Let the first process act, however long it takes; all get what it returns or raises."""
    result, error = None, None
    with at_once():
        if fabric.global_rank == 0:
            try:
                result = act()
            except (ValueError, OSError) as refused:
                error = refused
    if gather.processes() > 1:
        result, error = fabric.broadcast((result, error))
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def in_turn(fabric: "Fabric", read: Callable[[], Read]) -> Read:
    """Let all processes read the same data: the first one decodes, the others find what it left."""
    if gather.processes() > 1:
        first(fabric, lambda: len(read()))
    with at_once():  # a node without the first one's cache decodes too
        return read()


@contextmanager
def at_once() -> Iterator[None]:
    """Go on when all processes have come to the end of this block, which holds no collective operation.

    A collective operation gives up after half an hour, and a process at work does not notice the loss of another. So a
    thread of each tells the others every few seconds how it stands, until all are done or one has failed.

    Raises:
        DistError: Another process has failed in its block.
        RuntimeError: Another process has ended.
    """
    if gather.processes() == 1:
        yield
        return
    done, failed, lost = threading.Event(), threading.Event(), []
    main, worker = threading.current_thread() is threading.main_thread(), threading.get_ident()
    gpu = torch.cuda.current_device() if dist.get_backend() == "nccl" else None

    def tell() -> None:
        try:
            if gpu is not None:  # a new thread would talk through the first one
                torch.cuda.set_device(gpu)
            busy, broken = True, False
            while busy and not broken:
                done.wait(SECONDS_BETWEEN_SIGNS)
                busy, broken = gather.any_process(not done.is_set(), failed.is_set())
            if broken and not failed.is_set():
                raise dist.DistError("another process has failed")
        except RuntimeError as error:
            lost.append(error)
            if main and not done.is_set():
                signal.pthread_kill(worker, signal.SIGINT)

    def interrupt(number: int, frame: FrameType | None) -> None:
        if lost:  # then also where Ctrl-C is ignored, as in jobs in the background
            raise KeyboardInterrupt
        if callable(before):
            before(number, frame)

    thread = threading.Thread(target=tell, daemon=True)
    before = signal.signal(signal.SIGINT, interrupt) if main else None
    thread.start()
    try:
        yield
        done.set()
        thread.join()  # which Ctrl-C may interrupt
    except BaseException as error:
        failed.set()
        if not (lost and isinstance(error, KeyboardInterrupt)):
            raise
    finally:
        try:
            done.set()
            thread.join()
        finally:
            if main:
                signal.signal(signal.SIGINT, before)
    if lost:
        raise lost[0]


@contextmanager
def together(fabric: "Fabric", when: Callable[[], str]) -> Iterator[None]:
    """Say in words that another process has ended, which shows as a broken connection only.

    Args:
        fabric: The processes.
        when: What has been done so far, such as "after step 3".

    Raises:
        ConnectionError: Another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo/transport" in str(error)):
            raise
        lost = f"lost another of the {gather.processes()} processes, killed or stopped by its own error, {when()}"
        # Commands let only the first process speak, which may be the lost one.
        if fabric.local_rank > 0:
            logging.getLogger(__name__).error("unlabeled: %s", lost)
        raise ConnectionError(lost) from error


def refuse_unshared(file: Path) -> None:
    """Refuse a folder that some process does not see: all read the run when it is resumed, and at its end."""
    if gather.any_process(not file.is_file())[0]:
        raise UserError(
            f"out must be in a folder that all nodes share, got {file.parent}, which some do not see"
        )


class Stop:
    """The signal that asks the training to stop, None as long as there is none."""

    signal: int | None = None


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turn Ctrl-C and SIGTERM into a request that the loop grants after the step, with a checkpoint."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        if stop.signal:
            raise KeyboardInterrupt
        stop.signal = number

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def guarded(fabric: "Fabric", when: Callable[[], str]) -> Iterator[Stop]:
    """Train until another process has ended or a signal asks to stop; see `together` and `stop_signals`."""
    with together(fabric, when), stop_signals() as stop:
        yield stop
