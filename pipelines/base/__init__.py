"""One root folder and one process: paths, manifests, the snapshots of the store, the lock, and signals."""
