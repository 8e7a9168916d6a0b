"""The error of a training that cannot start or go on, with a message made for the person who started it."""


class TrainingError(ValueError):
    """Examples or settings that nothing can be learned from, or a training that diverged."""
