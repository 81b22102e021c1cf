"""Comparison of the two loops: finished runs, and the settings of the proof of parity."""
