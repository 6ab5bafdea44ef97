"""Which spheres are doubtful or rejected, and why."""

from __future__ import annotations

import numpy as np
import pytest

from deepvesicle.fitting.likeness import chance, robust_distances
from deepvesicle.fitting.outliers import judge, shared_volume
from deepvesicle.grid import Grid
from deepvesicle.settings import OutlierSettings, ProposalSettings
from deepvesicle.vesicles import Status, Vesicles

GRID = Grid((100, 300, 410), 2.0)
OUTLIERS, PROPOSAL = OutlierSettings(), ProposalSettings()


def population(rng: np.random.Generator, count: int, *, score: float = 0.8, **changes) -> Vesicles:
    """Spheres on a lattice, far from one another, with features such as a fit gives; `changes` replace columns."""
    places = np.stack(np.meshgrid([30.0, 70.0], np.arange(30, 280, 35), np.arange(30, 390, 35), indexing="ij"), -1)
    places = places.reshape(-1, 3)[:count]
    radii = rng.normal(10.5, 1.2, count)
    features = {
        "membrane_density": rng.normal(-1.2, 0.15, count),
        "lumen_density": rng.normal(0.2, 0.1, count),
        "contrast": rng.normal(0.8, 0.12, count),
        "profile_correlation": np.tanh(rng.normal(1.8, 0.3, count)),
        "fit_residual_nm": np.exp(rng.normal(np.log(0.5), 0.2, count)),
        "membrane_z": rng.normal(25, 3, count),
        "fit_failed": np.zeros(count),
    }
    features.update({k: v for k, v in changes.items() if k in features})
    columns = {
        "centres_vox": places,
        "radii_vox": radii,
        "thickness_vox": rng.normal(2.0, 0.05, count),
        "sigma_radii_vox": np.full(count, 0.05),
        "scores": np.full(count, score),
        "status": (Status.REFINED,) * count,
        **{k: v for k, v in changes.items() if k not in features},
    }
    centres, outer = columns.pop("centres_vox"), columns.pop("radii_vox")
    return Vesicles.from_spheres(GRID, centres, outer, features=features, **columns)


def put(values, row, value):
    changed = np.array(values, dtype=float)
    changed[row] = value
    return changed


def with_feature(table: Vesicles, row: int, **values: float) -> Vesicles:
    return table.with_features(**{k: put(table.features[k], row, v) for k, v in values.items()})


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 12, 20, 150])
def test_usual_vesicles_pass_whatever_their_number(count, rng):
    judged = judge(population(rng, count), OUTLIERS, PROPOSAL)
    assert not judged.has_status(Status.REJECTED).any()
    assert judged.has_status(Status.DOUBTFUL).mean() <= 0.03 if count else len(judged) == 0
    assert np.all((judged.features["likeness_p"] > 0) & (judged.features["likeness_p"] <= 1))


def test_a_table_without_features_or_fits(rng):
    bare = Vesicles.from_spheres(GRID, [[30, 40, 50], [30, 80, 90]], [10.0, 11.0])
    assert judge(bare, OUTLIERS, PROPOSAL).status == (Status.PROPOSED,) * 2


def test_sizes_beyond_two_sigma_of_the_limits_are_rejected(rng):
    radii = np.full(6, 10.0)
    radii[:4] = [5.0, 5.92, 60.0, 50.05]  # 10 nm; 11.84 nm with sigma 0.1 nm; 120 nm; 100.1 nm
    centres = np.array([[50, 60, 60 + 60 * i] for i in range(6)], float)
    centres[2] = [50, 200, 200]
    centres[3] = [50, 200, 340]
    table = population(rng, 6, radii_vox=radii, centres_vox=centres)
    judged = judge(table, OUTLIERS, ProposalSettings(min_inside_fraction=0.1))
    assert [s is Status.REJECTED for s in judged.status] == [True, False, True, False, False, False]
    assert judged.reasons[0] == "radius 10.0 nm is below 12 nm"
    assert judged.reasons[2] == "radius 120.0 nm is above 100 nm"
    np.testing.assert_array_equal(judged.radii_vox, table.radii_vox)


