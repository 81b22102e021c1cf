"""Hugging Face data sets, decoded once, gathered a batch at a time.

Left without imports on purpose: the processes that decode images load `data.decode` through this
package, and should not wait for torch.
"""
