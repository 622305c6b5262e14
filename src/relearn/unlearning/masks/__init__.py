"""Define weight masks, which select the parameters that a training may change."""
