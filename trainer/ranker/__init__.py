"""The ranker: a network that predicts expected watch time from impressions (paper, section 4)."""
