"""Run the command line with `python -m relearn`."""

from relearn.cli import main

main()
