"""A cluster of three hosts under a mixed load, while its processes are killed and stopped and its links are cut.

python -m tests.chaos [--minutes M] [--seed N] [--drivers D] [--every S]

Needs root (the hosts are namespaces, see ``tests/multihost/hosts.py``).  Ends with status 1 when a result was wrong or
lost, when something hung, or when anything was left on a host.
"""

from __future__ import annotations

import argparse
import random
import sys

from tests.chaos.soak import Soak
from tests.multihost.hosts import missing


def main() -> int:
    """See the module's description."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="of what befalls it, and when")
    parser.add_argument("--drivers", type=int, default=3, help="programs at a time")
    parser.add_argument("--every", type=float, default=3.0, help="seconds between faults, on average")
    arguments = parser.parse_args()
    why = missing()
    if why:
        print(f"no hosts of their own: {why}", file=sys.stderr)
        return 2
    seed = random.SystemRandom().randrange(1 << 30) if arguments.seed is None else arguments.seed
    soak = Soak(seed, arguments.drivers, arguments.every, say=lambda line: print(line, flush=True))
    soak.run(arguments.minutes * 60)
    print("\n".join(soak.report()))
    return 1 if soak.problems else 0


if __name__ == "__main__":
    sys.exit(main())
