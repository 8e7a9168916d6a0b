"""Re-ranking the candidates: features of impressions, their records, the ranker, and its metrics."""
