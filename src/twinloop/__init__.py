"""Two training loops, one experiment: Lightning's Trainer and a Learner that fits on one screen."""
