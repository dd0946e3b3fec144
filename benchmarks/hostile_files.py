"""All invalid and hostile files, each in a process of its own and in this one: exit status 2, a sentence, nothing written."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.hostile.files import hostile_files
from tests.hostile.judge import LIMITS, complaints, in_process, in_subprocess


def main() -> None:
    """Print what is not as it must be, and how many files of each kind there are; exit with 1 where anything is wrong."""
    os.environ.update(LIMITS)
    ways = (in_process,) if "--fast" in sys.argv else (in_process, in_subprocess)
    kinds: Counter[str] = Counter()
    wrong = 0
    for file in hostile_files():
        kinds[file.name.partition("-")[0]] += 1
        for run in ways:
            with tempfile.TemporaryDirectory() as folder:
                for complaint in complaints(file, Path(folder), run):
                    print(f"{run.__name__}: {complaint}")
                    wrong += 1
    print(f"{sum(kinds.values())} files ({', '.join(f'{count} {kind}' for kind, count in kinds.items())}), {wrong} complaints (bar 0)")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
