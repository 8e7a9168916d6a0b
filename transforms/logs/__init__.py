"""Read and validate raw log files, store the events, and read the events of one user bucket in a window."""
