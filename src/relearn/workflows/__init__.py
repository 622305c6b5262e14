"""One workflow per command: run, evaluate, compare, demo, audit, analyze, ask."""
