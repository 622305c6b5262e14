"""Run a recipe in stages: check, train, evaluate, report; completed stages are skipped (`relearn run`)."""
