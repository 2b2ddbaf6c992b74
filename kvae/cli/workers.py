"""Several processes that train one model: `kvae train --workers`.

The command starts them, waits until they have met, and starts all of them again from the last epoch if one is killed.
It doesn't import TensorFlow itself before it scores the model. On one machine it starts them all; in a cluster, whose
machines all run the same command, `TF_CONFIG` says who they are, and each starts its own.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvae.cli.console import CommandError, say
from kvae.training import unfinished
from kvae.training.cluster import LOST, MET
from kvae.training.signals import Stopped, stopped_by

RESTARTS = 3
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Cluster:
    """Who the workers are: `host:port` of each, and which of them this machine starts."""

    addresses: list[str]
    ours: list[int]

    @property
    def has_chief(self) -> bool:
        return 0 in self.ours

    @classmethod
    def of(cls, workers: int) -> "Cluster":
        """That of `TF_CONFIG`; without it, as many processes on this machine."""
        if not os.environ.get("TF_CONFIG"):
            return cls([f"localhost:{port}" for port in free_ports(workers)], list(range(workers)))
        try:
            config = json.loads(os.environ["TF_CONFIG"])
            addresses, index = [str(address) for address in config["cluster"]["worker"]], int(config["task"]["index"])
            assert config["task"]["type"] == "worker"
            assert 0 <= index < len(addresses)
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise CommandError(
                'Expected TF_CONFIG={"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}. '
                f"Received: {os.environ['TF_CONFIG']}"
            ) from error
        if len(addresses) != workers:
            raise CommandError(f"Expected --workers {len(addresses)}, as in TF_CONFIG. Received: --workers {workers}")
        return cls(addresses, [index])

    def config(self, index: int) -> str:
        return json.dumps({"cluster": {"worker": self.addresses}, "task": {"type": "worker", "index": index}})


def train(arguments: list[str], run: Path, workers: int, timeout: float, overwrite: bool) -> bool:
    """Run `kvae ARGUMENTS` in every worker until the model is trained; True where the chief ran.

    Args:
        arguments: of the command.
        run: the folder; on a cluster one that all machines see.
        workers: how many.
        timeout: seconds within which they must have met.
        overwrite: whether what an earlier training left is of no more use.

    Raises:
        CommandError: if one doesn't come, fails, or was killed too often.
    """
    cluster = Cluster.of(workers)
    with unfinished.locked(run) if cluster.has_chief else contextlib.nullcontext():
        if overwrite and cluster.has_chief:
            unfinished.clear(run / unfinished.FOLDER)
        for restart in range(RESTARTS + 1):
            try:
                with stopped_by(_stop):
                    lost = _run(arguments, cluster, timeout)
            except KeyboardInterrupt:
                saved = "what the last whole epoch left" if unfinished.exists(run) else "nothing yet"
                raise Stopped(f"stopped; saved is {saved}. Resume with: kvae train --resume {run}") from None
            if lost is None:
                return cluster.has_chief
            if restart == RESTARTS:
                break
            begin = "the last epoch that was saved" if unfinished.exists(run) else "the beginning"
            say(f"{lost}: all workers start again, from {begin}.")
            if unfinished.exists(run):
                arguments = ["train", "--resume", str(run), "--workers", str(workers)]
            cluster = Cluster.of(workers)
    raise CommandError(f"{lost}, for the {RESTARTS + 1}th time. Resume with: kvae train --resume {run}")


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def _run(arguments: list[str], cluster: Cluster, timeout: float) -> str | None:
    """One try: None if all came to the end, else what happened to one that was killed."""
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="kvae-") as folder,
        _workers(arguments, cluster, folder) as processes,
    ):
        waiting = True
        while any(process.poll() is None for process in processes.values()):
            if any(process.poll() for process in processes.values()):
                return _why(_ended(processes), Path(folder))
            met = [index for index in cluster.ours if (Path(folder) / str(index)).exists()]
            waiting = waiting and len(met) < len(processes)
            if waiting and time.monotonic() - started > timeout:
                raise CommandError(
                    f"Expected {len(cluster.addresses)} workers to meet within {timeout:g} s: "
                    f"{', '.join(cluster.addresses)}. Received: not all of them came. In a cluster, run the same "
                    "command on each machine; --worker-timeout gives them more time"
                )
            time.sleep(POLL_SECONDS)
        failed = _ended(processes)
        return _why(failed, Path(folder)) if failed else None


@contextlib.contextmanager
def _workers(arguments: list[str], cluster: Cluster, folder: str) -> Iterator[dict[int, subprocess.Popen]]:
    """This machine's workers; none of them lives on."""
    processes: dict[int, subprocess.Popen] = {}
    threads = str(max(1, (os.cpu_count() or 1) // len(cluster.ours)))
    try:
        for index in cluster.ours:
            environment = {"TF_NUM_INTRAOP_THREADS": threads, **os.environ}
            environment |= {"TF_CONFIG": cluster.config(index), MET: folder}
            shown: dict[str, Any] = {}
            if index:  # the chief speaks for all
                shown = {"stdout": subprocess.DEVNULL, "stderr": open(f"{folder}/{index}.log", "wb")}
            command = [sys.executable, "-P", "-m", "kvae", *arguments]  # -P: not a folder called kvae that is here
            processes[index] = subprocess.Popen(command, env=environment, start_new_session=True, **shown)
            if index:
                shown["stderr"].close()
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def _ended(processes: dict[int, subprocess.Popen]) -> dict[int, int]:
    """Status of those that failed; what fails in one for a reason of its own fails in all, if they get the time."""
    reasons = (process.poll() for process in processes.values())
    if any(status is not None and status > 0 and status != LOST for status in reasons):
        with contextlib.suppress(subprocess.TimeoutExpired):
            next(iter(processes.values())).wait(5)
    return {index: process.returncode for index, process in processes.items() if process.poll()}


def _why(failed: dict[int, int], folder: Path) -> str:
    """What happened to a worker that may be started again; the command ends with one that would fail again."""
    index = min(failed, key=lambda i: (failed[i] >= 0, failed[i] == LOST, i))  # the cause, not what came of it
    status = failed[index]
    if status < 0:
        return f"Worker {index} was killed ({signal.Signals(-status).name})"
    if status == LOST:
        return f"Worker {index} has lost another one"
    if not index:
        sys.exit(status)  # the chief has said why
    said = (folder / f"{index}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise CommandError(f"worker {index}: {said[-1].removeprefix('kvae: error: ') if said else f'status {status}'}")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
