"""Running nights: processes, the run log, notifications, metrics, and estimates."""
