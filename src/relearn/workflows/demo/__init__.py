"""Run the whole pipeline on invented people."""