def test_spheres_at_the_border(rng):
    table = population(rng, 12)
    centres = table.centres_vox.copy()
    centres[0], centres[1], centres[2] = [30, -2.0, 50], [30, 0.1, 90], [30, 4.0, 150]
    judged = judge(table.replace(centres_vox=centres), OUTLIERS, ProposalSettings(min_inside_fraction=0.6))
    assert judged.status[:3] == (Status.REJECTED, Status.REJECTED, Status.REFINED)
    assert "centre lies outside" in judged.reasons[0] and "% of it lies in the tomogram" in judged.reasons[1]


def test_the_worse_of_two_fits_to_one_vesicle_goes(rng):
    table = population(rng, 12)
    centres, scores = table.centres_vox.copy(), table.scores.copy()
    centres[1] = centres[0] + [0, 2, 2]
    centres[5] = centres[4] + [1, 0, 0]
    scores[[0, 1]] = 0.6, 0.95
    table = table.replace(centres_vox=centres, scores=scores)
    table = with_feature(table, 4, membrane_z=30.0)
    table = with_feature(table, 5, membrane_z=12.0)
    judged = judge(table, OUTLIERS, PROPOSAL)
    assert judged.status[0] is Status.REJECTED and judged.reasons[0] == "duplicate of vesicle 2"
    assert judged.status[1] is Status.REFINED and judged.status[4] is Status.REFINED
    assert judged.reasons[5] == "duplicate of vesicle 5"


def test_of_three_fits_to_one_vesicle_the_best_stays(rng):
    table = population(rng, 12)
    centres = table.centres_vox.copy()
    centres[1], centres[2] = centres[0] + [0, 3, 0], centres[0] + [0, 0, 3]
    scores = put(table.scores, 2, 0.99)
    judged = judge(table.replace(centres_vox=centres, scores=scores), OUTLIERS, PROPOSAL)
    assert [s is Status.REJECTED for s in judged.status[:3]] == [True, True, False]
    assert judged.reasons[0] == judged.reasons[1] == "duplicate of vesicle 3"


def test_a_vesicle_in_an_endosome_is_no_duplicate(rng):
    table = population(rng, 12)
    centres, radii = table.centres_vox.copy(), table.radii_vox.copy()
    centres[0], radii[0] = [50, 220, 300], 28.0
    centres[1], radii[1] = [50, 226, 304], 9.0
    judged = judge(table.replace(centres_vox=centres, radii_vox=radii), OUTLIERS, PROPOSAL)
    assert judged.status[1] is Status.REFINED and judged.status[0] is not Status.REJECTED
    assert "overlaps" not in judged.reasons[0] + judged.reasons[1]
    # A small fit that found no membrane is a piece of the large one.
    failed = with_feature(table.replace(centres_vox=centres, radii_vox=radii), 1, fit_failed=1.0)
    assert judge(failed, OUTLIERS, PROPOSAL).reasons[1].startswith("duplicate of vesicle 1")


def test_deep_overlap_is_doubtful_with_its_depth(rng):
    table = population(rng, 12)
    centres, radii = table.centres_vox.copy(), table.radii_vox.copy()
    radii[[0, 1, 4, 5]] = 10.0
    centres[1] = centres[0] + [0, 0, 17.0]  # 3 voxels, 6 nm deep
    centres[5] = centres[4] + [0, 0, 18.5]  # 3 nm: membranes can touch so
    judged = judge(table.replace(centres_vox=centres, radii_vox=radii), OUTLIERS, PROPOSAL)
    assert judged.status[0] is judged.status[1] is Status.DOUBTFUL
    assert judged.reasons[0] == "overlaps vesicle 2 by 6.0 nm"
    assert judged.status[4] is judged.status[5] is Status.REFINED


def test_a_failed_fit_casts_no_doubt_on_its_neighbour(rng):
    table = population(rng, 12)
    centres = table.centres_vox.copy()
    centres[1] = centres[0] + [0, 0, 15.0]
    judged = judge(with_feature(table.replace(centres_vox=centres), 1, fit_failed=1.0), OUTLIERS, PROPOSAL)
    assert judged.status[0] is Status.REFINED and judged.status[1] is Status.DOUBTFUL


@pytest.mark.parametrize(
    ("score", "expected"),
    [(0.2, Status.REJECTED), (0.7, Status.DOUBTFUL), (0.99, Status.DOUBTFUL), (np.nan, Status.DOUBTFUL)],
)
def test_no_membrane(score, expected, rng):
    table = population(rng, 12)
    table = with_feature(table, 3, membrane_z=1.5, contrast=-0.05)
    judged = judge(table.replace(scores=put(table.scores, 3, score)), OUTLIERS, PROPOSAL)
    assert judged.status[3] is expected and "membrane" in judged.reasons[3]


