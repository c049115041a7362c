"""Each method against a literal reading of its paper."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn.functional import normalize, one_hot

from recast_gen.tasks.heads import gradient, make

from .test_heads import CLASSES, D, drawn


@given(st.integers(0, 99))
def test_the_nearest_mean_is_that_of_the_distances(seed):
    features, labels = drawn(seed, apart=1.0)
    head = make("means", D).fit(features, labels)
    means = torch.stack([features[labels == label].double().mean(0) for label in head.classes])
    torch.testing.assert_close(head.means(), means, rtol=0, atol=1e-6)
    distances = torch.cdist(features.double(), means, compute_mode="donot_use_mm_for_euclid_dist")
    two = distances.topk(2, largest=False)
    clear = two.values[:, 1] - two.values[:, 0] > 1e-5
    assert torch.equal(head.predict(features)[clear], head.classes[two.indices[:, 0]][clear])


@given(st.integers(0, 99))
def test_ridge_is_the_textbooks_with_its_strength_relative_to_the_features(seed):
    features, labels = drawn(seed)
    head = make("ridge", D, strength=0.1).fit(features, labels)
    inputs = torch.cat([features, torch.ones(len(features), 1)], 1).double()
    penalty = (0.1 * features.double().square().sum(0).mean()).sqrt() * torch.eye(D + 1)
    wanted = torch.cat([one_hot(labels, CLASSES).double(), torch.zeros(D + 1, CLASSES)])
    solved = torch.linalg.lstsq(torch.cat([inputs, penalty]), wanted).solution
    torch.testing.assert_close(head.scores(features), inputs @ solved, rtol=1e-8, atol=1e-8)


def test_ridge_counts_an_image_of_a_coarser_name_as_each_finer_one_in_equal_parts():
    features, labels = drawn(0, 60, apart=1.0)
    early = torch.arange(60) < 30
    head = make("ridge", D, strength=0.1).fit(features[early], labels[early].clamp(max=3) + 10)
    head.refine({13: [3, 4, 5]}).fit(features[~early], labels[~early])
    names = head.classes.tolist()
    assert names == [0, 1, 2, 3, 4, 5, 10, 11, 12]
    wanted = torch.zeros(60, 9).double()
    for row, label in enumerate(labels.tolist()):
        for name in [label] if row >= 30 else [label + 10] if label < 3 else [3, 4, 5]:
            wanted[row, names.index(name)] = 1 / 3 if row < 30 and label >= 3 else 1
    inputs = torch.cat([features, torch.ones(60, 1)], 1).double()
    penalty = 0.1 * features.double().square().sum(0).mean() * torch.eye(D + 1)
    solved = torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ wanted)
    torch.testing.assert_close(head.scores(features), inputs @ solved, rtol=1e-8, atol=1e-8)


def test_a_shared_covariance_stays_when_a_class_gives_way():
    features, labels = drawn(0, 400)
    head = make("statistics", D, shared=True).fit(features, labels)
    before = head.normals()[2]
    after = head.refine({1: [6, 7], 5: [8, 9]}).normals()[1]
    assert head.classes.tolist() == [0, 2, 3, 4]
    torch.testing.assert_close(after.mean, before.mean)
    torch.testing.assert_close(after.covariance_matrix, before.covariance_matrix, rtol=1e-3, atol=1e-6)


def test_ranpac_is_ridge_on_a_random_layer_that_is_a_seed():
    features, labels = drawn(0)
    head, other = (make("random_ridge", D, seed, width=30, strength=0.01).fit(features, labels) for seed in (7, 8))
    torch.manual_seed(7)
    lifted = torch.nn.Linear(D, 30)(features).relu().detach()
    joint = make("ridge", 30, strength=0.01).fit(lifted, labels)
    torch.testing.assert_close(head.scores(features), joint.scores(lifted), rtol=1e-4, atol=1e-4)
    assert not torch.equal(head.scores(features), other.scores(features))
    assert head.nbytes == joint.nbytes


def test_the_strength_is_the_best_on_all_that_was_held_out():
    features, labels = drawn(0, 60, apart=1.0)
    head, right = make("ridge", D), dict.fromkeys((1e-5, 1e-4, 1e-3, 1e-2, 1e-1), 0)
    for seen, seed in ((30, 1), (60, 2)):
        held = drawn(seed, 200, apart=1.0)
        head.fit(features[seen - 30 : seen], labels[seen - 30 : seen], held)
        for strength in right:
            other = make("ridge", D, strength=strength).fit(features[:seen], labels[:seen])
            right[strength] += int((other.predict(held[0]) == held[1]).sum())
        assert right[head.strength] == max(right.values())
    clear = drawn(0, 40)  # every strength is right: the largest, since more classes may come
    assert make("ridge", D).fit(*clear, clear).strength == pytest.approx(0.1)


def test_a_strength_of_an_earlier_file_or_of_ones_own_stays():
    head = make("ridge", D, strength=0.01).fit(*drawn(0), drawn(1))
    earlier = make("ridge", D)
    earlier.kept["strength"] = torch.tensor(0.01).double()  # as files had it that kept no counts
    assert head.strength == earlier.fit(*drawn(0), drawn(1)).strength == pytest.approx(0.01)


@pytest.mark.parametrize("shared", [False, True])
def test_class_statistics_are_means_and_covariances_whatever_the_parts(shared):
    features, labels = drawn(0, 400)
    head = make("statistics", D, shared=shared)
    for rows in torch.randperm(400, generator=torch.Generator().manual_seed(0)).split(90):
        head.fit(features[rows], labels[rows])
    centred = torch.cat([own - own.mean(0) for own in (features[labels == label].double() for label in range(CLASSES))])
    for label, normal in enumerate(head.normals()):
        own = features[labels == label].double()
        wanted = centred.T @ centred / (400 - CLASSES) if shared else torch.cov(own.T)
        torch.testing.assert_close(normal.mean, own.mean(0), rtol=0, atol=1e-6)
        torch.testing.assert_close(normal.covariance_matrix, wanted, rtol=1e-3, atol=1e-3)
    assert (head.nbytes < make("statistics", D).fit(features, labels).nbytes) == shared


def test_fetril_moves_the_nearest_new_classs_features_to_the_old_mean():
    features, labels = drawn(0, 300)
    head = make("translated", D)
    for task in ([0, 1], [2, 3]):
        rows = torch.isin(labels, torch.tensor(task))
        head.fit(features[rows], labels[rows])
    features = features.double()
    made, given = head.moved((features[rows], labels[rows]), torch.tensor([2, 3]))
    means = [features[labels == label].mean(0) for label in range(4)]
    for old in (0, 1):
        near = min((2, 3), key=lambda new: float((means[new] - means[old]).norm()))
        wanted = features[labels == near] - means[near] + means[old]
        torch.testing.assert_close(made[given == old], wanted, rtol=0, atol=1e-5)
    assert torch.equal(made[given >= 2], features[rows])


def test_weight_aligning_gives_new_classes_the_norm_of_old_ones():
    features, labels = drawn(0, 300)
    head = make("weight_aligning", D).fit(features[labels < 3], labels[labels < 3])
    old = head.kept["weight"].clone()
    head.fit(features[labels >= 3], labels[labels >= 3])
    norms = head.kept["weight"].norm(dim=1)
    assert norms[3:].mean() == pytest.approx(float(norms[:3].mean()))
    apart = normalize(head.kept["weight"][:3], dim=1) * normalize(old, dim=1)
    assert (apart.sum(1) > 0.5).all()  # distillation keeps their directions


def test_frozen_classes_do_not_change_by_a_bit():
    features, labels = drawn(0, 300)
    head = make("frozen", D).fit(features[labels < 3], labels[labels < 3])
    old = head.kept["weight"].clone()
    head.fit(features, labels)
    assert torch.equal(head.kept["weight"][:3], old)
    torch.testing.assert_close(head.scores(features), 16 * normalize(features.double(), dim=1) @ head.kept["weight"].T)


def test_l2_to_start_moves_less_the_stronger_it_is():
    features, labels = drawn(0, 300)
    moved = []
    for strength in (0.0, 1.0, 100.0):
        head = make("l2_to_start", D, strength=strength).fit(features[labels < 3], labels[labels < 3])
        old = head.kept["weight"].clone()
        moved.append(float((head.fit(features[labels >= 3], labels[labels >= 3]).kept["weight"][:3] - old).norm()))
    assert moved[0] > moved[1] > moved[2]


@given(st.integers(0, 99))
def test_ewcs_information_is_the_mean_square_of_slopes_over_the_labels_that_it_expects(seed):
    features, labels = drawn(seed, 12)
    head = make("ewc", D).fit(features, labels)
    weight, bias = (head.kept[name].clone().requires_grad_() for name in ("weight", "bias"))
    wanted = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for image in features.double():
        chances = torch.log_softmax(weight @ image + bias, 0)
        for chance in chances:
            slopes = torch.autograd.grad(chance, (weight, bias), retain_graph=True)
            for total, slope in zip(wanted, slopes):
                total += chance.detach().exp() * slope.square()
    for name, total in zip(("weight_information", "bias_information"), wanted):
        torch.testing.assert_close(head.kept[name], total)


def test_ewc_draws_back_each_parameter_by_its_information():
    features, labels = drawn(0, 300)
    head = make("ewc", D, strength=3.0).fit(features[labels < 3], labels[labels < 3])
    before = {name: tensor.clone() for name, tensor in head.kept.items()}
    head.images = 50
    layers = [torch.nn.Linear(D, 3).double() for _ in range(2)]
    both = gradient.Classifiers(
        *(torch.stack([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    )
    losses = head.loss(torch.zeros(3, dtype=torch.bool))(both, features[:9].double(), labels[:9] % 3)
    for layer, loss in zip(layers, losses, strict=True):
        wanted = torch.nn.functional.cross_entropy(layer(features[:9].double()), labels[:9] % 3)
        for name in ("weight", "bias"):
            for now, then, known in zip(getattr(layer, name).flatten(), before[name].flatten(),
                                        before[f"{name}_information"].flatten()):  # fmt: skip
                wanted = wanted + 3 / 50 / 2 * known * (now - then) ** 2
        torch.testing.assert_close(loss, wanted)
    moved = []
    for strength in (0.0, 1.0, 1e4):
        head = make("ewc", D, strength=strength).fit(features[labels < 3], labels[labels < 3])
        old = head.kept["weight"].clone()
        moved.append(float((head.fit(features[labels >= 3], labels[labels >= 3]).kept["weight"][:3] - old).norm()))
    assert moved[0] > moved[1] > moved[2]


@pytest.mark.parametrize("keep", [0.0, 0.4, 1.0])
def test_what_the_largest_singular_directions_do_is_left_as_it_was(keep):
    features, labels = drawn(0, 300)
    head = make("subspace", D, keep=keep).fit(features[labels < 3], labels[labels < 3])
    old = torch.zeros(CLASSES, D, dtype=torch.float64)
    old[:3] = head.kept["weight"]
    left, sizes, right = torch.linalg.svd(old)
    rank = round(keep * 3)
    head.fit(features, labels)
    inner = left.T @ (head.kept["weight"] - old) @ right.T
    torch.testing.assert_close(inner[:rank, :rank], torch.zeros(rank, rank).double(), rtol=0, atol=1e-9)
    assert inner.norm() > 0.1  # all else learns
    assert (head.predict(features[labels >= 3]) == labels[labels >= 3]).double().mean() > 0.8


def test_more_features_than_images_do_not_drown_the_classes():
    """The few directions that tell classes apart are the largest; all others are noise."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 4
    centres = 3 * torch.nn.functional.one_hot(torch.arange(4), 60).double()

    def images() -> torch.Tensor:
        return centres[labels] + 0.3 * torch.randn(40, 60, generator=draws, dtype=torch.float64)

    train, held, test = images(), images(), images()
    for part in (None, (held, labels)):
        weight, bias = gradient.fitted(4, (train, labels), part, 0)
        assert ((test @ weight.T + bias).argmax(1) == labels).double().mean() > 0.9


