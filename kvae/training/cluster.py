"""Several processes that train one model: what each of them does."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MET = "KVAE_WORKERS_MET"  # in a worker's environment: the folder where it says that it has met the others
LOST = 75  # exit status of a worker that has lost another one (EX_TEMPFAIL)


def is_worker() -> bool:
    """Whether this process is one that `kvae train --workers` has started."""
    return MET in os.environ


def join() -> Any:
    """The strategy of this worker, when all have met. It ends when the command that started it is gone."""
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
    """Whether this process writes the files: it trains alone, or is the first worker."""
    import tensorflow as tf

    return bool(tf.distribute.get_strategy().extended.should_checkpoint)


def meet(strategy: Any) -> None:
    """Wait until all workers are here."""
    import tensorflow as tf

    def counted() -> Any:
        return strategy.reduce("SUM", strategy.run(lambda: tf.constant(1.0)), axis=None)

    tf.function(counted, autograph=False)()


@contextlib.contextmanager
def lost_others() -> Iterator[None]:
    """A worker whose step fails because another is gone ends quietly: the command starts all of them again."""
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
