"""Tokenise every source file of the installed standard library and count what is in there.

An ordinary multiprocessing program: nothing in it knows about distpool.
"""

import collections
import json
import multiprocessing
import sys
import sysconfig
import time
import tokenize
from pathlib import Path


def count_tokens(path):
    """Token kinds and names in one file; files that are wrong on purpose (test data) count as skipped."""
    kinds = collections.Counter()
    names = collections.Counter()
    try:
        with tokenize.open(path) as file:
            for token in tokenize.generate_tokens(file.readline):
                kinds[tokenize.tok_name[token.type]] += 1
                if token.type == tokenize.NAME:
                    names[token.string] += 1
    except (SyntaxError, UnicodeDecodeError, tokenize.TokenError):
        return path.name, None, None
    return path.name, kinds, names


def source_files():
    library = Path(sysconfig.get_paths()["stdlib"])
    return sorted(path for path in library.rglob("*.py") if "site-packages" not in path.parts)


def main():
    files = source_files()
    kinds, names, skipped = collections.Counter(), collections.Counter(), 0
    started = time.perf_counter()
    with multiprocessing.Pool() as pool:
        for _, file_kinds, file_names in pool.imap_unordered(count_tokens, files, chunksize=4):
            if file_kinds is None:
                skipped += 1
            else:
                kinds.update(file_kinds)
                names.update(file_names)
    seconds = time.perf_counter() - started
    result = {
        "files": len(files),
        "skipped": skipped,
        "tokens": sum(kinds.values()),
        "kinds": dict(sorted(kinds.items())),
        "names": len(names),
        "commonest": sorted(names.items(), key=lambda item: (-item[1], item[0]))[:10],
    }
    json.dump({"result": result, "seconds": seconds}, sys.stdout)


if __name__ == "__main__":
    main()
