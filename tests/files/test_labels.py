"""Labels drawn straight into a file."""

from __future__ import annotations

import mrcfile
import numpy as np
import pytest

from deepvesicle.files import labels
from deepvesicle.files.labels import write_drawn_labels
from deepvesicle.files.tomogram import read_labels, write_labels
from deepvesicle.fitting.rasterize import draw_slab, rasterize
from deepvesicle.grid import Grid, Labels
from deepvesicle.vesicles import Status, Vesicles


def test_labels_drawn_into_the_file_are_those_written_whole(tmp_path, monkeypatch):
    grid = Grid((21, 34, 45), 1.7, (5.0, -2.0, 9.0))
    whole = np.zeros(grid.shape_zyx, np.uint16)
    whole[3:9, 4:30, 7:20], whole[12:14, 1:3, 40:45] = 7, 300

    monkeypatch.setattr(labels, "_SLAB_VOXELS", 5 * 34 * 45)  # sections 0 to 4, 5 to 9 and so on

    def draw(slab, out):
        start = round(float(slab.origin_nm[0] - grid.origin_nm[0]) / grid.voxel_nm)
        assert out.dtype == np.uint16 and slab.shape_zyx == out.shape
        out[:] = whole[start : start + len(out)]
        for label in np.unique(out[out > 0]):
            zs, ys, xs = np.nonzero(out == label)
            box = tuple(slice(int(v.min()), int(v.max()) + 1) for v in (zs, ys, xs))
            yield int(label), len(zs), box
            yield 12, 0, np.s_[0:1, 20:33, 3:4]

    write_labels(tmp_path / "whole.mrc", Labels(whole, grid))
    write_drawn_labels(tmp_path / "drawn.mrc", grid, draw)
    first, second = ((tmp_path / f"{name}.mrc").read_bytes() for name in ("whole", "drawn"))
    assert first[1024:] == second[1024:]
    with mrcfile.open(tmp_path / "drawn.mrc") as drawn, mrcfile.open(tmp_path / "whole.mrc") as written:
        for name in ("dmin", "dmax", "dmean", "rms"):
            assert drawn.header[name] == pytest.approx(written.header[name], rel=1e-5)
    assert mrcfile.validate(str(tmp_path / "drawn.mrc"))
    nothing = tmp_path / "nothing.mrc"
    write_drawn_labels(nothing, grid, lambda slab, out: [])
    np.testing.assert_array_equal(read_labels(nothing).data, np.zeros(grid.shape_zyx))
    full = Grid((2, 3, 4), 1.0)

    def draw_all(slab, out):
        out[:] = 5
        return [(5, 24, np.s_[0:2, 0:3, 0:4])]

    write_drawn_labels(tmp_path / "full.mrc", full, draw_all)
    with mrcfile.open(tmp_path / "full.mrc") as mrc:
        assert (mrc.header.dmin, mrc.header.dmax, mrc.header.dmean, mrc.header.rms) == (5, 5, 5, 0)


@pytest.mark.parametrize("gap", [0, 1, 3])
def test_spheres_drawn_slab_by_slab_are_those_drawn_whole(tmp_path, monkeypatch, rng, gap):
    grid = Grid((31, 44, 57), 1.7, (5.0, -2.0, 9.0))
    count = 30
    vesicles = Vesicles.from_spheres(
        grid, rng.uniform(0, grid.shape_zyx, (count, 3)), rng.uniform(3, 8, count), status=[Status.REFINED] * count
    )
    monkeypatch.setattr(labels, "_SLAB_VOXELS", 4 * 44 * 57)
    path = tmp_path / "drawn.mrc"
    write_drawn_labels(path, grid, lambda part, out: draw_slab(vesicles, part, out, gap_vox=gap))
    whole = rasterize(vesicles, gap_vox=gap)
    np.testing.assert_array_equal(read_labels(path).data, whole.data)
    with mrcfile.open(path) as drawn:
        assert drawn.header.dmean == pytest.approx(whole.data.mean(), rel=1e-5)
