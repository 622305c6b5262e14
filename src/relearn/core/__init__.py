"""Provide what all other packages use: errors, registry, configuration, run folder, console, distributed processes."""

__version__ = "0.1.0"
