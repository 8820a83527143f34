import math

import pytest
import torch

from unlabeled import encoders
from unlabeled.methods.bigan import BiGAN, loss
from unlabeled.training.settings import Settings


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def method(size=8, channels=3, **options):
    encoder = encoders.build("conv4", in_channels=channels, image_size=size)
    return BiGAN(encoder, **{"crop": 1.0, "flip": 0.0, "code_dim": 6} | options)


def images(count=16, size=8):
    return torch.rand(count, 3, size, size)


def divided(network):
    """Parameters of the discriminator, and those of encoder and generator."""
    parts = {True: [], False: []}
    for name, parameter in network.named_parameters():
        parts[name.startswith("discriminator.")].append(parameter)
    return parts[True], parts[False]


def test_loss_and_its_gradient_match_a_slow_loop():
    inferred, drawn = torch.randn(2, 5, 1, dtype=torch.double).requires_grad_()
    twin = torch.zeros((), dtype=torch.double)
    for real, made in zip(inferred, drawn):
        twin = twin - torch.log(1 / (1 + torch.exp(-real[0]))) / 5
        twin = twin - torch.log(1 - 1 / (1 + torch.exp(-made[0]))) / 5
    value = loss(inferred, drawn)
    torch.testing.assert_close(value, twin)
    fast, slow = (torch.autograd.grad(y, (inferred, drawn), retain_graph=True) for y in (value, twin))
    torch.testing.assert_close(fast, slow)


def test_loss_is_two_ln_2_for_both_players_where_the_discriminator_guesses():
    nothing = torch.zeros(7, 1)
    assert loss(nothing, nothing).item() == pytest.approx(2 * math.log(2))
    values = method()({"image": images()})
    assert list(values) == ["generator", "discriminator"]
    assert all(value.item() == pytest.approx(2 * math.log(2), abs=0.01) for value in values.values())
    assert method().chance(8) is None


def test_one_backward_pass_of_the_sum_gives_each_player_only_its_own_gradient():
    network = method()
    torch.nn.init.normal_(network.discriminator.both[-1].weight)
    losses = network({"image": images()})
    theirs, ours = divided(network)
    for value, own, other in (
        (losses["discriminator"], theirs, ours),
        (losses["generator"], ours, theirs),
    ):
        crossed = torch.autograd.grad(value, other, retain_graph=True, allow_unused=True)
        assert all(gradient is None for gradient in crossed)
        alone = torch.autograd.grad(value, own, retain_graph=True)
        for parameter, gradient in zip(own, alone, strict=True):
            parameter.alone = gradient
    sum(losses.values()).backward()
    for parameter in theirs + ours:
        torch.testing.assert_close(parameter.grad, parameter.alone)
        assert parameter.grad.abs().sum() > 0 or parameter.ndim == 1  # biases before a norm


def test_encoder_and_generator_have_the_opposite_objective_of_the_discriminator():
    """Their gradients are those of the exchanged objective, computed by moving each of them a little."""
    network = method().double().eval()
    torch.nn.init.normal_(network.discriminator.both[-1].weight)
    torch.nn.init.normal_(network.generator.last.weight)
    x = images().double()

    def objective():
        torch.manual_seed(3)
        noise = network.noise(len(x), x.device).double()
        inferred, drawn = (
            network.discriminator(x, network.encode(x)),
            network.discriminator(network.generate(noise), noise),
        )
        return -(1 - inferred.sigmoid()).log().mean() - drawn.sigmoid().log().mean()

    network.views = lambda batch: batch["image"]
    network.noise = lambda count, device: 2 * torch.rand(count, 6, device=device).double() - 1
    torch.manual_seed(3)
    network({"image": x})["generator"].backward()
    for weight in (network.code.weight, network.generator.last.weight):
        with torch.no_grad():
            before = weight[0].clone()
            weight[0] += 1e-6
            high = objective()
            weight[0] -= 2e-6
            low = objective()
            weight[0] = before
        assert (high - low).item() / 2e-6 == pytest.approx(weight.grad[0].sum().item(), rel=1e-3, abs=1e-7)


def test_discriminator_sees_both_the_image_and_the_code():
    judge = method().discriminator
    x, codes = images(4), torch.rand(4, 6)
    plain = judge(x, codes)
    assert (judge(x, torch.zeros_like(codes)) != plain).all()
    assert (judge(torch.zeros_like(x), codes) != plain).all()


def test_codes_have_the_range_of_random_ones_and_images_that_of_images():
    network = method()
    torch.nn.init.normal_(network.code.weight, std=30)
    torch.nn.init.normal_(network.generator.last.weight, std=30)
    noise = network.noise(500, torch.device("cpu"))
    assert noise.min() < -0.95 and noise.max() > 0.95 and noise.abs().max() <= 1
    assert network.encode(images()).abs().max() <= 1
    drawn = network.generate(noise)
    assert drawn.shape == (500, 3, 8, 8) and drawn.min() >= 0 and drawn.max() <= 1


def test_settings_are_those_of_the_paper_by_default():
    settings = Settings().with_network(8, False, BiGAN.defaults)
    assert (settings.lr, settings.betas, settings.weight_decay) == (2e-4, [0.5, 0.999], 2.5e-5)
    settings = Settings(optimizer="sgd").with_network(8, False, BiGAN.defaults)
    assert (settings.lr, settings.betas) == (2e-4, None)


def bright(codes):
    """Images of one brightness each: what a generator of one number may draw."""
    return (0.5 + 0.4 * codes)[:, :, None, None].expand(-1, 3, 4, 4)


def brightness(images):
    return ((images.mean((1, 2, 3)) - 0.5) / 0.4)[:, None]


def play(network, steps, lr):
    """Train both players on images of any brightness; the discriminator's loss, mean over the last ten steps."""
    optimizer = torch.optim.Adam(network.parameters(), lr=lr, betas=(0.5, 0.999))
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses = network({"image": bright(network.noise(64, torch.device("cpu")))})
        sum(losses.values()).backward()
        optimizer.step()
        values.append(losses["discriminator"].item())
    network.eval()
    return sum(values[-10:]) / 10


def correlation(first, second):
    return torch.corrcoef(torch.stack([first[:, 0], second[:, 0]]))[0, 1].item()


def test_encoder_learns_to_invert_a_generator_and_the_discriminator_is_then_at_chance():
    network = method(size=4, code_dim=1)
    network.generate = bright
    judge = play(network, 40, lr=1e-3)
    codes = network.noise(256, torch.device("cpu"))
    assert correlation(network.encode(bright(codes)), codes) > 0.9
    assert judge > 1.3


def test_codes_of_other_images_are_recognised_at_once():
    network = method(size=4, code_dim=1)
    network.generate, encode = bright, network.encode
    network.encode = lambda images: encode(images).roll(1, 0)
    assert play(network, 40, lr=1e-3) < 1.0


def test_generator_learns_to_invert_an_encoder():
    network = method(size=4, code_dim=1)
    network.encode = brightness
    play(network, 80, lr=2e-3)
    codes = network.noise(256, torch.device("cpu"))
    assert correlation(brightness(network.generate(codes)), codes) > 0.9