def test_only_values_of_keys_that_images_take_learn():
    features, labels = drawn(0, 300)
    head = make("key_value", D, keys=40).fit(features[labels < 3], labels[labels < 3])
    before, keys = head.kept["values"].clone(), head.kept["keys"].clone()
    few = features[labels == 4][:2]
    head.fit(few, torch.full((2,), 4))
    changed = (head.kept["values"][..., :3] != before).any(2)
    taken = torch.zeros_like(changed)
    taken[torch.arange(64)[:, None], head.solve().nearest(few.double())] = True
    assert torch.equal(changed, taken) and torch.equal(head.kept["keys"], keys)
    projected = torch.einsum("nd,cde->cne", few.double(), head.maps)
    wanted = torch.stack([
        torch.stack([head.kept["values"][c, (key - projected[c, i]).square().sum(1).argmin()]
                     for c, key in enumerate(keys)]).mean(0) for i in range(2)
    ])  # fmt: skip
    torch.testing.assert_close(head.scores(few), wanted)


def test_language_targets_are_regressed_on_and_the_nearest_by_cosine_counts(tmp_path):
    features, labels = drawn(0)
    targets = torch.randn(CLASSES, 5, generator=torch.Generator().manual_seed(1)).double()
    save_file({"targets": targets}, tmp_path / "words.safetensors")
    head = make("language", D, targets=str(tmp_path / "words.safetensors"), strength=0.1).fit(features, labels)
    inputs = torch.cat([features, torch.ones(len(features), 1)], 1).double()
    strength = 0.1 * features.double().square().sum(0).mean() * torch.eye(D + 1)
    mapped = inputs @ torch.linalg.solve(inputs.T @ inputs + strength, inputs.T @ targets[labels])
    torch.testing.assert_close(head.scores(features), normalize(mapped, dim=1) @ normalize(targets, dim=1).T)


