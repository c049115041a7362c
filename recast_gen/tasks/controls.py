"""What drawn networks are worth, beside the controls without which that says nothing."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..bank.population import Population
from ..weights.named import Weights
from ..weights.networks import fill, rebuild
from ..weights.statistics import estimate
from .data import Splits, labels_of
from .module import predict

Network = dict[str, np.ndarray]
KNOWN = 512  # unlabelled training images that estimate batch norms, at most
ENSEMBLE = 10  # samples


def judge(
    drawn: Population, aligned: Population, plain: Population, splits: Splits, count: int = 20, seed: int = 0
) -> list[dict]:
    """Originals, samples and controls: one row a network.

    Zeng et al. (CVPR 2026) name the controls: generated weights are compared with replicas, noise and averages, by
    accuracy, by distance to the nearest original, and by how many wrong answers they share with one.

    Args:
        drawn: the population whose prior is judged.
        aligned: of the same networks, with all templates, so that codes rebuild the originals; `drawn` where it is so.
        plain: as `aligned`, of the networks as they are.
        splits: the test images judge; the training images, without their labels, estimate batch norms.
        count: networks of each kind.
        seed: of all draws.
    Returns:
        Rows of ``kind, index, accuracy`` (fraction), ``distance`` (to the nearest original, aligned, relative to its
        norm), ``nearest`` (its index), ``iou`` (of wrong answers with the original that shares most of them), and
        ``ensemble`` (accuracy of the mean probabilities of the first networks of the kind, ten at most).
    """
    known = aligned.networks(aligned.posterior[0])
    flat = np.stack([_flat(aligned, network) for network in known])
    images = unlabelled(splits)
    model = rebuild(Weights(known[0], aligned.backbone))
    rng = np.random.default_rng(seed)
    found: dict[str, list[torch.Tensor]] = {}
    rows: list[dict[str, Any]] = []
    answers: list[np.ndarray] = []  # of the originals: what they say where they are wrong, -1 where they are right
    labels = torch.empty(0)
    for kind, index, network in _networks(drawn, aligned, plain, known, flat, count, rng):
        fill(model, network)
        estimate(model, images)
        logits, labels = predict(model, splits.test, 256)
        found.setdefault(kind, []).append(logits.softmax(1))
        said = torch.where(logits.argmax(1) == labels, -1, logits.argmax(1)).numpy()
        row: dict[str, Any] = {"kind": kind, "index": index, "accuracy": float((said < 0).mean())}
        if kind == "original":
            answers.append(said)
        if kind in ("sample", "noise", "average", "mean", "copy", "original"):
            apart = np.linalg.norm(flat - _flat(aligned, network), axis=1) / np.linalg.norm(flat, axis=1)
            if kind == "original":
                apart[index] = np.inf
            row |= {"distance": float(apart.min()), "nearest": int(apart.argmin())}
        rows.append(row | {"said": said})
    for row in rows:
        own = row["index"] if row["kind"] == "original" else None
        row["iou"] = max(_iou(row["said"], other) for index, other in enumerate(answers) if index != own)
        row["ensemble"] = _share(found[row["kind"]][:ENSEMBLE], labels)
    return [{key: value for key, value in row.items() if key != "said"} for row in rows]


def unlabelled(splits: Splits) -> torch.Tensor:
    """Training images ``n c h w`` without their labels, for the statistics of batch norms."""
    return torch.stack([splits.train[index][0] for index in range(min(KNOWN, len(labels_of(splits.train))))])


def _networks(
    drawn: Population, aligned: Population, plain: Population, known: list[Network], flat: np.ndarray, count: int,
    rng: np.random.Generator,
) -> Iterator[tuple[str, int, Network]]:  # fmt: skip
    """(kind, index, network) of everything that is compared, one after the other."""
    for index, network in enumerate(known):
        yield "original", index, network
    samples = drawn.networks(drawn.codes(rng.standard_normal((count, drawn.latents))))
    for index, sample in enumerate(samples):
        yield "sample", index, sample
    for index, code in enumerate(plain.codes(rng.standard_normal((count, plain.latents)))):
        yield "unaligned", index, plain.network(code)
    for index, sample in enumerate(samples):
        nearest = known[int(np.linalg.norm(flat - _flat(aligned, sample), axis=1).argmin())]
        yield "noise", index, {name: _moved(tensor, sample[name], rng) for name, tensor in nearest.items()}
    others = plain.posterior[0]
    pairs = [rng.choice(len(known), 2, replace=False) for _ in range(count)]
    for index, pair in enumerate(pairs):
        first, last = (known[each] for each in pair)
        yield "average", index, {name: _halfway(first[name], last[name]) for name in first}
    for index, pair in enumerate(pairs):
        yield "unaligned average", index, plain.network(others[pair].mean(0))
    yield "mean", 0, aligned.network(np.zeros(aligned.latents))
    for index, network in enumerate(known[:count]):
        yield "copy", index, network


def _moved(tensor: np.ndarray, sample: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A tensor moved as far as a sample's is from it, in a direction at random."""
    if "float" not in tensor.dtype.name:
        return tensor
    noise = rng.standard_normal(tensor.shape)
    size = np.linalg.norm(sample.astype(np.float64) - tensor) / max(np.linalg.norm(noise), np.finfo(float).tiny)
    return np.asarray(tensor + size * noise, tensor.dtype)


