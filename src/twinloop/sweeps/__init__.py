"""Sweeps: many runs of one experiment, whose settings Optuna chooses."""
