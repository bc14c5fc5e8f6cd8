"""``python -m benchmarks``: make the environment, run, report.

    python -m benchmarks                                 everything (about an hour and a half on two cores)
    python -m benchmarks --minutes 28                    everything once, the fast contenders as often as there is time
    python -m benchmarks --minutes 28 --resume           go on with a run that was cut short
    python -m benchmarks --quick                         small sizes, one round: does everything work?
    python -m benchmarks --only submit,chain --contenders ours,ray,pool-fork
    python -m benchmarks growth                          how our cost per task grows with tasks, workers and leases
    python -m benchmarks hosts                           one driver, its workers on 1, 2 and 4 hosts (as root)
    python -m benchmarks transfer                        node to node, against plain encrypted ZeroMQ (as root)
    python -m benchmarks report                          the tables and plots again, from the runs written down

Needs Python 3.10 or newer and pip.  The alternatives are installed in an environment of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "action", nargs="?", choices=["run", "growth", "hosts", "transfer", "limits", "report"], default="run"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--only", metavar="WORKLOAD,...", help="these workloads only")
    parser.add_argument("--contenders", metavar="NAME,...", help="these only; 'ours' and 'others' are groups")
    parser.add_argument("--rounds", type=int, help="how often each is run (default 5; 1 with --quick)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="per run, instead of each workload's own")
    parser.add_argument("--output", type=Path, help="folder for results (default benchmarks/results, or results/quick)")
    parser.add_argument("--minutes", type=float, help="a budget of time; no run takes more than 30 s then")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was cut short")
    parser.add_argument("--add", action="store_true", help="add to the runs that are in the output folder already")
    parser.add_argument("--list", action="store_true", help="workloads and contenders")
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv-bench", help="where to install")
    parser.add_argument("--here", action="store_true", help="this interpreter's environment; install nothing")
    return parser.parse_args()


def enter_environment(folder: Path) -> int:
    """Install what is compared, then do this again with the interpreter that has it."""
    install = ["-r", str(ROOT / "benchmarks" / "requirements.txt"), "-e", str(ROOT)]
    made = subprocess.run([sys.executable, str(ROOT / "tools" / "make_venv.py"), str(folder), "--", *install])
    if made.returncode != 0:
        return made.returncode
    inside = folder / "bin" / "python"
    return subprocess.run([inside, "-m", "benchmarks", *sys.argv[1:], "--here"], cwd=ROOT).returncode


def print_names() -> None:
    """What ``--only`` and ``--contenders`` choose from."""
    from benchmarks import contenders, workload

    for name in workload.names():
        print(f"{name:24} {workload.title(name)}")
    for name, contender in contenders.ALL.items():
        print(f"{name:24} {contender.title}")


def main() -> int:
    wanted = arguments()
    if wanted.list:
        print_names()
        return 0
    if not wanted.here:
        return enter_environment(wanted.environment.absolute())
    from benchmarks import growth, limits, report, run

    output = wanted.output or ROOT / "benchmarks" / "results" / ("quick" if wanted.quick else "")
    if wanted.action == "limits":
        for name, value in limits.measure(quick=wanted.quick).items():
            run.say(f"{name:36} {limits.described(name, value)}")
        return 0
    output.mkdir(parents=True, exist_ok=True)
    if wanted.action == "growth":
        growth.carry_out(output, quick=wanted.quick)
        return 0
    if wanted.action == "hosts":
        from benchmarks import hosts

        hosts.carry_out(output, quick=wanted.quick)
        return 0
    if wanted.action == "transfer":
        from benchmarks import transfer

        transfer.carry_out(output, quick=wanted.quick)
        return 0
    if wanted.action == "run":
        os.environ.setdefault("MPLBACKEND", "Agg")
        plan = run.Plan(
            workloads=run.workload_names(wanted.only),
            contenders=run.contender_names(wanted.contenders),
            rounds=wanted.rounds or (1 if wanted.quick else 5),
            workers=wanted.workers,
            quick=wanted.quick,
            output=output,
            time_limit_s=wanted.time_limit,
            minutes=wanted.minutes,
            resume=wanted.resume,
        )
        earlier = output / "runs.json"
        keeps = (wanted.add or wanted.resume) and earlier.exists()
        run.carry_out(plan, json.loads(earlier.read_text()) if keeps else {})
    report.write(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