@pytest.mark.parametrize(
    ("score", "expected"), [(0.6, Status.REJECTED), (0.97, Status.DOUBTFUL), (np.nan, Status.DOUBTFUL)]
)
def test_spheres_unlike_the_others(score, expected, rng):
    table = population(rng, 80)
    table = with_feature(table, 7, membrane_density=-0.1, contrast=0.05, profile_correlation=0.1, fit_residual_nm=4.0)
    judged = judge(table.replace(scores=put(table.scores, 7, score)), OUTLIERS, PROPOSAL)
    assert judged.status[7] is expected and "unlike the others" in judged.reasons[7]
    assert judged.features["likeness_p"][7] < 1e-6
    assert judged.features["membrane_density"][7] == -0.1  # a rejected row keeps everything
    assert (judged.has_status(Status.DOUBTFUL, Status.REJECTED)).sum() <= 3


def test_large_vesicles_among_small_ones_are_usual(rng):
    table = population(rng, 80, score=0.6)
    radii = put(table.radii_vox, [3, 77], 30.0)  # 60 nm among 21 nm
    centres = table.centres_vox.copy()
    centres[3], centres[77] = [50, 250, 50], [50, 250, 360]
    judged = judge(table.replace(radii_vox=radii, centres_vox=centres), OUTLIERS, PROPOSAL)
    assert judged.status[3] is not Status.REJECTED and judged.status[77] is not Status.REJECTED


def test_better_than_the_others_is_not_unusual(rng):
    table = population(rng, 80)
    table = with_feature(table, 5, profile_correlation=0.9999, fit_residual_nm=0.01)
    assert judge(table, OUTLIERS, PROPOSAL).status[5] is Status.REFINED


def test_manual_rows_are_never_changed(rng):
    table = population(rng, 12)
    centres = table.centres_vox.copy()
    centres[0], centres[1] = [30, -5, 50], [30, 100, 100]
    centres[2] = [30, 101, 101]
    table = table.replace(centres_vox=centres, status=(Status.MANUAL,) * 2 + (Status.REFINED,) * 10)
    table = with_feature(table, 1, membrane_z=0.0, contrast=-1.0)
    judged = judge(table.replace(scores=put(table.scores, [0, 1], 0.0)), OUTLIERS, PROPOSAL)
    assert judged.status[:2] == (Status.MANUAL, Status.MANUAL) and judged.reasons[:2] == ("", "")
    assert judged.reasons[2] == "duplicate of vesicle 2"


def test_judging_twice_says_it_once(rng):
    table = population(rng, 12)
    centres = table.centres_vox.copy()
    centres[1] = centres[0] + [0, 0, 16.0]
    once = judge(with_feature(table.replace(centres_vox=centres), 6, membrane_z=1.0), OUTLIERS, PROPOSAL)
    twice = judge(once, OUTLIERS, PROPOSAL)
    assert once.reasons == twice.reasons and once.status == twice.status


def test_robust_distances_see_through_a_fifth_of_outliers(rng):
    values = rng.multivariate_normal([0, 0, 0], [[1, 0.8, 0], [0.8, 1, 0], [0, 0, 1]], 300)
    values[:60] += [0, 0, 12]
    distances = robust_distances(values, np.full(3, 1e-9))
    assert distances[:60].min() > np.quantile(distances[60:], 0.99)
    # Along the correlation is nearer than across it.
    probe = np.concatenate([values[60:], [[2.5, 2.5, 0], [2.5, -2.5, 0]]])
    along, across = robust_distances(probe, np.full(3, 1e-9))[-2:]
    assert across > 2 * along


def test_shared_volume(rng):
    assert shared_volume(np.array([5.0]), np.array([2.0]), np.array([3.0]))[0] == 0
    assert shared_volume(np.array([0.5]), np.array([4.0]), np.array([2.0]))[0] == pytest.approx(32 / 3 * np.pi)
    points = rng.uniform(-6, 6, (400_000, 3))
    both = (np.linalg.norm(points, axis=1) < 4) & (np.linalg.norm(points - [0, 3, 0], axis=1) < 2.5)
    assert shared_volume(np.array([3.0]), np.array([4.0]), np.array([2.5]))[0] == pytest.approx(
        both.mean() * 12**3, rel=0.03
    )


