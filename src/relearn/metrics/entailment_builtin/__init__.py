"""Define the built-in entailment judge: all-MiniLM-L6-v2 as a cross-encoder, with the adapter in this folder.

`judge` loads and runs it; `model` defines the network. README.md has the training data, accuracy, errors, and licence
of the weights (CC BY-SA 4.0, unlike the code).
"""
