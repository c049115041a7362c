"""A task travels through its file, and switching is in place."""

import pytest
import timm
import torch
from torch import nn

import recast_gen as rg
from recast_gen.errors import AttachError, RecastError, TaskError
from recast_gen.model import attach


def adapt(architecture, bank, classes=3, seed=1, resolution=1, dtype=torch.float32) -> nn.Module:
    """The bank's backbone with a head for `classes`, random coefficients and a random head."""
    model = architecture().to(dtype)
    head = model.get_submodule(architecture.head)
    setattr(model, architecture.head, nn.Linear(head.in_features, classes).to(dtype))
    rg.attach(model, bank, resolution=resolution)
    generator = torch.Generator().manual_seed(seed)
    for parameter in [*rg.coefficients(model), *model.get_submodule(architecture.head).parameters()]:
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return model


@pytest.mark.parametrize("resolution", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_task_gives_identical_logits_through_another_model(architecture, tmp_path, resolution, dtype):
    bank = architecture.bank(architecture().to(dtype))
    trained = adapt(architecture, bank, resolution=resolution, dtype=dtype)
    if dtype == torch.float64:  # a task file holds float32 coefficients
        for parameter in rg.coefficients(trained):
            parameter.data = parameter.data.float().double()
    path, images = tmp_path / "task.safetensors", architecture.batch().to(dtype)
    rg.save_task(path, trained, bank, head=architecture.head, classes=["a", "b", "c"], metrics={"accuracy": 0.5})
    other = rg.attach(architecture().to(dtype), bank)
    task = rg.load_task(path, other, bank)
    assert torch.equal(other(images), trained(images))
    assert (task.about["classes"], task.about["metrics"]) == (["a", "b", "c"], {"accuracy": 0.5})


def test_switching_between_tasks_of_other_class_counts_and_resolutions_is_in_place(architecture, tmp_path):
    bank = architecture.bank(architecture())
    expected = {}
    for classes, resolution in [(2, 1), (7, 4)]:
        model = adapt(architecture, bank, classes, seed=classes, resolution=resolution)
        rg.save_task(tmp_path / f"{classes}.safetensors", model, bank, head=architecture.head)
        expected[classes] = model(architecture.batch())
    model = rg.attach(architecture(), bank)
    parameters = rg.coefficients(model)
    templates = [source.templates.values for _, _, source in attach.attached(model).values()]
    for classes in (2, 7, 2):
        rg.load_task(tmp_path / f"{classes}.safetensors", model, bank)
        assert torch.equal(model(architecture.batch()), expected[classes])
        assert getattr(model, "num_classes", classes) == classes
        assert model.get_submodule(architecture.head).out_features == classes
    assert all(mine is theirs for mine, theirs in zip(rg.coefficients(model), parameters))
    now = [source.templates.values for _, _, source in attach.attached(model).values()]
    assert all(mine is theirs for mine, theirs in zip(now, templates))


def test_a_task_saved_without_a_head_brings_back_the_backbones_or_is_refused(architecture, tmp_path):
    bank, images = architecture.bank(architecture()), architecture.batch()
    model = rg.attach(architecture(), bank)
    for parameter in rg.coefficients(model):
        parameter.data += 0.1
    rg.save_task(tmp_path / "plain.safetensors", model, bank, head="")
    expected = model(images)
    rg.save_task(tmp_path / "five.safetensors", adapt(architecture, bank, classes=5), bank, head=architecture.head)
    rg.load_task(tmp_path / "five.safetensors", model, bank)
    rg.load_task(tmp_path / "plain.safetensors", model, bank)
    assert torch.equal(model(images), expected)
    trained = adapt(architecture, bank, classes=5)
    other = trained(images)
    if bank.backbone.get("head"):  # timm's networks say which module it is
        rg.load_task(tmp_path / "plain.safetensors", trained, bank)
        assert torch.equal(trained(images), expected)
    else:
        with pytest.raises(TaskError, match="saved without a head.*classifier.*differ"):
            rg.load_task(tmp_path / "plain.safetensors", trained, bank)
        assert torch.equal(trained(images), other)


def test_nothing_is_forgotten_whatever_was_loaded_before(vit, tmp_path):
    bank = vit.bank(vit())
    model = rg.attach(vit(), bank)
    rg.save_task(tmp_path / "first.safetensors", model, bank)
    rg.save_task(tmp_path / "other.safetensors", adapt(vit, bank, 5), bank)
    before = model(vit.batch())
    for name in ("other", "first"):
        rg.load_task(tmp_path / f"{name}.safetensors", model, bank)
    assert torch.equal(model(vit.batch()), before)


def test_a_task_without_its_head_is_under_one_kilobyte_for_24_layers_and_2_templates(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(24)))
    bank = rg.mimic(model, groups=12)
    rg.attach(model, bank)
    assert sum(parameter.numel() for parameter in rg.coefficients(model)) == 48
    size = rg.save_task(tmp_path / "task.safetensors", model, bank, head="")
    assert size == (tmp_path / "task.safetensors").stat().st_size < 1000


def test_a_task_of_another_bank_is_refused_and_the_model_unchanged(vit, tmp_path):
    bank, other = vit.bank(vit()), vit.bank(vit(), groups=2)
    rg.save_task(tmp_path / "task.safetensors", adapt(vit, bank), bank)
    model = rg.attach(vit(), other)
    before = model(vit.batch())
    with pytest.raises(TaskError, match="belongs to bank"):
        rg.load_task(tmp_path / "task.safetensors", model, other)
    assert torch.equal(model(vit.batch()), before)


