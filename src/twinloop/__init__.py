"""Two training loops, one experiment: Lightning's Trainer and a Learner that fits on one screen."""

import os

PARENT = os.getppid()
"""The process that started this one, noted before anything that takes long is imported."""
