# %% [markdown]
# # Tutorial: from a model and a folder of images to a task file and a prediction
#
# This page is a program. It ran while the site was built; what it printed stands under each step. Get it as
# [tutorial.py](tutorial.py): `python tutorial.py` runs it, and editors that know `# %%` cells open it as a notebook.
#
# It needs no network. A real run begins with `timm.create_model(..., pretrained=True)` and with your own folder.

# %% [markdown]
# ## A backbone
#
# Here a small vision transformer is trained on scikit-learn's handwritten digits. It stands for your
# pretrained network.

# %%
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

import recast_gen as rg

torch.manual_seed(0)
SETTINGS = {"img_size": 8, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 4}
model = timm.create_model("vit_tiny_patch16_224", num_classes=10, **SETTINGS)
pixels, labels = load_digits(return_X_y=True)
pixels = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8).expand(-1, 3, -1, -1) / 8 - 1
labels = torch.tensor(labels)


def train(images, targets, groups, epochs):
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in groups], total_steps=epochs * len(images.split(64))
    )
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            cross_entropy(model(images[chosen]), targets[chosen]).backward()
            optimizer.step()
            schedule.step()


train(pixels[::2], labels[::2], [{"params": list(model.parameters()), "lr": 1e-2}], epochs=8)
model.eval()
print(f"{(model(pixels[1::2]).argmax(1) == labels[1::2]).float().mean():.1%} of the other images are right")

# %% [markdown]
# ## A folder of images
#
# The new task: the digits turned by 90 degrees, as PNG files in a folder with a subfolder a class.

# %%
work = Path(tempfile.mkdtemp())
for index, (image, label) in enumerate(zip(pixels, labels)):
    folder = work / "turned" / ("train", "test")[index % 2] / f"digit_{label}"
    folder.mkdir(parents=True, exist_ok=True)
    turned = ((image + 1) * 127.5).byte().rot90(1, (1, 2)).permute(1, 2, 0)
    Image.fromarray(turned.numpy()).save(folder / f"{index:04}.png")
print(*sorted(path.name for path in (work / "turned" / "train").iterdir()))

# %% [markdown]
# ## A bank
#
# `rg.families` says what can be shared: tensors of one shape and one depth-free name. `rg.mimic` re-expresses them as
# templates and coefficients. With as many templates as layers in a group, which is the default, this is exact.

# %%
bank = rg.mimic(model, families=["blocks.*.attn.qkv", "blocks.*.attn.proj"], groups=2, timm_kwargs=SETTINGS)
for (family, group), found in bank.certificate.items():
    print(f"{family:28} group {group}: relative error {found['relative_error']:.1e}")
bank.save(work / "bank.zarr")

# %% [markdown]
# ## Training the task
#
# Attached, the model computes the same as before; now its weights are generated from the bank. `rg.freeze` leaves
# coefficients and the head trainable, `rg.rates` gives every layer's coefficients a fitting learning rate.

# %%
rg.attach(model, bank, resolution=4)
model.reset_classifier(10)
rg.freeze(model, head="head")
trainable = sum(parameter.numel() for parameter in rg.coefficients(model))
print(f"{trainable} coefficients and {sum(p.numel() for p in model.head.parameters())} of the head are trainable")

files = sorted((work / "turned" / "train").glob("*/*.png"))
images = np.stack([np.asarray(Image.open(file), dtype=np.float32) for file in files]).transpose(0, 3, 1, 2)
classes = sorted({file.parent.name for file in files})
targets = torch.tensor([classes.index(file.parent.name) for file in files])
head = {"params": list(model.head.parameters()), "lr": 1e-1}
train(torch.from_numpy(images / 127.5 - 1), targets, [*rg.rates(model), head], epochs=8)
model.eval()

# %% [markdown]
# ## The task file
#
# It holds coefficients, the head, and the hash of the bank that it belongs to. It cannot run code.

# %%
(work / "tasks").mkdir()
path = work / "tasks" / "turned.safetensors"
rg.save_task(path, model, bank, head="head", classes=classes)
print(
    f"{path.stat().st_size} bytes, head included; the backbone has {sum(p.nbytes for p in model.state_dict().values())}"
)

# %% [markdown]
# ## A prediction
#
# Bank and task file are all that it takes. They know the network, how it wants its images, and the names of classes.

# %%
found = rg.evaluate(work / "bank.zarr", path, work / "turned")
print(f"{found.accuracy:.1%} of the {found.images} {found.part} images are right")
(one,) = rg.predict(work / "bank.zarr", path, [work / "turned" / "test" / "digit_3" / "0003.png"])
print(f"{one.label} with probability {one.probabilities[one.label]:.2f}")

# %% [markdown]
# A library is a folder of task files on one live model. Switching is in place, and the original comes back bit for bit.

# %%
library = rg.TaskLibrary(work / "tasks", model, rg.load_bank(work / "bank.zarr"))
library.use("turned")
print(library.current, "of", *library.names)

# %% [markdown]
# ## On the device
#
# Without torch, numpy alone generates the task's complete weights from the two files. As tensors they load into a plain
# timm model.

# %%
weights = rg.generate(work / "bank.zarr", path)
plain = timm.create_model("vit_tiny_patch16_224", num_classes=10, **SETTINGS).eval()
plain.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()}, strict=True)
batch = torch.from_numpy(images[:64] / 127.5 - 1)
print(f"largest difference of the logits: {(plain(batch) - library(batch)).abs().max():.1e}")

# %% [markdown]
# Next: [concepts](concepts.md) explains the words, [recipes](recipes.md) run all of this as a pipeline with validation,
# a comparison with the linear probe and a report, and [device](device.md) says what the other machine needs.
