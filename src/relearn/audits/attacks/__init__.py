"""Register the built-in attacks; every module of this package is imported when AUDITS is first read."""
