"""Implement the commands: run, evaluate, compare, demo, audit, analyze, synthesize, ask and export."""
