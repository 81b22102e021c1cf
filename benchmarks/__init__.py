"""Benchmarks of twinloop beside other frameworks: `make bench`, see README.md."""
