"""The same model in several processes, each on its part of every batch."""

from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from twinloop.learner.callback import Callback
from twinloop.learner.callbacks.accumulate import AccumulateCB
from twinloop.learner.learner import Learner


class DistributedCB(Callback):
    """Averages the gradients of all processes in each backward; Lightning: `strategy="ddp"`.

    The process group has to be there: `torchrun` starts the processes, `init_process_group` joins
    them. The loaders give each process its part.
    """

    follows = ("DeviceCB", "TruePrecisionCB", "ResumeCB")

    def before_fit(self, learn: Learner) -> None:
        """Wrap the model; all processes begin with the weights of the first."""
        if not distributed.is_initialized():
            raise RuntimeError("DistributedCB needs a process group: start it with torchrun")
        device = next(learn.model.parameters()).device
        ids = [device.index] if device.type == "cuda" else None
        learn.model = DistributedDataParallel(learn.model, device_ids=ids)

    def before_batch(self, learn: Learner) -> None:
        """Talk to the others only in the batch that ends in a step."""
        windows = [cb for cb in learn.cbs if isinstance(cb, AccumulateCB)]
        assert isinstance(learn.model, DistributedDataParallel)
        learn.model.require_backward_grad_sync = all(cb.is_full(learn) for cb in windows)

    def cleanup_fit(self, learn: Learner) -> None:
        """Take the wrapper off again."""
        learn.model = unwrapped(learn.model)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, whose weights have the same names in one process and in several."""
    return model.module if isinstance(model, DistributedDataParallel) else model
