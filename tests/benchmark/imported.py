"""The imported published network on a simulated synapse: import, calibration, segmentation and scores.

Run by `bin/benchmark imported`; writes its section of `docs/benchmarks.md`. Too slow for the tests.
"""

from __future__ import annotations

import tempfile
import textwrap
from pathlib import Path

from deepvesicle.commands.calibrating import calibrated
from deepvesicle.commands.models import CALIBRATION_PHANTOMS
from deepvesicle.files.tomogram import read_tomogram
from deepvesicle.network.published import import_published
from deepvesicle.network.zoo import Network
from deepvesicle.scoring.match import match
from deepvesicle.vesicles import Vesicles
from tests.benchmark import scenes
from tests.benchmark.contest import accepted, plain_split, run
from tests.benchmark.report import SHARED_DATA, Row, table, write_section

#: What is asked of `WEIGHTS`, and how its own program does (F1 over all of its post-processing; centre error, nm).
WEIGHTS = "weights_v1.h5"
LEAST_F1, MOST_ERROR_NM = 0.97, 0.5
OWN_F1, OWN_ERROR_NM = 0.617, 0.89
HOW = """Made by `bin/benchmark imported` on syn_a with the published weights `{weights}`, as
`deepvesicle models import`
brings them in: their scores are calibrated on {count} phantoms. Asked were an F1 of at least {f1} and a median
centre error of at most {error} nm: {verdict}. The network's own program has {own_f1} and {own_error} nm. The
threshold and the number of phantoms were chosen on other phantoms of this project. *Plain split*: spheres at
the maxima of the distance transform of the mask over {split:g}, without fit or judgement. Vesicles that the
border cuts count neither for nor against."""
#: Probability at which its mask is split without fit.
SPLIT_AT = 0.8


def imported(path: Path, folder: Path) -> Network:
    """As `deepvesicle models import` does it."""
    network = import_published(path, folder)
    extra: dict[str, object] = {}
    card = calibrated(network, CALIBRATION_PHANTOMS, extra)
    return import_published(path, folder, extra=extra, calibration=card)


def main() -> None:
    """Measure, print and write."""
    weights, synapse = SHARED_DATA / "cryovesnet_weights" / WEIGHTS, SHARED_DATA / "independent"
    if not weights.exists() or not synapse.exists():
        print("the published weights or syn_a are not here: nothing was measured")
        return
    tomogram = read_tomogram(synapse / "syn_a.mrc.gz")
    truth = scenes.truth_of(synapse / "syn_a_truth.csv", tomogram.grid)
    counted = scenes.is_whole(truth)

    def figures(found: Vesicles) -> tuple[str, float, float]:
        score = match(found, truth, counted=counted)
        return f"{score.tp} / {score.fn} / {score.fp}", score.f1, score.median_centre_error_nm

    with tempfile.TemporaryDirectory() as folder:
        bare = run(tomogram, import_published(weights, Path(folder) / "bare"))
        fitted = run(tomogram, imported(weights, Path(folder) / "calibrated"))
    split = figures(plain_split(bare.probability, tomogram.grid, SPLIT_AT))
    rows = []
    for name, result in (("scores calibrated at the import", fitted), ("scores not calibrated", bare)):
        counts, f1, error = figures(accepted(result))
        rows.append(Row(name, "found / missed / wrong", counts, split[0]))
        rows.append(Row(name, "F1", f"{f1:.3f}", f"{split[1]:.3f}"))
        rows.append(Row(name, "median centre error, nm", f"{error:.2f}", f"{split[2]:.2f}"))
    for row in rows:
        print(f"{row.case}: {row.figure}: {row.ours}   (plain split {row.plain})")
    _, f1, error = figures(accepted(fitted))
    reached = f1 >= LEAST_F1 and error <= MOST_ERROR_NM
    words = HOW.format(
        weights=WEIGHTS,
        count=CALIBRATION_PHANTOMS,
        f1=LEAST_F1,
        error=MOST_ERROR_NM,
        verdict="reached" if reached else "MISSED",
        own_f1=OWN_F1,
        own_error=OWN_ERROR_NM,
        split=SPLIT_AT,
    )
    lines = ["## The published network, imported", "", *textwrap.wrap(words, 118), "", *table(rows, "plain split")]
    write_section("imported", lines)


if __name__ == "__main__":
    main()
