#!/usr/bin/env bash
# torchmetrics 1.9.0: the area under the ROC curve of large scores is 0.5, however well they rank.
#
# That area depends on the order of scores alone. `BinaryAUROC` takes logits, to which it applies a sigmoid, which keeps
# the order. One would expect scikit-learn's value for any scores.
# Seen: in float32 a sigmoid is 1 from 17 on, so that larger scores are all equal. Of eight scores from 18 to 25, in the
# right order without a fault, it is 0.5, as of noise; of the same scores less 10 it is 1. Largest logits, energies and
# distances, by which images of an unknown task are told from those of a known one, are often as large.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
  torchmetrics==1.9.0 torch==2.14.1 numpy==2.4.2 scikit-learn==1.9.1
"$folder/venv/bin/python" -W error - <<'PY'
import sklearn
import torch
import torchmetrics
from sklearn.metrics import roc_auc_score
from torchmetrics.classification import BinaryAUROC

scores, known = torch.arange(18.0, 26.0), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
seen = {}
for name, given in (("18 to 25", scores), ("8 to 15", scores - 10), ("0 to 1", scores / 26)):
    seen[name] = [float(BinaryAUROC()(given, known)), float(roc_auc_score(known, given))]
print(f"torchmetrics {torchmetrics.__version__}, scikit-learn {sklearn.__version__}:", seen)
assert seen == {"18 to 25": [0.5, 1], "8 to 15": [1, 1], "0 to 1": [1, 1]}, "scores rank otherwise now"
PY
