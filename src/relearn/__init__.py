"""Make a language model forget, and show that it did. Importing this loads neither torch nor transformers."""

__version__ = "0.1.0"