def test_a_granule_is_rejected_and_a_dense_core_stays(rng):
    table = population(rng, 30, score=0.97)
    table = with_feature(table, 4, contrast=-1.5, fit_failed=1.0)  # solid, and no membrane to hold on to
    table = with_feature(table, 9, contrast=-1.5)  # as dense inside, but with a fitted membrane
    judged = judge(table, OUTLIERS, PROPOSAL)
    assert judged.status[4] is Status.REJECTED and "solid" in judged.reasons[4]
    assert judged.status[9] is not Status.REJECTED


def test_centres_of_vesicles_cut_in_half_may_lie_outside_by_their_error(rng):
    table = population(rng, 12)
    centres, sigma = table.centres_vox.copy(), np.full(12, 0.3)
    centres[0], centres[1], centres[2] = [30, -1.4, 60], [30, -2.5, 120], [30, 150, 410.8]
    table = table.replace(centres_vox=centres, sigma_centres_vox=sigma, radii_vox=np.full(12, 10.5))
    judged = judge(table, OUTLIERS, PROPOSAL)
    assert [s is Status.REJECTED for s in judged.status[:3]] == [False, True, True]
    assert "outside" in judged.reasons[1]


def test_the_size_of_a_start_sphere_is_not_measured(rng):
    table = population(rng, 12)
    radii = put(table.radii_vox, [0, 1], 5.5)  # 11 nm
    judged = judge(with_feature(table.replace(radii_vox=radii), 0, fit_failed=1.0), OUTLIERS, PROPOSAL)
    assert judged.status[0] is Status.DOUBTFUL and judged.status[1] is Status.REJECTED


def correlated(rng, count, columns):
    """Normal values, every second column correlated with the one before."""
    values = rng.normal(size=(count, columns))
    values[:, 1::2] = 0.6 * values[:, : columns - 1 : 2][:, : values[:, 1::2].shape[1]] + 0.8 * values[:, 1::2]
    return values


@pytest.mark.parametrize("count", [8, 12, 20, 60, 300])
@pytest.mark.parametrize("columns", [4, 8])
def test_the_p_of_unlikeness_is_honest(count, columns, rng):
    """Of vesicles that are all alike, no more than the nominal share comes out with a small p."""
    p = np.concatenate([chance(correlated(rng, count, columns), np.full(columns, 1e-9)) for _ in range(6000 // count)])
    assert (p < 0.01).mean() <= 0.02 and (p < 0.001).mean() <= 0.004
    assert not np.any(p < OUTLIERS.rejected_p)
    if count >= 60:
        assert (p < 0.05).mean() == pytest.approx(0.045, abs=0.02)


def test_a_known_spread_gives_the_chi_square_p(rng):
    """Where the tolerances are the spread, p has the degrees of freedom of the known values in the row."""
    values = rng.normal(size=(200, 6)) * 0.5
    values[1, 3:] = np.nan
    values[0], values[1, :3] = 3.0, 3.0
    p = chance(values, np.ones(6))
    assert 1e-10 < p[0] < 1e-6 and p[0] < p[1] < 1e-3


@pytest.mark.parametrize("count", range(1, 8))
def test_too_few_to_tell_which_is_unlike_the_others(count, rng):
    table = with_feature(population(rng, count), 0, membrane_density=3.0, fit_residual_nm=50.0, lumen_density=-9.0)
    judged = judge(table, OUTLIERS, PROPOSAL)
    assert np.all(judged.features["likeness_p"] == 1) and judged.status == (Status.REFINED,) * count


def test_a_dense_lumen_and_a_low_score_are_unlike_the_others(rng):
    table = population(rng, 60)
    one = judge(with_feature(table, 4, lumen_density=-3.0), OUTLIERS, PROPOSAL)
    assert one.features["likeness_p"][4] < 0.01 and "lumen density" in one.reasons[4]
    two = judge(table.replace(scores=put(rng.normal(0.8, 0.03, 60), 4, 0.02)), OUTLIERS, PROPOSAL)
    assert two.features["likeness_p"][4] < np.delete(two.features["likeness_p"], 4).min()
