"""Functions of a worker process, one of several that train one model."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MET = "KVAE_WORKERS_MET"  # environment variable: folder in which a worker marks that it has connected
LOST = 75  # exit status of a worker that has lost another one (EX_TEMPFAIL)


def is_worker() -> bool:
    """Return whether `kvae train --workers` has started this process."""
    return MET in os.environ


def join() -> Any:
    """Wait until all workers have connected, and return the strategy.

    The worker ends when the command that started it has ended.
    """
    import tensorflow as tf

    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(LOST)

    threading.Thread(target=watch, daemon=True).start()
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    meet(strategy)
    (Path(os.environ[MET]) / str(strategy.cluster_resolver.task_id)).touch()
    return strategy


def is_chief() -> bool:
    """Return whether this process writes the files: it trains alone, or is the first worker."""
    import tensorflow as tf

    return bool(tf.distribute.get_strategy().extended.should_checkpoint)


def meet(strategy: Any) -> None:
    """Wait until all workers have connected."""
    import tensorflow as tf

    def counted() -> Any:
        return strategy.reduce("SUM", strategy.run(lambda: tf.constant(1.0)), axis=None)

    tf.function(counted, autograph=False)()


@contextlib.contextmanager
def lost_others() -> Iterator[None]:
    """End a worker quietly if its step fails because another worker is lost: the command restarts all of them."""
    import tensorflow as tf

    gone = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
    )
    try:
        yield
    except gone:
        os._exit(LOST)
