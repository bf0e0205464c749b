"""The same task for Celery: its worker imports `app` from here; as a program it fills the queue."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from celery import Celery

_URL = os.environ["BENCH_MONGODB"]
app = Celery("bench", broker=_URL, backend=_URL)
app.conf.update(broker_connection_retry_on_startup=True, task_ignore_result=False)


@app.task(name="line")
def line(number: int) -> tuple[float, float, str]:
    started = time.time()
    done = subprocess.run(
        [os.environ["BENCH_PROGRAM"]], input=f'{{"n":{number}}}\n', text=True, capture_output=True, check=True
    )
    return started, time.time(), done.stdout


def main() -> None:
    for number in range(int(sys.argv[1])):
        line.delay(number)


if __name__ == "__main__":
    main()
