"""Actions are found by name, broken packages are named, and changes of a model are seen as a user would see them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from imod_bridge.actions import available_actions, changed_objects, load_action
from imod_bridge.errors import ActionError
from imod_bridge.model import SCATTERED_OBJECT, Contour, Model, Object, decode_model, encode_model


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a package with one module and the actions it announces on the path."""

    def make(package: str, entries: str, code: str = "") -> None:
        folder = tmp_path / package
        info = folder / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[imod_bridge.actions]\n{entries}\n")
        (folder / f"{package}.py").write_text(code)
        monkeypatch.syspath_prepend(folder)

    return make


def test_an_installed_action_is_listed_and_loaded(install) -> None:
    install("acme_beads", "acme-centre = acme_beads:centre", "def centre(request):\n    return request\n")
    assert available_actions()["acme-centre"] == "acme_beads (acme_beads:centre)"
    assert load_action("acme-centre")("x") == "x"


def test_an_unknown_name_lists_what_there_is(install) -> None:
    install("acme_two", "acme-a = acme_two:a\nacme-b = acme_two:b")
    with pytest.raises(ActionError, match=r"no action 'acme-c'; installed are: .*acme-a, acme-b"):
        load_action("acme-c")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise RuntimeError('no licence\\nfound')", "RuntimeError: no licence found"),
        ("import no_such_module", "ModuleNotFoundError"),
        ("", "AttributeError"),
        ("act = 3", "is no function, but int"),
    ],
)
def test_a_broken_package_is_named(install, code: str, message: str) -> None:
    name = f"acme_broken{abs(hash(code)) % 10_000}"
    install(name, f"acme-broken = {name}:act", code)
    with pytest.raises(ActionError, match=rf"'acme-broken' of {name} \({name}:act\) .*{message}") as caught:
        load_action("acme-broken")
    assert "\n" not in str(caught.value)
    assert "acme-broken" in available_actions(), "listing loads nothing"


def test_two_packages_with_the_same_name_are_told_apart_by_the_user(install) -> None:
    install("acme_x", "acme-same = acme_x:f")
    install("acme_y", "acme-same = acme_y:f")
    with pytest.raises(ActionError, match="acme_y .* and acme_x|acme_x .* and acme_y"):
        load_action("acme-same")


def contour(*points, sizes=None, **others) -> Contour:
    return Contour(np.array(points, float).reshape(-1, 3), None if sizes is None else np.array(sizes, float), **others)


A = Object("a", (contour((1.1, 2, 3), (4, 5, 6), sizes=[7, -1]), contour((0, 0, 0))), flags=SCATTERED_OBJECT)
B = Object("b", (contour((9, 9, 9)),))
MODEL = Model((A, B))


def with_contour(item: Object, new: Contour) -> Object:
    return dataclasses.replace(item, contours=(new, *item.contours[1:]))


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ((A, B), ()),
        ((B, A), ()),
        ((A,), ("b",)),
        ((A, B, Object("c")), ()),
        ((A, B, Object("c", (contour((1, 1, 1)),))), ("c",)),
        ((dataclasses.replace(A, colour=(1, 0, 0), line_width=4, symbol=3), B), ()),
        ((dataclasses.replace(A, flags=0), B), ("a",)),
        ((A, dataclasses.replace(B, pdrawsize=4)), ("b",)),
        ((A, dataclasses.replace(B, contours=())), ("b",)),
        ((A, with_contour(B, contour((9, 9, 9.25)))), ("b",)),
        ((A, with_contour(B, contour((9, 9, 9), surface=2))), ("b",)),
        ((A, with_contour(B, contour((9, 9, 9), flags=8))), ("b",)),
        ((A, with_contour(B, contour((9, 9, 9), flags=1 << 7, time=3))), ()),
        ((A, with_contour(B, contour((9, 9, 9), sizes=[3]))), ("b",)),
        ((with_contour(A, contour((1.1, 2, 3), (4, 5, 6), sizes=[7.5, -1])), B), ("a",)),
        ((with_contour(A, contour((4, 5, 6), (1.1, 2, 3), sizes=[-1, 7])), B), ("a",)),
        ((A, B, dataclasses.replace(B)), ("b",)),
    ],
)
def test_changes_are_those_of_points_and_spheres(objects: tuple[Object, ...], expected: tuple[str, ...]) -> None:
    assert changed_objects(MODEL, Model(objects)) == expected
    assert changed_objects(Model(objects), MODEL) == expected


def test_a_round_trip_through_a_file_changes_nothing() -> None:
    assert changed_objects(MODEL, decode_model(encode_model(MODEL))) == ()


def test_without_a_previous_model_all_that_is_not_empty_is_changed() -> None:
    assert changed_objects(None, Model((A, Object("empty"), B))) == ("a", "b")
