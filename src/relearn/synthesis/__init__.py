"""Generate training rows: questions, vague answers, checks, rows. Start reading in synthesize.py."""
