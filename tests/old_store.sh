#!/usr/bin/env bash
# A model that an earlier commit registered answers alike today: train with that commit, ask with
# this one. Give a folder that does not exist yet, and the commit where it is another.
set -euo pipefail
old=${1:?give a folder that does not exist yet} commit=${2:-2423742}
root=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
export PATH="$root/.venv/bin:$PATH"
unset MLFLOW_TRACKING_URI MLFLOW_RUN_ID

git clone --quiet "$root" "$old"
git -C "$old" checkout --quiet "$commit"
old=$(realpath "$old")
(cd "$old" && PYTHONPATH=$old mlflow run . --env-manager=local -P dataset=sample -P epochs=2)

photos=("$old"/data/sample/validation/{cat,dog}/*.jpg)
ask=(python scripts/predict.py --model-uri models:/catdog/1 --format csv)
(cd "$old" && PYTHONPATH=$old "${ask[@]}" "${photos[@]}") > "$old/then.csv"
(cd "$root" && MLFLOW_TRACKING_URI=sqlite:///$old/mlflow.db "${ask[@]}" "${photos[@]}") > "$old/now.csv"
diff "$old/then.csv" "$old/now.csv"
echo "$(wc -l < "$old/now.csv") lines, all alike"
