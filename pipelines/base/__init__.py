"""Storage root and process: paths, manifests, snapshots of the store, the lock, the console, and signals."""
