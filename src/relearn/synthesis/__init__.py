"""Write training rows: question variants, vague answers, checks, generic rows."""
