"""Encode texts as token rows, build the data streams of a method, plan the batches."""
