"""Run the two example programs, each as it is and with its import changed, and compare.

The changed program is made from the ordinary one by replacing the lines shown; each run is a fresh process.
Exits with 1 when results differ.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent

#: program, what it is, what it shows of its result, and the lines to change
PROGRAMS = [
    (
        "count_tokens.py",
        "multiprocessing.Pool: tokenise and count the standard library's source files",
        "{files} files, {tokens} tokens, {names} different names",
        [("import multiprocessing\n", "import distpool.multiprocessing as multiprocessing\n")],
    ),
    (
        "grid_search.py",
        "scikit-learn: grid search for a classifier of handwritten digits",
        "{fits} fits, best score {score:.4f} with {best}",
        [
            ("import joblib\n", "import joblib\nimport distpool.joblib\n"),
            ('parallel_config(backend="loky")', 'parallel_config(backend="distpool")'),
        ],
    ),
]


def changed_source(program, changes):
    source = (HERE / program).read_text()
    for old, new in changes:
        if source.count(old) != 1:
            sys.exit(f"{program}: {old!r} should stand there exactly once")
        source = source.replace(old, new)
    return source


def run(script):
    """Answer of the program and the seconds that the whole process took."""
    started = time.perf_counter()
    finished = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    whole_s = time.perf_counter() - started
    if finished.returncode != 0:
        sys.exit(f"{script.name} ended with status {finished.returncode}")
    return json.loads(finished.stdout), whole_s


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="file names of the programs to run (default: all)")
    only = parser.parse_args().only
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count()
    print(f"Python {sys.version.split()[0]}, {cores} cores; each line is one fresh process\n")
    all_equal = True
    with tempfile.TemporaryDirectory() as folder:
        for program, title, summary, changes in PROGRAMS:
            if only and program not in only:
                continue
            print(title)
            for old, new in changes:
                removed, added = set(old.splitlines()), set(new.splitlines())
                for line in sorted(removed - added):
                    print(f"  - {line}")
                for line in sorted(added - removed):
                    print(f"  + {line}")
            changed = Path(folder) / program
            changed.write_text(changed_source(program, changes))
            results = []
            for label, script in (("as it is", HERE / program), ("changed", changed)):
                answer, whole_s = run(script)
                results.append(answer["result"])
                print(f"  {label:9} {answer['seconds']:7.2f} s in parallel, {whole_s:7.2f} s in all", flush=True)
            equal = results[0] == results[1]
            all_equal = all_equal and equal
            print("  " + summary.format(**results[0]))
            print(f"  results equal: {'yes' if equal else 'NO'}\n", flush=True)
    return 0 if all_equal else 1


if __name__ == "__main__":
    sys.exit(main())
