"""The same task for Huey: its consumer imports `huey` from here; `main` fills the queue and reads the results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from huey import SqliteHuey

huey = SqliteHuey(filename=os.environ["BENCH_HUEY_FILE"])


@huey.task()
def line(number: int) -> tuple[float, float, str]:
    started = time.time()
    done = subprocess.run(
        [os.environ["BENCH_PROGRAM"]], input=f'{{"n":{number}}}\n', text=True, capture_output=True, check=True
    )
    return started, time.time(), done.stdout


def main() -> None:
    count = int(sys.argv[1])
    results = [line(number) for number in range(count)]
    print("filled", flush=True)
    sys.stdin.read()  # until the consumer is there
    while huey.result_count() < count:  # rarely: each look costs the consumer a moment
        time.sleep(0.1)
    times = [result.get() for result in results]
    print(json.dumps([min(one[0] for one in times), max(one[1] for one in times)]), flush=True)
