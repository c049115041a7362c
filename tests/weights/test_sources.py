"""Weights come in from models, files, stores and mappings, and never by unpickling."""

import json
import pickle

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import recast_gen as rg
from recast_gen.errors import FamilyError, RecastError, SourceError
from recast_gen.weights import networks, sources, store
from recast_gen.weights.named import Weights
from recast_gen.weights.tensors import to_numpy, to_torch


def same(weights, state) -> bool:
    """Whether weights are a state dict, bit for bit."""
    expected = {name: to_numpy(name, tensor) for name, tensor in state.items()}
    return weights.keys() == expected.keys() and all(
        isinstance(weights[name], np.ndarray)
        and (weights[name].dtype, weights[name].shape) == (array.dtype, array.shape)
        and weights[name].tobytes() == array.tobytes()
        for name, array in expected.items()
    )


KINDS = [
    "model",
    "mapping",
    "arrays",
    "path",
    "lightning",
    "timm",
    "ema",
    "wrapped",
    "safetensors",
    "sharded",
    "folder",
    "store",
]


@pytest.fixture(params=KINDS)
def as_source(request, tmp_path):
    """A model -> the same weights as each kind of source in turn."""

    def make(model):
        state, path = model.state_dict(), str(tmp_path / "weights.pth")
        match request.param:
            case "model":
                return model
            case "mapping":
                return state
            case "arrays":
                return {name: to_numpy(name, tensor) for name, tensor in state.items()}
            case "safetensors":
                save_file(state, path := str(tmp_path / "weights.safetensors"))
            case "store":
                store.save_layers(path, sources.read(model))
            case "path":
                torch.save(state, path)
            case "lightning":
                torch.save({"state_dict": state, "epoch": 3}, path)
            case "timm":
                torch.save({"model": state}, path)
            case "ema":
                torch.save({"epoch": 3, "ema": {"state_dict": state}}, path)
            case "wrapped":
                torch.save({f"module._orig_mod.{name}": tensor for name, tensor in state.items()}, path)
            case "sharded" | "folder":
                shards = {name: f"{index % 2}.safetensors" for index, name in enumerate(state)}
                for shard in set(shards.values()):
                    save_file({name: state[name] for name in state if shards[name] == shard}, tmp_path / shard)
                path = tmp_path / "model.safetensors.index.json"
                path.write_text(json.dumps({"weight_map": shards}))
                return tmp_path if request.param == "folder" else path
        return path

    return make


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_source_gives_the_same_weights_bit_for_bit(architecture, as_source, dtype):
    model = architecture().to(dtype)
    assert same(sources.read(as_source(model)), model.state_dict())


def test_a_network_survives_a_store_into_a_model_again(architecture, tmp_path):
    store.save_layers(tmp_path / "layers.zarr", sources.read(architecture()))
    fresh = architecture(seed=9)
    networks.fill(fresh, sources.read(tmp_path / "layers.zarr"))
    assert torch.equal(fresh(architecture.batch()), architecture()(architecture.batch()))


def test_a_bank_is_the_same_whichever_source_it_comes_from(architecture, tmp_path):
    model = architecture()
    store.save_layers(tmp_path / "layers.zarr", sources.read(model))
    banks = [architecture.bank(source) for source in (model, model.state_dict(), tmp_path / "layers.zarr")]
    assert banks[0].hash == banks[2].hash
    for bank in banks:
        assert bank.groups.keys() == banks[0].groups.keys() and bank.rest.keys() == banks[0].rest.keys()
        for key, group in bank.groups.items():
            assert np.array_equal(group.templates, banks[0].groups[key].templates)


