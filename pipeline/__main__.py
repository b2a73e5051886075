"""`python -m pipeline`, installed as `entail`."""

import sys

from pipeline.cli import main


def run() -> None:
    """The console script: the words of the command line in, the exit code out."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
