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
# A familiarity is steep where photos are alike: rounding in single precision shows in it.
python - "$old/then.csv" "$old/now.csv" << 'END'
import csv, math, sys
then, now = (list(csv.DictReader(open(name, encoding="utf-8"))) for name in sys.argv[1:])
numbers = ("confidence", "p_dog", "familiarity")
for one, other in zip(then, now, strict=True):
    assert all(one[name] == other[name] for name in one if name not in numbers), (one, other)
    for name in numbers:
        pair = [float(row[name] or "nan") for row in (one, other)]
        assert math.isclose(*pair, rel_tol=0, abs_tol=1e-4) or all(map(math.isnan, pair)), pair
print(f"{len(now)} answers, all alike")
END
