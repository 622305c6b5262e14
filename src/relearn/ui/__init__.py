"""A local page on finished runs: ask them, look inside an answer, browse facts by verdict, compare the numbers."""