def _halfway(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    return np.asarray((first + last) / 2, first.dtype)  # of a count of batches numpy makes a scalar


def _flat(population: Population, network: Network) -> np.ndarray:
    """All that codes make of a network."""
    return np.concatenate([np.ravel(network[name]) for block in population.blocks.values() for name in block.names])


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    """Share of the images where either is wrong on which both give the same wrong answer."""
    either = ((one >= 0) | (other >= 0)).sum()
    return float(((one >= 0) & (one == other)).sum() / either) if either else 0.0


def _share(probabilities: list[torch.Tensor], labels: torch.Tensor) -> float:
    return float((torch.stack(probabilities).mean(0).argmax(1) == labels).float().mean())


def summary(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Kind -> means over its networks, with the least and the most accurate one, and their count."""
    found = {}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        accuracies = [float(row["accuracy"]) for row in own]
        found[kind] = {
            "networks": len(own), "accuracy": float(np.mean(accuracies)), "least": min(accuracies),
            "most": max(accuracies), "spread": float(np.std(accuracies)), "ensemble": float(own[0]["ensemble"]),
            "iou": float(np.mean([float(row["iou"]) for row in own])),
        }  # fmt: skip
        if apart := [float(row["distance"]) for row in own if row.get("distance") not in (None, "")]:
            found[kind]["distance"] = float(np.mean(apart))
    return found


def verdict(found: dict[str, dict[str, float]]) -> str:
    """Whether samples are worth anything, in the first line of a result: four aims, and by how many points."""
    mean = {kind: 100 * each["accuracy"] for kind, each in found.items()}
    ensemble, best = 100 * found["sample"]["ensemble"], 100 * found["original"]["most"]
    asked = [
        ("Within 1.5 points of the originals' mean", mean["sample"] - mean["original"], -1.5),
        ("an ensemble of ten above the best original", ensemble - best, 1e-9),
        ("a point above noise at equal distance", mean["sample"] - mean["noise"], 1.0),
        ("a point above averages of two", mean["sample"] - mean["average"], 1.0),
    ]
    met = [gain >= least for _, gain, least in asked]
    said = "; ".join(f"{what}: {'yes' if yes else 'no'} ({gain:+.1f})" for yes, (what, gain, _) in zip(met, asked))
    return (
        f"Samples of the prior have {mean['sample']:.1f} %, originals {mean['original']:.1f} %: {sum(met)} of "
        f"{len(met)} aims are met. {said}."
    )
