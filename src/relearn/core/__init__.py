"""Errors, registry, configuration, run folder, console, distributed processes: used by every other package."""
