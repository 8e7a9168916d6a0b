"""Impressions, the ranker's records, and lists ordered by expected watch time."""
