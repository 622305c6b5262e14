"""Serve a local web page on finished runs: ask the models, inspect tokens, browse facts by verdict, compare metrics."""
