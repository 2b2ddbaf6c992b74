"""Several processes that train one model: `kvae train --workers`.

The command starts the workers, waits until they have connected, and restarts all of them from the last saved epoch if
one is killed. It doesn't import TensorFlow before it scores the model. On one machine it starts all workers. In a
cluster every machine runs the same command: `TF_CONFIG` lists the workers, and each machine starts its own.
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
    """The workers: `host:port` of each, and the indices of those that this machine starts."""

    addresses: list[str]
    ours: list[int]

    @property
    def has_chief(self) -> bool:
        return 0 in self.ours

    @classmethod
    def of(cls, workers: int) -> "Cluster":
        """Return the cluster in `TF_CONFIG`, or `workers` processes on this machine if it isn't set."""
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
    """Run `kvae ARGUMENTS` in every worker until the model is trained. Return whether this machine ran the chief.

    Args:
        arguments: arguments of the command.
        run: the run folder; on a cluster, a folder that all machines share.
        workers: number of workers.
        timeout: seconds within which all workers must have connected.
        overwrite: whether to discard an earlier training run in the folder.

    Raises:
        CommandError: if a worker doesn't connect, fails, or was killed too often.
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
                saved = "the last whole epoch is saved" if unfinished.exists(run) else "nothing is saved yet"
                raise Stopped(f"stopped; {saved}. Resume with: kvae train --resume {run}") from None
            if lost is None:
                return cluster.has_chief
            if restart == RESTARTS:
                break
            begin = "the last saved epoch" if unfinished.exists(run) else "the beginning"
            say(f"{lost}: restarting all workers from {begin}.")
            if unfinished.exists(run):
                arguments = ["train", "--resume", str(run), "--workers", str(workers)]
            cluster = Cluster.of(workers)
    raise CommandError(f"{lost}, for the {RESTARTS + 1}th time. Resume with: kvae train --resume {run}")


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def _run(arguments: list[str], cluster: Cluster, timeout: float) -> str | None:
    """Run the workers once. Return None if all of them finished, otherwise what happened to a killed one."""
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
                    f"Expected {len(cluster.addresses)} workers to connect within {timeout:g} s: "
                    f"{', '.join(cluster.addresses)}. Received: fewer workers. In a cluster, run the same "
                    "command on each machine; --worker-timeout gives them more time"
                )
            time.sleep(POLL_SECONDS)
        failed = _ended(processes)
        return _why(failed, Path(folder)) if failed else None


@contextlib.contextmanager
def _workers(arguments: list[str], cluster: Cluster, folder: str) -> Iterator[dict[int, subprocess.Popen[bytes]]]:
    """Start this machine's workers, and kill those that still run at the end."""
    processes: dict[int, subprocess.Popen[bytes]] = {}
    threads = str(max(1, (os.cpu_count() or 1) // len(cluster.ours)))
    try:
        for index in cluster.ours:
            environment = {"TF_NUM_INTRAOP_THREADS": threads, **os.environ}
            environment |= {"TF_CONFIG": cluster.config(index), MET: folder}
            shown: dict[str, Any] = {}
            if index:  # only the chief prints
                shown = {"stdout": subprocess.DEVNULL, "stderr": open(f"{folder}/{index}.log", "wb")}
            command = [sys.executable, "-P", "-m", "kvae", *arguments]  # -P: ignore a folder named kvae here
            processes[index] = subprocess.Popen(command, env=environment, start_new_session=True, **shown)
            if index:
                shown["stderr"].close()
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def _ended(processes: dict[int, subprocess.Popen[bytes]]) -> dict[int, int]:
    """Return the exit status of each failed worker.

    An error that isn't a lost worker occurs in all workers: wait for the chief, whose message is shown.
    """
    reasons = (process.poll() for process in processes.values())
    if any(status is not None and status > 0 and status != LOST for status in reasons):
        with contextlib.suppress(subprocess.TimeoutExpired):
            next(iter(processes.values())).wait(5)
    return {index: process.returncode for index, process in processes.items() if process.poll()}


def _why(failed: dict[int, int], folder: Path) -> str:
    """Return what happened to a worker that may be restarted; end the command for an error that would recur."""
    index = min(failed, key=lambda i: (failed[i] >= 0, failed[i] == LOST, i))  # the cause before its consequences
    status = failed[index]
    if status < 0:
        return f"Worker {index} was killed ({signal.Signals(-status).name})"
    if status == LOST:
        return f"Worker {index} lost its connection to another worker"
    if not index:
        sys.exit(status)  # the chief has printed the reason
    lines = (folder / f"{index}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise CommandError(f"worker {index}: {lines[-1].removeprefix('kvae: error: ') if lines else f'status {status}'}")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
