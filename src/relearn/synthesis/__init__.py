"""Write training rows: questions -> vague answers -> checks -> rows; synthesize.py has the whole sequence."""
