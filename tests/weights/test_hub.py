"""Networks by name: from the hub, pinned and once; from timm's folders; what is stored needs neither again."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from timm.models import save_for_hf

import recast_gen as rg
from recast_gen.errors import RecipeError, SourceError
from recast_gen.recipe import reading
from recast_gen.weights import networks, sources
from recast_gen.weights.hub import origin
from tests.weights.hub_server import Hub, serving

SIZE = {"img_size": 32, "embed_dim": 16, "depth": 3, "num_heads": 2}
NAME = "user/tiny"


def network(seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model("vit_tiny_patch16_224", num_classes=3, **SIZE)


def files(folder, seed: int = 0) -> dict[str, bytes]:
    """What timm pushes of a network."""
    save_for_hf(network(seed), folder, model_args=SIZE, safe_serialization=True)
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name in ("config.json", "model.safetensors")
    }


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with two commits of one network, an empty cache before it, and no wait between tries."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    with serving(Hub()) as found:
        point(monkeypatch, found.url, tmp_path / "cache")
        found.push(NAME, files(tmp_path / "old", seed=1), "v1")
        found.push(NAME, files(tmp_path / "new"))
        yield found


def point(monkeypatch, url: str, cache) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


def same(model, seed: int) -> bool:
    return all(torch.equal(tensor, network(seed).state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("revision", [None, "v1"])
def test_a_name_of_the_hub_is_downloaded_pinned_and_rebuilt_without_it(hub, revision, monkeypatch):
    model, about = networks.obtained(f"hf-hub:{NAME}", {}, pretrained=True, revision=revision)
    commit = hub.revisions[NAME][revision or "main"]
    assert same(model, 1 if revision else 0)
    assert (about["hub"]["id"], about["hub"]["commit"]) == (NAME, commit)
    assert any(path.startswith("/blobs/") for path in hub.asked)  # a redirect was followed
    point(monkeypatch, "http://127.0.0.1:9", "nowhere")
    bank = rg.mimic(model, timm_kwargs=about["timm_kwargs"])
    assert (bank.backbone | about)["timm_model"] == "vit_tiny_patch16_224"
    again = networks.rebuild(bank.base()).state_dict()
    assert all(torch.allclose(again[key], tensor, atol=1e-6) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", [f"hf-hub:{NAME}", f"hf_hub:{NAME}@v1", f"hf-hub:{NAME}@COMMIT"])
def test_a_revision_in_the_name_counts_and_arguments_change_the_network(hub, name):
    name = name.replace("COMMIT", hub.revisions[NAME]["v1"])
    model, about = networks.obtained(name, {"num_classes": 7, "in_chans": 1}, pretrained=True)
    assert model.head.out_features == 7 and about["timm_kwargs"]["depth"] == 3
    assert about["hub"]["commit"] == hub.revisions[NAME]["v1" if "@" in name else "main"]
    again = networks.create(about["timm_model"], about["timm_kwargs"])
    assert {n: t.shape for n, t in again.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}


def test_timms_own_names_are_pinned_too(hub, tmp_path):
    model = timm.create_model("test_vit")
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    content = (tmp_path / "m.safetensors").read_bytes()
    place = timm.get_pretrained_cfg("test_vit.r160_in1k").hf_hub_id
    commit = hub.push(place, {"model.safetensors": content})
    hub.push(place, {"model.safetensors": content, "x": b""}, "later")
    made, about = networks.obtained("test_vit.r160_in1k", {}, pretrained=True)
    assert all(torch.equal(tensor, made.state_dict()[key]) for key, tensor in model.state_dict().items())
    assert about["hub"]["commit"] == commit and networks.published(about)["base_model"] == place
    assert origin("test_vit.r160_in1k", {}, True, "later").about["hub"]["commit"] != commit
    network, known = sources.model_of("test_vit.r160_in1k")
    assert known["hub"] == about["hub"] and known["data_config"]["input_size"] == (3, 160, 160)


def test_a_warm_cache_serves_without_the_hub(hub, monkeypatch):
    first = networks.obtained(f"hf-hub:{NAME}", {}, pretrained=True)[1]
    asked = len(hub.asked)
    for how in ("offline", "unreachable"):
        if how == "offline":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        else:
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
            point(monkeypatch, "http://127.0.0.1:9", constants.HF_HUB_CACHE)
        model, about = networks.obtained(f"hf-hub:{NAME}", {}, pretrained=True)
        assert same(model, 0) and about == first and len(hub.asked) == asked
        with pytest.raises(SourceError, match="not in the cache, and the hub cannot be reached"):
            networks.obtained("hf-hub:user/other", {}, pretrained=True)


def test_a_cut_connection_is_taken_up_again_or_nothing_is_kept(hub):
    size = len(hub.files[hub.revisions[NAME]["main"]]["model.safetensors"])
    hub.cut, hub.short = size // 2, True
    with pytest.raises(SourceError, match="could not be had .*Consistency check"):
        networks.obtained(f"hf-hub:{NAME}", {}, pretrained=True)
    hub.cut, hub.short = size // 2, False
    assert same(networks.create(f"hf-hub:{NAME}", {}, pretrained=True), 0)


def test_what_the_hub_refuses_is_said(hub):
    hub.gated.add(NAME)
    with pytest.raises(SourceError, match=rf"is gated: accept its terms at {hub.url}/{NAME}, and log in"):
        networks.create(f"hf-hub:{NAME}", {}, pretrained=True)
    hub.gated.clear()
    hub.push("user/text", {"config.json": json.dumps({"architectures": ["Bert"]}).encode()})
    hub.push("user/empty", {"README.md": b""})
    for name, says in (
        ("user/none", "The hub has no"), (f"{NAME}@v9", "no such revision"), ("user/text", "no repository or folder"),
        ("user/empty", "has no config.json"),
    ):  # fmt: skip
        with pytest.raises(SourceError, match=says):
            networks.create(f"hf-hub:{name}", {}, pretrained=True)
    with pytest.raises(SourceError, match="cannot make 'vit_tiny_patch16_224' with .*no_such"):
        networks.create(f"hf-hub:{NAME}", {"no_such": 1}, pretrained=True)
    with pytest.raises(SourceError, match="revision='v1' is of the hub"):
        networks.obtained("test_vit", {}, revision="v1")


def test_a_folder_of_timm_is_found_from_wherever_and_not_needed_again(tmp_path, monkeypatch):
    (tmp_path / "nets").mkdir()
    save_for_hf(network(), tmp_path / "nets" / "tiny", model_args=SIZE)
    monkeypatch.chdir(tmp_path / "nets")
    model, about = networks.obtained("local-dir:tiny", {}, pretrained=True)
    assert same(model, 0) and "hub" not in about
    shutil.rmtree(tmp_path / "nets" / "tiny")
    assert networks.create(about["timm_model"], about["timm_kwargs"] | {"num_classes": 3}).head.out_features == 3
    with pytest.raises(SourceError, match="'local-dir:tiny' is no repository or folder of timm"):
        networks.create("local-dir:tiny", {}, pretrained=True)


RECIPE = """
model: {{name: "{name}"{more}}}
tasks: [{{name: t, data: {{source: digits, classes: [0, 1]}}}}]
"""


def test_only_extract_asks_the_hub_and_a_recipe_pins_what_it_takes(hub, tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE.format(name=f"hf-hub:{NAME}", more=", revision: v1"))
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": os.getcwd()}
    environment.pop("HF_HUB_CACHE", None)
    script = (
        "from recast_gen.pipelines.stage import execute; execute('extract', 'r.yaml')"  # as users point to a mirror
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stored = sources.read(tmp_path / "weights_store" / "r" / "extract" / "extract.zarr")
    assert stored.backbone["hub"]["commit"] == hub.revisions[NAME]["v1"]
    asked, digits = len(hub.asked), networks.rebuild(stored, num_classes=2)  # as `train` makes it
    assert len(hub.asked) == asked and digits.head.out_features == 2


def test_a_revision_without_the_hub_is_a_mistake_of_the_recipe(tmp_path):
    for more in (", revision: v1, checkpoint: a.pth", ", revision: v1, pretrained: false"):
        (tmp_path / "r.yaml").write_text(RECIPE.format(name="test_vit", more=more))
        with pytest.raises(RecipeError, match="`revision` is of the hub's weights"):
            reading.load(tmp_path / "r.yaml")


def test_a_tag_that_timm_does_not_know_is_refused_with_those_that_it_knows():
    with pytest.raises(SourceError, match=r"no weights 'resnet18\.nope'.*resnet18\.a1_in1k"):
        networks.create("resnet18.nope", {})
