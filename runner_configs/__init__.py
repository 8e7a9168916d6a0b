"""Everything that knows where a job runs: Beam options by runner."""
