"""Programs that get their nodes from an engine, as a user would run them; what they print says how it went."""

from __future__ import annotations

import sys

#: What runs them, also where a test puts another Python in its place for the nodes.
PYTHON = sys.executable

#: argv[1]: address.  Prints on how many nodes its calls ran.
SPREAD = """
import os, sys, time
import distpool

def where(number):
    time.sleep(0.05)
    return os.getppid(), os.uname().nodename

if __name__ == "__main__":
    distpool.init(address=sys.argv[1])
    workers = distpool.cpu_count()
    with distpool.DistExecutor() as executor:
        seen = set()
        while len(seen) < workers:
            seen |= set(executor.map(where, range(20)))
    print("ran on", len(seen))
"""

#: argv[1]: address.  Says that it runs, then runs for ever.
ENDLESS = """
import sys, time
import distpool

if __name__ == "__main__":
    with distpool.DistExecutor(1, address=sys.argv[1]) as executor:
        future = executor.submit(time.sleep, 3600)
        while not future.running():
            time.sleep(0.01)
        print("running", flush=True)
        future.result()
"""

#: argv[1]: address, argv[2]: a file.  Keeps three workers busy for as long as the file is there.
BUSY = """
import os, sys, time
import distpool

def wait(path):
    while os.path.exists(path):
        time.sleep(0.02)

if __name__ == "__main__":
    with distpool.DistExecutor(3, address=sys.argv[1]) as executor:
        print("all", len(list(executor.map(wait, [sys.argv[2]] * 3))), "done")
"""
