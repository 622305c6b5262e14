"""Run a recipe: check, train, evaluate, report; each stage is skipped when its outputs are complete."""
