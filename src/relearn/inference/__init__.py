"""Load the models of a run, generate answers and compute log-probabilities."""