def test_what_timm_knows_of_a_model_comes_with_it(vit, own):
    assert "timm_model" not in sources.read(vit()).backbone  # its kwargs are not known, so its name would not suffice
    about = sources.read(timm.create_model("test_vit", num_classes=3)).backbone
    assert about["timm_model"] == "test_vit" and about["head"] == "head"
    assert about["timm_kwargs"]["num_classes"] == 3 and len(about["data_config"]["mean"]) == 3
    assert sources.read(own()).backbone == {}
    small = timm.create_model("test_vit", img_size=(32, 64))
    assert sources.read(small).backbone["data_config"]["input_size"] == (3, 32, 64)
    levit = timm.create_model("levit_128s", img_size=64)
    assert sources.read(levit, {"img_size": 64}).backbone["data_config"]["input_size"] == (3, 64, 64)


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_is_ever_unpickled(own, tmp_path):
    torch.save({"weight": Evil(tmp_path / "harm")}, tmp_path / "evil.pth")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil(tmp_path / "harm")))
    torch.save(own(), tmp_path / "whole.pth")
    for name in ("evil.pth", "evil.pt", "whole.pth"):
        with pytest.raises(SourceError, match=name):
            sources.read(tmp_path / name)
    assert not (tmp_path / "harm").exists()


def test_what_is_no_source_is_refused_by_what_it_is(tmp_path):
    with pytest.raises(SourceError, match="int is no source"):
        rg.families(3)
    with pytest.raises(SourceError, match=r"nowhere\.pth does not exist"):
        rg.families(tmp_path / "nowhere.pth")
    with pytest.raises(SourceError, match="epoch"):
        rg.families({"epoch": 3, "weight": torch.zeros(2, 2)})
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "noise.safetensors").write_bytes(b"noise" * 20)
    (tmp_path / "empty.pth").touch()
    (tmp_path / "folder").mkdir()
    for name in ("list.pth", "noise.safetensors", "empty.pth", "folder"):
        with pytest.raises(RecastError, match=name):  # a folder that is no store is a StoreError
            rg.families(tmp_path / name)


def test_weights_that_do_not_fit_a_model_are_refused_key_by_key(own):
    model, weights = own(), dict(sources.read(own()))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    del weights["linears.0.bias"]
    weights |= {"extra.weight": np.zeros(2), "classifier.weight": np.zeros((5, 8), np.float32)}
    with pytest.raises(SourceError) as error:
        networks.fill(model, weights)
    for words in ("missing linears.0.bias", "unexpected extra.weight", "classifier.weight is (5, 8), expected (3, 8)"):
        assert words in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_described_network_is_rebuilt_with_a_head_of_any_size():
    model = timm.create_model("test_resnet", num_classes=3).eval()
    images = torch.randn(2, 3, 32, 32)
    again = networks.rebuild(sources.read(model)).eval()
    assert torch.equal(again(images), model(images))
    assert networks.rebuild(sources.read(model), num_classes=7)(images).shape == (2, 7)
    with pytest.raises(SourceError, match="which model"):
        networks.rebuild(Weights({}))
    two_heads = sources.read(timm.create_model("levit_128s", num_classes=3))
    two_heads.backbone["head"] = "head"
    with pytest.raises(SourceError, match="several heads"):
        networks.rebuild(two_heads, num_classes=7)


def test_an_unknown_model_or_wrong_arguments_name_the_model():
    with pytest.raises(SourceError, match="resnet18"):
        networks.create("resnet18x", {})
    with pytest.raises(SourceError, match="resnet18"):
        networks.create("resnet18", {"no_such_argument": 1})