def test_a_model_with_another_bank_or_none_attached_is_refused(vit, tmp_path):
    bank, fewer = vit.bank(vit()), rg.mimic(vit(), families=["*.qkv"])
    path = tmp_path / "task.safetensors"
    with pytest.raises(AttachError, match=r"rg\.attach"):
        rg.save_task(path, vit(), bank)
    with pytest.raises(AttachError, match="another bank"):
        rg.save_task(path, rg.attach(vit(), fewer), bank)
    assert not path.exists()
    rg.save_task(path, rg.attach(vit(), bank), bank)
    with pytest.raises(AttachError, match="another bank"):
        rg.load_task(path, rg.attach(vit(), fewer), bank)
    with pytest.raises(AttachError, match=r"found 'bank\.zarr': rg\.load_bank reads"):
        rg.load_task(path, rg.attach(vit(), bank), "bank.zarr")


@pytest.mark.parametrize("settings", [{"groups": 4}, {"gauge": "identity"}])
def test_a_bank_of_the_same_layers_but_other_templates_is_refused(vit, tmp_path, settings):
    bank, other = vit.bank(vit(), gauge="svd"), vit.bank(vit(), **settings)
    rg.save_task(tmp_path / "task.safetensors", rg.attach(vit(), bank), bank)
    model = rg.attach(vit(), other)
    with pytest.raises(RecastError, match="bank"):
        rg.save_task(tmp_path / "wrong.safetensors", model, bank)
    with pytest.raises(RecastError, match="bank"):
        rg.load_task(tmp_path / "task.safetensors", model, bank)


def test_a_trained_weight_outside_coefficients_and_head_is_refused_by_name(vit, cnn, tmp_path):
    bank, model = vit.bank(vit()), vit()
    rg.attach(model, bank)
    with torch.no_grad():
        model.norm.weight[3] += 0.5
    with pytest.raises(TaskError, match=r"norm\.weight"):
        rg.save_task(tmp_path / "task.safetensors", model, bank)
    bank, model = cnn.bank(cnn()), cnn()
    rg.attach(model, bank).train()(cnn.batch())  # running statistics move in train mode
    with pytest.raises(TaskError, match=r"bn1\.running_mean"):
        rg.save_task(tmp_path / "task.safetensors", model, bank, head="fc")
    assert not list(tmp_path.iterdir())


def test_training_the_very_model_that_a_bank_was_made_from_leaves_the_bank_as_it_was(vit, tmp_path):
    model = vit()
    bank = vit.bank(model)
    written = bank.save(tmp_path / "bank.zarr")
    rg.attach(model, bank)
    with torch.no_grad():
        model.head.weight += 1
    rg.save_task(tmp_path / "task.safetensors", model, bank)
    assert bank.hash == written
    rg.generate(tmp_path / "bank.zarr", tmp_path / "task.safetensors")
    with torch.no_grad():
        model.norm.weight += 1
    with pytest.raises(TaskError, match=r"norm\.weight"):
        rg.save_task(tmp_path / "drifted.safetensors", model, bank)


def test_heads_and_classes_that_do_not_fit_are_refused(own, vit, tmp_path):
    bank, model = own.bank(own()), own()
    rg.attach(model, bank)
    with pytest.raises(TaskError, match="no head 'head'"):
        rg.save_task(tmp_path / "task.safetensors", model, bank)
    with pytest.raises(TaskError, match="2 classes were named for a head of 3 outputs"):
        rg.save_task(tmp_path / "task.safetensors", model, bank, head="classifier", classes=["a", "b"])
    assert not list(tmp_path.iterdir())


def test_the_classes_of_a_head_with_a_norm_before_its_last_layer_are_that_layers(tmp_path):
    model = timm.create_model("convnext_atto", num_classes=3, depths=(2, 2, 1, 1), dims=(4, 4, 8, 8)).eval()
    bank = rg.mimic(model)
    rg.save_task(tmp_path / "task.safetensors", rg.attach(model, bank), bank)  # the head is norm and fc
    assert rg.load_task(tmp_path / "task.safetensors", model, bank).classes == ["0", "1", "2"]
    with pytest.raises(TaskError, match="a are named twice"):
        rg.save_task(tmp_path / "task.safetensors", model, bank, classes=["a", "b", "a"])


def test_a_smaller_head_brings_the_rest_of_a_larger_one_back(tmp_path):
    def build():
        torch.manual_seed(0)
        model = timm.create_model("convnext_atto", num_classes=3, depths=(2, 2, 1, 1), dims=(4, 4, 8, 8))
        return rg.attach(model.eval(), bank)

    torch.manual_seed(0)
    bank = rg.mimic(timm.create_model("convnext_atto", num_classes=3, depths=(2, 2, 1, 1), dims=(4, 4, 8, 8)))
    expected, images = {}, torch.randn(2, 3, 32, 32)
    for head in ("head", "head.fc", ""):  # the first is norm and fc
        model = build()
        for parameter in model.get_submodule(head).parameters() if head else rg.coefficients(model):
            parameter.data += torch.rand(parameter.shape)
        rg.save_task(tmp_path / f"{head}.safetensors", model, bank, head=head)
        expected[head] = model(images)
    model = build()
    for head in ("head", "head.fc", "head", "", "head"):
        rg.load_task(tmp_path / f"{head}.safetensors", model, bank)
        assert torch.equal(model(images), expected[head])


def test_a_task_whose_head_the_model_lacks_is_refused_and_the_model_unchanged(own, tmp_path):
    bank = own.bank(own())
    rg.save_task(tmp_path / "task.safetensors", adapt(own, bank), bank, head="classifier")
    model = rg.attach(own(), bank)
    model.classifier = nn.Sequential(nn.Linear(8, 3))
    before = model(own.batch())
    with pytest.raises(TaskError, match=r"classifier\.weight"):
        rg.load_task(tmp_path / "task.safetensors", model, bank)
    assert torch.equal(model(own.batch()), before)
