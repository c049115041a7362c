"""Compression on really trained networks: whitening keeps predictions that the plain optimum of the weights loses."""

import torch

import recast_gen as rg
from recast_gen.mimicry.measures import overall

from .test_cifar import REAL, images, pytestmark, resnet  # noqa: F401  (the mark skips this file too)

PIXELS = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_half_of_a_resnet_keeps_its_accuracy_where_it_is_fitted_to_its_inputs():
    model, (pixels, labels) = resnet(), images(*PIXELS)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    tested = order[500:700]

    def accuracy(**settings) -> tuple[float, dict]:
        bank = rg.mimic(model, budget=0.5, **settings)
        compressed = resnet()
        compressed.load_state_dict({name: torch.from_numpy(array) for name, array in bank.base().items()})
        with torch.no_grad():
            right = compressed(pixels[tested]).argmax(1) == labels[tested]
        measured = overall(bank.certificate.values())
        assert measured["stored_share"] <= 0.5
        return float(right.float().mean()), measured

    per_layer, svd = accuracy(layout="row", group_size=1)
    plain, auto = accuracy(layout="auto")
    whitened, _ = accuracy(layout="auto", whiten=pixels[order[:64]])
    assert auto["relative_error"] < svd["relative_error"] - 0.05
    assert whitened > plain + 0.1 > per_layer + 0.3 and whitened > 0.72  # of 0.817
