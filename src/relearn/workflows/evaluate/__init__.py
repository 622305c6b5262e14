"""Scoring any two models, or any files of answers, without a run: the auditor's and the researcher's way in."""
