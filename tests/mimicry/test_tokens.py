"""Tokens are cut and put together without loss; from them a network of any depth is made."""

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.bank.cutting import cuts
from recast_gen.bank.tokens import matched
from recast_gen.errors import FitError, StoreError, TaskError
from recast_gen.weights.networks import fill
from recast_gen.weights.sources import read

from ..process import recast

FAST = {"epochs": 2, "noise": 1e-6}
VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2}


def resnet(layers=(3, 4, 2, 2)) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model("resnet18", layers=layers, num_classes=3, channels=(8, 8, 16, 16)).eval()


@pytest.fixture(scope="module")
def bank(vit):
    return rg.mimic_tokens(vit(), ["neuron", "head"], **FAST, timm_kwargs=VIT)


def logits(bank, batch: torch.Tensor, **options) -> torch.Tensor:
    about = bank.about(options.get("depth"))
    model = timm.create_model(about["timm_model"], **about["timm_kwargs"])
    fill(model, rg.generate(bank, **options))
    with torch.no_grad():
        return model.eval()(batch)


@pytest.mark.parametrize(("name", "kinds"), [("vit", ["neuron", "head"]), ("cnn", ["neuron"]), ("cnn", ["tile"])])
def test_what_is_cut_is_put_together_again(vit, name, kinds):
    weights = read(vit() if name == "vit" else resnet())
    for cut, tokens in cuts(weights, kinds, 2):
        assert 0.9 < np.square(tokens).mean() < 1.001  # a fresh norm's running mean is 0
        for at, (layer, rows) in enumerate(zip(cut.layers, tokens)):
            for tensor, array in cut.put(rows, at).items():
                np.testing.assert_allclose(array, weights[f"{cut.blocks}{layer}.{tensor}"], rtol=1e-4, atol=1e-6)


def test_at_its_own_depth_it_is_the_network(bank, vit):
    batch = vit.batch()
    with torch.no_grad():
        expected = vit()(batch)
    torch.testing.assert_close(logits(bank, batch), expected, rtol=0.05, atol=0.05)
    far = logits(bank, batch, temperature=0.3, source="prior", seed=1)
    assert not torch.allclose(far, expected, atol=0.05)


