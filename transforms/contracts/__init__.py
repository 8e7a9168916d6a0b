"""Record formats and metrics shared with the trainer. These modules import numpy only."""
