"""Methods that leave the weights alone and change inference: offset logits, corrupted prompts."""
