"""One workload with one contender, in a process of its own; the harness starts it (``benchmarks.run``).

The answer goes to a file, since contenders print what they like.  It is written before the contender is closed, so that
a contender which cannot end still has its numbers, and again when it has.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import signal
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks import contenders, workload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload")
    parser.add_argument("contender")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--answer", type=Path, required=True)
    wanted = parser.parse_args()
    faulthandler.enable()
    # The harness asks where a run hangs before it ends it.
    faulthandler.register(signal.SIGUSR1, all_threads=True)

    answer: dict[str, Any] = {}

    def write(**news: Any) -> None:
        answer.update(news)
        part = wanted.answer.with_suffix(".part")
        part.write_text(json.dumps(answer))
        os.replace(part, wanted.answer)

    module = workload.load(wanted.workload)
    contender = contenders.ALL[wanted.contender](wanted.workers)
    opened = getattr(module, "OPENED", True)
    try:
        with contextlib.ExitStack() as stack:
            if opened:
                stack.enter_context(contender)
                contender.warm_up()
            write(status="ok", values=module.measure(contender, wanted.size))
            closing = time.perf_counter()
        write(close_s=time.perf_counter() - closing)
    except workload.Unsupported as error:
        write(status="unsupported", message=str(error))
    except workload.Wrong as error:
        write(status="wrong", message=str(error))
    except Exception as error:
        # A contender that fails after its numbers are in has failed to close.
        status = "failed" if "status" not in answer else "ok"
        write(status=status, message=f"{type(error).__name__}: {error}"[:500], traceback=traceback.format_exc())


if __name__ == "__main__":
    main()
