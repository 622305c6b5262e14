"""Weight masks: which parameters a training may change."""
