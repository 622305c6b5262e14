"""Files on their way to their new package."""
