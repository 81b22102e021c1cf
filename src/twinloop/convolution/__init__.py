"""Convolutions by hand, checked against PyTorch: they take tensors and `nn.Module`s only."""
