"""What was drawn comes back to where it was drawn, however the model lies on the tomogram."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest

from deepvesicle.errors import ModelFileError
from deepvesicle.files.drawn import read_drawn
from deepvesicle.files.imod import OBJECT_OF_STATUS, OUR_OBJECTS, frame_on, new_object, read_vesicles_model
from deepvesicle.marks import Form
from imod_bridge.coordinates import frame_of
from imod_bridge.model import Contour, ImageReference, Model, Object, read_model, write_model
from tests.drawing import GRID, TRUTH, contour, model_of, ours, run, scattered


def reference(spacing: float, start_xyz=(0, 0, 0)) -> ImageReference:
    """How 3dmod notes a loaded part that starts at a voxel of the whole image."""
    loaded = [-spacing * n for n in start_xyz]
    return ImageReference(struct.pack(">18f", *[np.nan] * 3, 0, 0, 0, *[np.nan] * 3, *[spacing] * 3, *loaded, 0, 0, 0))


@pytest.mark.parametrize(
    "model",
    [
        Model(image_size=(220, 200, 60), flags=0xFC00, image_reference=reference(20.0)),
        Model(image_size=(200, 40, 190), flags=0x1FC00, image_reference=reference(20.0, (20, 10, 5))),
        Model(image_size=(110, 100, 30), pixel_size=4.0, units=-9),
        Model(image_size=(440, 400, 120), pixel_size=10.0, units=-10),
    ],
    ids=["whole", "exchanged part", "binned by 2", "finer by 2"],
)
def test_a_click_anywhere_becomes_a_sphere_there(model, tmp_path):
    frame = frame_of(model, GRID.shape_zyx, 20.0)
    clicks = tuple(Contour(frame.to_stored(TRUTH[i : i + 1, :3] + 1.5)) for i in range(3))
    done = run(replace(model, objects=(ours("vesicles", *clicks),)))
    np.testing.assert_allclose(done.table.centres_vox, TRUTH[:3, :3])
    path = tmp_path / "m.mod"
    path.write_bytes(done.data)
    spheres = read_vesicles_model(path, GRID)
    np.testing.assert_allclose(spheres.centres_vox, TRUTH[:3, :3], atol=1e-4)
    np.testing.assert_allclose(spheres.radii_vox, TRUTH[:3, 3], rtol=1e-6)
    again = run(done.data, done.table)
    assert again.changed == () and again.table is done.table


def test_kinds_of_objects_and_points():
    line = Object("line", (contour([[1, 2, 3], [4, 5, 6]]), contour([[1, 2, 3], [4, 5, 6], [7, 8, 9.0]])), flags=8)
    outline = Object("outline", (contour(np.eye(3)), replace(contour(np.eye(3)), flags=8)))
    mixed = contour([[10, 11, 12], [20, 21, 22], [30, 31, 32]])
    mixed = replace(mixed, sizes=np.array([-1.0, 6.5, 0.0]), surface=3)
    model = model_of(
        ours("vesicles", mixed, Contour(np.zeros((0, 3)))), line, outline, scattered("other", contour([1, 1, 1]))
    )
    drawn = read_drawn("m.mod", model, GRID, names=["line", "outline"])
    (sphere,) = drawn.spheres
    assert (sphere.place, sphere.surface, sphere.radius_vox, sphere.alone) == (("vesicles", 0, 1), 3, 6.5, False)
    np.testing.assert_allclose(sphere.centre_vox, [20, 21, 22])
    assert [mark.form for mark in drawn.marks] == [Form.SCATTERED, Form.OPEN, Form.OPEN, Form.CLOSED, Form.OPEN]
    assert drawn.marks[0].places == (("vesicles", 0, 0), ("vesicles", 0, 2))
    np.testing.assert_allclose(drawn.marks[0].points_vox, [[10, 11, 12], [30, 31, 32]])
    everything = read_drawn("m.mod", model, GRID, everything=True)
    assert len(everything.marks) == 6 and everything.marks[-1].object_name == "other"


def test_a_size_shown_for_all_points_is_a_hint_and_no_sphere():
    shown = replace(ours("vesicles", contour(TRUTH[0, :3])), pdrawsize=7)
    asked = []

    def fit(centres_vox, radii_vox, known):
        asked.append(radii_vox.tolist())
        from tests.drawing import true_fit

        return true_fit(centres_vox, radii_vox, known)

    done = run(model_of(shown), fitter=fit)
    assert asked == [[7.0]] and done.object("vesicles").contours[0].sizes[0] == TRUTH[0, 3]


def test_how_the_users_objects_look_is_kept():
    item = replace(ours("vesicles", contour(TRUTH[0, :3])), colour=(1.0, 0.0, 0.5), symbol_size=9, point_limit=0)
    name = "Vésicules"
    other = Object(name, (contour(TRUTH[1, :3]), contour(TRUTH[2, :3], 4.0)), (0.25, 0.5, 0.75), flags=8)
    done = run(model_of(item, other), names=[name])
    after = done.object("vesicles")
    assert (after.colour, after.symbol_size, after.point_limit) == ((1.0, 0.0, 0.5), 9, 0)
    theirs = done.object(name)
    assert (theirs.contours, theirs.colour, theirs.flags) == ((), (0.25, 0.5, 0.75), 8)
    assert done.table.ids.tolist() == [1, 2, 3] and [c.surface for c in after.contours] == [2, 3]
    # contours that need no change stay as they are, in their order
    contours = tuple(reversed(after.contours))
    again = run(replace(done.model, objects=(replace(after, contours=contours), *done.model.objects[1:])), done.table)
    assert again.changed == ()


def test_objects_have_colours_of_their_own():
    colours = [new_object(name).colour for name in OUR_OBJECTS]
    assert len(set(colours)) == len(OUR_OBJECTS) == len(OBJECT_OF_STATUS) + 1
    assert all(new_object(name).is_scattered and new_object(name).point_limit == 1 for name in OUR_OBJECTS)


def test_numbers_that_cannot_be_are_refused(tmp_path):
    path = tmp_path / "m.mod"
    write_model(path, model_of(ours("vesicles", contour(TRUTH[0, :3], 5.0))))
    data = path.read_bytes()
    for old, word in ((5.0, "sizes"), (51.1, "coordinates")):
        path.write_bytes(data.replace(struct.pack(">f", old), struct.pack(">f", np.nan)))
        with pytest.raises(ModelFileError, match=rf"m\.mod.*{word}"):
            read_drawn(path, read_model(path), GRID)
    with pytest.raises(ModelFileError, match="MINX"):
        frame_on("m.mod", Model(flags=0xFC00, image_reference=ImageReference(bytes(72))), GRID)
