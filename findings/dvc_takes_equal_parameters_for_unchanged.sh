#!/usr/bin/env bash
# dvc 3.67.1: a parameter that changes from 1 to 1.0 or true, or a mapping in another order, is no change.
#
# `dvc repro` runs a stage anew when one of its parameters changes. One would expect that any other value counts. In
# scikit-learn, `max_features: 1` is one feature and `1.0` is all of them; of a mapping of tasks the order is the order in
# which they are learnt.
# Seen: DVC compares with Python's `==`, to which 1, 1.0 and true are one value and mappings have no order. It says
# "Stage 'train' didn't change, skipping", and the outputs stay those of the former value. A list in another order counts.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check dvc==3.67.1
mkdir "$folder/project"
cd "$folder/project"
export DVC_NO_ANALYTICS=1
dvc() { "$folder/venv/bin/python" -m dvc "$@"; }
dvc init -q --no-scm
cat > dvc.yaml <<'YAML'
stages:
  train:
    cmd: cp params.yaml used.yaml
    params: [max_features, tasks, classes]
    outs: [used.yaml]
YAML
was='{max_features: 1, tasks: {flowers: 5, birds: 9}, classes: [a, b]}'
seen=""
for now in "$was" "${was/: 1/: 1.0}" "${was/: 1/: true}" "${was/flowers: 5, birds: 9/birds: 9, flowers: 5}" "${was/a, b/b, a}"; do
  echo "$was" > params.yaml
  dvc repro -q
  echo "$now" > params.yaml
  dvc repro -q
  if cmp -s params.yaml used.yaml; then seen+="ran "; else seen+="skipped "; fi
done
echo "dvc $(dvc --version): as it was, 1.0, true, mapping turned, list turned: $seen"
[ "$seen" = "ran skipped skipped skipped ran " ] || { echo "dvc compares otherwise now"; exit 1; }
