"""Loss and metrics of an autoencoder, counted by hand over a whole split."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.utils.data import DataLoader

from tests.commands import quiet_trainer
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.models import Autoencoder, BottleneckAutoencoder
from twinloop.tasks import Reconstruction

SPEC = DataSpec("pets", "", (1, 16, 16), ("cat", "dog"))


class Half(Autoencoder):
    """Draws every image half as bright."""

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
        self.decoder = nn.Sequential()
        nn.init.constant_(self.encoder[0].weight, 0.5)  # type: ignore[arg-type]


def task(spec: DataSpec = SPEC, **options: Any) -> Reconstruction:
    return Reconstruction(Half, lambda weights: SGD(weights, 0.1), spec, **options)


def test_the_loss_is_the_mean_squared_error_per_pixel() -> None:
    output, target = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    output[0, 0, 0, 0], target[1, 0, 1, 1] = 0.6, 0.8
    assert task().loss(output, target).item() == pytest.approx((0.36 + 0.64) / 8)


def test_metrics_of_val_are_those_of_all_pixels_whatever_the_batches(
    digits: ImageDataModule,
) -> None:
    (logged,) = quiet_trainer().validate(task(digits.spec), datamodule=digits, verbose=False)
    images = digits.data.train.images[digits.rows["val"]].double() / 255
    mse = (images / 2).square().mean()
    assert len(images) % digits.batch_size  # the last batch is a short one
    assert logged == {
        "val/loss": pytest.approx(mse.item(), rel=1e-5),
        "val/mse": pytest.approx(mse.item(), rel=1e-5),
        "val/psnr": pytest.approx(-10 * mse.log10().item(), rel=1e-5),
    }


def test_colour_is_counted_as_grey_is() -> None:
    colour = DataSpec("colour", "", (3, 8, 8), ("cat", "dog"))
    autoencoder = Reconstruction(
        lambda image_shape: BottleneckAutoencoder(image_shape, 2, widths=(4,)),
        lambda weights: SGD(weights, 0.1),
        colour,
    )
    images = torch.rand(5, 3, 8, 8)
    batches = [(images[:3], torch.zeros(3)), (images[3:], torch.zeros(2))]
    loader: Any = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    (logged,) = quiet_trainer().validate(autoencoder, loader, verbose=False)
    with torch.no_grad():
        mse = (autoencoder.eval()(images) - images).double().square().mean().item()
    assert logged["val/mse"] == pytest.approx(mse, rel=1e-5)
    assert logged["val/loss"] == pytest.approx(mse, rel=1e-5)


def test_ssim_on_test_is_that_of_flat_images() -> None:
    shades = torch.tensor([51, 102, 255], dtype=torch.uint8)
    images = shades[:, None, None, None].expand(3, 1, 16, 16) / 255
    batches = [(images[:2], torch.zeros(2)), (images[2:], torch.zeros(1))]
    loader: Any = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    (logged,) = quiet_trainer().test(task(), loader, verbose=False)
    # Without variance SSIM is (2 x y + c) / (x^2 + y^2 + c) with c = 0.01^2 (Wang et al. 2004);
    # here y is x / 2.
    shares = images[:, 0, 0, 0].double()
    expected = ((shares**2 + 1e-4) / (1.25 * shares**2 + 1e-4)).mean().item()
    assert logged["test/ssim"] == pytest.approx(expected, rel=1e-4)
    mse = (shares / 2).square().mean()
    assert logged["test/mse"] == pytest.approx(mse.item(), rel=1e-5)
    assert logged["test/psnr"] == pytest.approx(-10 * mse.log10().item(), rel=1e-5)


def test_one_step_of_training_goes_down_the_gradient(digits: ImageDataModule) -> None:
    autoencoder = task(digits.spec)
    images, _, _ = next(iter(digits.train_dataloader()))
    # The loss (w - 1)^2 mean(x^2) has the slope 2 (w - 1) mean(x^2), at w = 0.5.
    power = (images.double() / 255).square().mean().item()
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(autoencoder, datamodule=digits)
    (weight,) = autoencoder.network.parameters()
    assert weight.item() == pytest.approx(0.5 + 0.1 * power, rel=1e-6)


def test_noise_has_its_deviation_and_stays_within_pixels() -> None:
    denoiser = task(noise=0.1).train()
    images = torch.full((100, 1, 16, 16), 0.5)
    assert torch.equal(task().inputs_and_targets((images, torch.zeros(100)))[0], images)
    inputs, targets = denoiser.inputs_and_targets((images, torch.zeros(100)))
    assert torch.equal(targets, images)
    assert (inputs - images).std().item() == pytest.approx(0.1, rel=0.02)
    assert (inputs - images).mean().item() == pytest.approx(0, abs=0.003)
    inputs, _ = task(noise=10.0).inputs_and_targets((images, torch.zeros(100)))
    assert (inputs.min().item(), inputs.max().item()) == (0, 1)


def test_training_draws_new_noise_and_evaluation_repeats_its_own() -> None:
    denoiser = task(noise=0.1)
    batch = (torch.full((2, 1, 4, 4), 0.5), torch.zeros(2))

    def drawn() -> torch.Tensor:
        return denoiser.inputs_and_targets(batch)[0]

    denoiser.train()
    assert not torch.equal(drawn(), drawn())
    denoiser.eval()
    state = torch.get_rng_state()
    assert torch.equal(drawn(), drawn())
    assert torch.equal(torch.get_rng_state(), state)  # and takes no number from training


def test_a_negative_noise_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.noise is -0\.1; a standard deviation is 0"):
        task(noise=-0.1)


@pytest.mark.parametrize(("side", "measured"), [(5, False), (6, True)])
def test_ssim_needs_images_larger_than_half_its_window(side: int, measured: bool) -> None:
    trained = task(SPEC._replace(image_shape=(1, 16, side)))
    images = torch.rand(2, 1, 16, side)
    trained.count("test", images, images, torch.zeros(()))
    assert ("test/ssim" in trained.compute("test")) is measured
