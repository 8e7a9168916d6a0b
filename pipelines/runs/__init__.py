"""Running nights: stage processes, the run log, notifications, metrics, and estimates."""