def test_heads_of_a_real_width_need_no_matrix_of_all_their_parameters(vit):
    kwargs = VIT | {"embed_dim": 384, "num_heads": 6, "depth": 2}  # a head has 98,496 parameters: 39 GB of pairs
    model, batch = timm.create_model("vit_tiny_patch16_224", **kwargs).eval(), vit.batch()
    bank = rg.mimic_tokens(model, "head", **FAST, timm_kwargs=kwargs)
    with torch.no_grad():
        torch.testing.assert_close(logits(bank, batch), model(batch), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("between", ["blend", "pick", "nearest"])
def test_a_network_of_any_depth_is_a_timm_model(bank, vit, between):
    for depth in (1, 3, 7):
        found = logits(bank, vit.batch(), depth=depth, between=between, temperature=0.1, seed=3)
        assert found.isfinite().all()
        again = logits(bank, vit.batch(), depth=depth, between=between, temperature=0.1, seed=3)
        assert torch.equal(found, again)


@pytest.mark.parametrize("tokens", ["neuron", "tile"])
def test_a_residual_network_gets_a_depth_for_each_stage(tokens):
    bank = rg.mimic_tokens(resnet(), tokens, **FAST, timm_kwargs={"channels": (8, 8, 16, 16), "layers": (3, 4, 2, 2)})
    own = tuple(bank.depths(None).values())
    assert own[:2] == (3, 4)
    batch = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(logits(bank, batch), resnet()(batch), rtol=0.05, atol=0.05)
    assert logits(bank, batch, depth=(5, 2, *own[2:])).isfinite().all()
    with pytest.raises(FitError, match="a count of blocks for each of"):
        bank.generate(5)
    with pytest.raises(FitError, match=r"depth=0 for layer1\.\*"):
        bank.generate((0, *own[1:]))


def test_between_layers_that_differ_in_the_order_of_their_neurons_lies_the_same_layer(vit):
    model = vit()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for block in model.blocks[1:]:
            block.load_state_dict(model.blocks[0].state_dict())
        for tensor in (model.blocks[1].mlp.fc1.weight, model.blocks[1].mlp.fc1.bias):
            tensor.copy_(tensor[order])
        model.blocks[1].mlp.fc2.weight.copy_(model.blocks[1].mlp.fc2.weight[:, order])
    bank = rg.mimic_tokens(model, **FAST, timm_kwargs=VIT)
    made = bank.generate(8, rescale=False)  # block 1 lies a quarter on the way from 0 to 1
    for tensor in ("fc1.weight", "fc2.weight"):
        original = model.state_dict()[f"blocks.0.mlp.{tensor}"].numpy()
        np.testing.assert_allclose(made[f"blocks.1.mlp.{tensor}"], original, atol=0.02)


@given(st.integers(0, 2**16))
def test_matching_finds_a_permutation(seed):
    rng = np.random.default_rng(seed)
    layer, order = rng.standard_normal((9, 6)), rng.permutation(9)
    assert np.array_equal(order[matched(np.stack([layer, layer[order]]), "neuron")[0]], np.arange(9))
    assert np.array_equal(matched(np.stack([layer, layer[order]]), "tile")[0], np.arange(9))


def test_branches_add_less_when_there_are_more_of_them(bank):
    twice, plain = (bank.generate(8, rescale=rescale) for rescale in (True, False))
    for name, tensor in plain.items():
        half = name.endswith(("attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias"))
        np.testing.assert_allclose(twice[name], tensor / 2 if half else tensor, rtol=1e-5)


def test_it_comes_back_from_disk_and_damage_is_found(bank, tmp_path):
    path = tmp_path / "tokens.safetensors"
    bank.save(path)
    first = path.read_bytes()
    bank.save(path)
    assert path.read_bytes() == first
    options = {"depth": 6, "temperature": 0.5, "seed": 2}
    found, expected = rg.generate(path, **options), rg.generate(bank, **options)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], array) for name, array in expected.items())
    path.write_bytes(first[:-1] + bytes([first[-1] ^ 1]))
    with pytest.raises(StoreError, match="damaged"):
        rg.load_tokens(path)
    path.write_bytes(first[: len(first) // 2])
    with pytest.raises(StoreError, match="cannot be read as a token bank"):
        rg.load_tokens(path)


def test_the_command_writes_a_network_that_names_its_depth(bank, tmp_path):
    bank.save(tmp_path / "tokens.safetensors")
    done = recast("generate", "tokens.safetensors", "--depth", 6, "--out", "six.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = read(tmp_path / "six.safetensors")
    assert made.backbone["timm_kwargs"]["depth"] == 6
    fill(timm.create_model(made.backbone["timm_model"], **made.backbone["timm_kwargs"]), made)


def test_an_interrupted_fit_goes_on_to_the_same_bits(vit, tmp_path):
    def stop(done, *_):
        if done == 3:
            raise OSError("the lights went out")

    options = {"epochs": 6, "seed": 1}
    with pytest.raises(OSError):
        rg.mimic_tokens(vit(), checkpoint=tmp_path / "state", on_epoch=stop, **options)
    seen = []
    resumed = rg.mimic_tokens(vit(), checkpoint=tmp_path / "state", on_epoch=lambda *at: seen.append(at[0]), **options)
    whole = rg.mimic_tokens(vit(), **options)
    assert seen[0] > 1 and resumed.fit == whole.fit
    assert all(np.array_equal(array, resumed.generate()[name]) for name, array in whole.generate().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": "nueron"}, "Did you mean 'neuron'"), ({"tokens": "tile"}, "No two blocks of one shape"),
        ({"beta": -1}, "beta is -1"), ({"latent": 1000}, "1000 for neuron tokens of rank"), ({"epochs": 0}, "epochs=0"),
        ({"tokens": ["neuron", "neuron"]}, "both cut"), ({"noise": 0}, "noise is 0"), ({"lr": 0}, "lr is 0"),
        ({"noise": None, "noise_floor": -1}, "noise_floor is -1"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(vit, options, message):
    with pytest.raises(FitError, match=message):
        rg.mimic_tokens(vit(), **options)


def test_a_wrong_use_is_refused(bank, vit):
    with pytest.raises(FitError, match="give heads="):
        rg.mimic_tokens(vit().state_dict(), "head")
    with pytest.raises(FitError, match="depth need a token bank"):
        rg.generate(rg.mimic(vit()), depth=8)
    with pytest.raises(TaskError, match="has no tasks"):
        rg.generate(bank, {})
    with pytest.raises(FitError, match="No between 'bland'. Did you mean 'blend'"):
        rg.generate(bank, between="bland")
