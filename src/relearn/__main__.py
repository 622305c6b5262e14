"""`python -m relearn` is `relearn`."""

from relearn.cli import main

main()