def test_a_shared_direction_and_correlations_of_features_do_not_keep_a_classifier_from_learning():
    features, labels = drawn(0, 300)
    mixed = torch.randn(D, D, generator=torch.Generator().manual_seed(3)).double()
    mixed[0] *= 30
    (weight, bias), (other, beside) = (
        gradient.fitted(CLASSES, (each, labels), None, 0)
        for each in (features.double(), features.double() @ mixed + 100)
    )
    first, second = features.double() @ weight.T + bias, (features.double() @ mixed + 100) @ other.T + beside
    assert min((logits.argmax(1) == labels).double().mean() for logits in (first, second)) > 0.95


def test_the_learning_rate_is_the_best_on_what_is_held_out(monkeypatch):
    features, labels = (tensor.double() if tensor.is_floating_point() else tensor for tensor in drawn(0, 60, 1.0))
    held, zeros = drawn(1, 300, 1.0), torch.zeros(CLASSES, D, dtype=torch.float64)
    held = held[0].double(), held[1]
    right = lambda found: int(((held[0] @ found[0].T + found[1]).argmax(1) == held[1]).sum())  # noqa: E731
    train = lambda judges: gradient.descended(zeros, zeros[:, 0], (features, labels), judges, 0)  # noqa: E731
    best, every = train(held), []
    for step in gradient.STEPS:
        monkeypatch.setattr(gradient, "USUAL", step)
        every.append(train(None))
    assert right(best) == max(map(right, every)) > min(map(right, every))
    assert any(torch.allclose(best[0], weight) for weight, _ in every)
