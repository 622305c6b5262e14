"""Check training rows and answers for leaks of the secrets in forget records."""
