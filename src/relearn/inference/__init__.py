"""Load the models of a run and collect their answers."""
