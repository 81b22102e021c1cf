"""Hugging Face data sets, decoded once and gathered in batches.

No imports here: decoding processes import `data.decode` through this package, without torch.
"""
