"""The error of a training that cannot start or continue. Importing it does not import TensorFlow."""


class TrainingError(ValueError):
    """Examples or settings from which no model can be trained, or a training that diverged."""
