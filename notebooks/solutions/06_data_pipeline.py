# %%
def gather_from(
    images: Tensor, labels: Tensor, order: Tensor, size: int, first: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches from number `first` on, counted from 0."""
    for part in order.split(size)[first:]:
        yield images[part].float() / 255, labels[part]