def test_a_model_is_made_from_a_checkpoint_file(tmp_path):
    model = timm.create_model("test_resnet", num_classes=3).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    made = networks.create(
        "test_resnet", {"num_classes": 3}, pretrained=True, checkpoint=tmp_path / "weights.safetensors"
    )
    assert all(torch.equal(tensor, made.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["test_resnet", "test_resnet.r160_in1k"])
def test_shapes_of_a_timm_name_are_those_of_its_model(name):
    state = timm.create_model("test_resnet").state_dict()
    assert networks.shapes(name) == {
        key: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for key, tensor in state.items()
    }


def test_shapes_of_a_file_are_those_of_its_tensors(own, tmp_path):
    torch.save(own().half().state_dict(), tmp_path / "own.pth")
    assert networks.shapes(str(tmp_path / "own.pth"))["linears.0.weight"] == ((8, 8), "float16")
    with pytest.raises(SourceError, match="does not exist"):
        networks.shapes(str(tmp_path / "nowhere.pth"))


def test_an_npz_file_and_the_shapes_of_every_kind_without_reading(own, tmp_path):
    state = {name: to_numpy(name, tensor) for name, tensor in own().state_dict().items()}
    np.savez(tmp_path / "own.npz", **state)
    assert all(np.array_equal(sources.read(tmp_path / "own.npz")[name], array) for name, array in state.items())
    save_file(own().half().state_dict(), tmp_path / "own.safetensors")
    assert sources.read(tmp_path / "own.safetensors").shapes["linears.0.weight"] == ((8, 8), "float16")


def test_a_missing_shard_is_named(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "1.safetensors"}}))
    with pytest.raises(SourceError, match="1.safetensors"):
        sources.read(tmp_path)


def test_a_class_of_the_users_makes_the_model(tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n\n\ndef make(width=4):\n    return nn.Linear(width, 2)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert networks.create("mynets:make", {"width": 6}).weight.shape == (2, 6)
    with pytest.raises(SourceError, match="package.module:callable"):
        networks.create("mynets:made", {})


CODES = [torch.int8, torch.uint8, torch.int32, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("kind", ["safetensors", "pth", "mapping"])
@pytest.mark.parametrize("dtype", CODES)
def test_quantised_tensors_pass_through_untouched_and_are_named(tmp_path, kind, dtype):
    state = {}
    for index in range(3):
        numbers = torch.randn(4, 4, generator=torch.Generator().manual_seed(index)).to(dtype)
        state |= {
            f"a.{index}.codes": numbers,
            f"a.{index}.scale": torch.rand(4),
            f"b.{index}.weight": torch.randn(4, 4),
        }
    source, path = state, tmp_path / f"a.{kind}"
    if kind == "safetensors":
        save_file(state, source := path)
    if kind == "pth":
        torch.save(state, source := path)
    assert rg.families(source).shareable == ["b.*.weight"]
    bank = rg.mimic(source)
    assert bank.fit["untouched"] == {"a.*.codes": str(dtype)[6:]}
    bank.save(tmp_path / "bank.zarr")
    rg.pack(tmp_path / "bank.zarr", tmp_path / "bank.safetensors")
    store.save_layers(tmp_path / "layers.zarr", sources.read(source))
    made = rg.generate(tmp_path / "bank.zarr")
    assert same({name: made[name] for name in state if name[0] == "a"}, {n: state[n] for n in state if n[0] == "a"})
    for name, array in rg.generate(tmp_path / "bank.safetensors").items():
        assert to_torch(array).dtype == state[name].dtype and array.tobytes() == made[name].tobytes()
    assert same(sources.read(tmp_path / "layers.zarr"), state)
    with pytest.raises(FamilyError, match=rf"a\.\*\.codes.* holds {str(dtype)[6:]}"):
        rg.mimic(source, families=["a.*.codes"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_torchs_own_quantized_tensors_are_refused_with_what_to_store_instead(tmp_path):
    state = {f"a.{index}.weight": torch.randn(3, 3) for index in range(2)}
    torch.save(state | {"fc.weight": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}, tmp_path / "q.pth")
    with pytest.raises(SourceError, match=r"fc\.weight is a quantized tensor of torch \(qint8\).*int_repr"):
        rg.mimic(tmp_path / "q.pth")


def test_codes_are_not_loaded_into_a_model_of_numbers(own):
    weights = dict(sources.read(own()))
    weights["linears.0.weight"] = np.zeros((8, 8), np.int8)
    with pytest.raises(SourceError, match=r"of another kind: linears\.0\.weight is int8, expected float32"):
        networks.fill(own(), weights)
