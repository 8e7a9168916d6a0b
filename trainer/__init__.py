"""The model and its training: TensorFlow only, never Beam. Start at `task`."""
