"""A look inside: where the model holds an answer, layer by layer, before and after it was made to forget."""
