"""Run the command line with `python -m relearn.cli`."""

from relearn.cli import main

main()
