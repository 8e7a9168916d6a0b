"""The measurement of lists: held-out users, baselines, the next day, comparisons of nights, and gates."""
