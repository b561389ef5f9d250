#!/usr/bin/env bash
# lm_eval 0.4.13: results of models that model_args does not name share a folder with a random name, which follows from the seed.
#
# The folder below --output_path is named after pretrained= (or peft=, model=, path=) of model_args. Where none of them is there, as
# with other kinds of models, the name is eight random letters and digits, and stands in the file as model_name. They are drawn after
# the generator was seeded: two models get one folder, and one model gets another with another --seed. So who takes folders or
# model_name for models mixes them up. A group whose tasks were shown different numbers of examples has no entry in n-shot.
#
# Seen: "two models in 1 folder, with another seed in 2, random names 2; n-shot {'five': 2, 'zero': 0}". This script fails if that
# changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check lm_eval==0.4.13 datasets==5.2.0
mkdir "$folder/tasks"
for line in "zero 0" "five 2"; do
    read -r name shots <<<"$line"
    cat >"$folder/tasks/$name.yaml" <<YAML
task: $name
dataset_path: json
dataset_kwargs: {data_files: {test: $folder/questions.jsonl}}
test_split: test
fewshot_split: test
num_fewshot: $shots
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["a", "b"]
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
YAML
done
echo '{group: both, task: [zero, five], aggregate_metric_list: [{metric: acc, weight_by_size: true}]}' >"$folder/tasks/both.yaml"
printf '{"question": "%s?"}\n' 1 2 3 4 >"$folder/questions.jsonl"
for run in "size=1 --seed 0" "size=2 --seed 0" "size=1 --seed 5"; do
    # shellcheck disable=SC2086  # the words of $run are options
    HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 "$folder/venv/bin/lm_eval" --model dummy --model_args $run --tasks both \
        --include_path "$folder/tasks" --output_path "$folder/out" >"$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
done
cat >"$folder/show.py" <<'PY'
import json
import re
import sys
from pathlib import Path

files = sorted(Path(sys.argv[1], "out").rglob("results_*.json"), key=lambda file: file.name)  # by time
documents = [json.loads(file.read_text()) for file in files]
folders = [file.parent.name for file in files]
names = {document["model_name"] for document in documents}
drawn = sum(bool(re.fullmatch("[a-z0-9]{8}", name)) for name in names & set(folders))
print(
    f"two models in {len(set(folders[:2]))} folder, with another seed in {len(set(folders))}, random names {drawn}; "
    f"n-shot {documents[0]['n-shot']}"
)
PY
seen=$("$folder/venv/bin/python" "$folder/show.py" "$folder")
echo "$seen"
[ "$seen" = "two models in 1 folder, with another seed in 2, random names 2; n-shot {'five': 2, 'zero': 0}" ]
