"""Encode texts as token rows, build the data streams of a method, plan the micro-batches of a training."""
