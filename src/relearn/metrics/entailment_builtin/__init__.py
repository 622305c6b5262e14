"""The built-in entailment judge: all-MiniLM-L6-v2 as a cross-encoder, moved by the adapter that lies here.

`judge` loads and asks it, `model` is the network. README.md says what it was trained on, how well it judges, where it
errs, and under which licence its weights are (CC BY-SA 4.0, unlike the code).
"""
