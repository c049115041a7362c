#!/usr/bin/env bash
# torchmetrics 1.9.0: macro accuracy counts classes that have no images, once a single image is taken for one of them.
#
# Macro accuracy is the mean over the classes of the share that is right, and the default of `MulticlassAccuracy`. A class
# without images has no such share. One would expect that it is left out, as in scikit-learn's balanced accuracy and in
# this very class with `top_k=2`.
# Seen: such a class counts as 0 as soon as it is predicted. Of 8 images of two classes 6 are right and 2 are taken for
# classes of other tasks: 0.375, where the mean over the classes is 0.75. `top_k=2` gives 0.75, with no second answer right.
# In a stream of tasks under one head, the accuracy of each task falls with the number of other classes that are predicted
# for its images, be it once.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
  torchmetrics==1.9.0 torch==2.14.1 numpy==2.4.2 scikit-learn==1.9.1
"$folder/venv/bin/python" - <<'PY'
import warnings

import sklearn
import torch
import torchmetrics
from sklearn.metrics import balanced_accuracy_score
from torchmetrics.classification import MulticlassAccuracy

labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
first, second = torch.tensor([0, 0, 0, 2, 1, 1, 1, 3]), torch.tensor([2, 2, 2, 3, 3, 3, 3, 2])
logits = torch.zeros(8, 4)
logits[range(8), first], logits[range(8), second] = 2.0, 1.0
warnings.simplefilter("ignore")  # scikit-learn says that there are predictions of other classes
theirs = float(balanced_accuracy_score(labels, first))
top = [float(MulticlassAccuracy(num_classes=4, top_k=k)(logits, labels)) for k in (1, 2)]
print(f"torchmetrics {torchmetrics.__version__}: top 1 and top 2 {top}; scikit-learn {sklearn.__version__}: {theirs}")
assert top == [0.375, 0.75] and theirs == 0.75, "classes without images count otherwise now"
PY
