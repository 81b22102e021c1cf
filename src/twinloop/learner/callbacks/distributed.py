"""Data-parallel training: the same model in several processes, each with a part of the batch."""

from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from twinloop.learner.callback import Callback, Order
from twinloop.learner.callbacks.accumulate import AccumulateCB
from twinloop.learner.learner import Learner


class DistributedCB(Callback):
    """Averages the gradients of all processes in each backward; Lightning: `strategy="ddp"`.

    It needs a process group: `torchrun` starts the processes, `init_process_group` joins them. The
    loaders give each process its part of a batch. Metrics are those of all processes together, and
    where one has a reason to stop early all do.

    Raises:
        RuntimeError: there is no process group.
    """

    order = Order.DISTRIBUTE

    def before_fit(self, learn: Learner) -> None:
        """Wrap the model, which copies the weights of the first process to all others."""
        if not distributed.is_initialized():
            raise RuntimeError("DistributedCB needs a process group: start it with torchrun")
        device = next(learn.model.parameters()).device
        ids = [device.index] if device.type == "cuda" else None
        learn.model = DistributedDataParallel(learn.model, device_ids=ids)

    def before_batch(self, learn: Learner) -> None:
        """Exchange gradients only in a batch that ends in a step."""
        windows = [cb for cb in learn.cbs if isinstance(cb, AccumulateCB)]
        assert isinstance(learn.model, DistributedDataParallel)
        learn.model.require_backward_grad_sync = all(cb.is_full(learn) for cb in windows)

    def cleanup_fit(self, learn: Learner) -> None:
        learn.model = unwrapped(learn.model)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without its wrapper, whose weights have the same names as in a single process."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def added_up(learn: Learner, value: Tensor) -> Tensor:
    """The sum of a value over the processes of a fit, each of which must ask; alone, the value."""
    if isinstance(learn.model, DistributedDataParallel):
        value = value.to(next(learn.model.parameters()).device, copy=True)
        distributed.all_reduce(value)
    return value
