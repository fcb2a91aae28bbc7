"""`python -m search`, a process of its own."""

import gc
import sys

from search.cli import main

# Objects that are made before garbage is looked for. A study is read as tens of thousands that all
# stay: looking among them again and again, as Python's 700 would, frees nothing.
COLLECT_AFTER = 50_000


def run() -> int:
    """Run the command line as all that this process does. Returns the exit status."""
    gc.freeze()  # what is imported stays
    gc.set_threshold(COLLECT_AFTER)
    return main()


if __name__ == "__main__":
    sys.exit(run())
