"""The built-in entailment judge: all-MiniLM-L6-v2 as a cross-encoder, fine-tuned by the adapter in this folder.

`judge` loads and runs it, `model` is the network. README.md describes training data, accuracy, errors, and the licence
of the weights (CC BY-SA 4.0, unlike the code).
"""
