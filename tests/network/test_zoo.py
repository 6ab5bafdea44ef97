"""Where models are looked for, and new ones that are there in full or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepvesicle.errors import NetworkError, UsageError
from deepvesicle.network.shipped import shipped_models_folder
from deepvesicle.network.zoo import is_model_name, known_models, model_folder, new_model, user_models_folder


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for models of one's own, and another working folder."""
    monkeypatch.setenv("DEEPVESICLE_MODELS", str(tmp_path / "own"))
    (tmp_path / "some" / "work").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "some" / "work")
    return tmp_path / "own"


def put(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_a_name_is_own_then_shipped_then_a_path(own: Path) -> None:
    shipped = shipped_models_folder() / "default"
    here = put(Path("default").resolve())
    assert model_folder("default") == shipped
    assert model_folder("./default") == here and model_folder(here) == here
    mine = put(own / "default")
    assert model_folder("default") == mine
    assert [folder for name, folder in known_models() if name == "default"] == [mine, shipped]
    only_here = put(Path("other").resolve())
    assert model_folder("other") == only_here


def test_names_do_not_lead_out_of_the_folder(own: Path) -> None:
    put(own.parent / "secret")
    put(own / ".half")
    own.joinpath("empty").mkdir()
    for name in ("../secret", "..", ".", ".half", "empty", ""):
        with pytest.raises(NetworkError, match="no model"):
            model_folder(name)
    assert not any(is_model_name(name) for name in ("", ".", "..", "a/b", ".a", "a b", "ä"))
    assert all(is_model_name(name) for name in ("default", "my-net_2.1", "7"))


def test_the_usual_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEEPVESICLE_MODELS", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert user_models_folder().name == "models" and "deepvesicle" in user_models_folder().parts
    monkeypatch.setenv("DEEPVESICLE_MODELS", "~/nets")
    assert user_models_folder() == Path.home() / "nets"


def test_a_new_model_takes_the_place_of_the_old_one_at_once(own: Path) -> None:
    put(own / "net")
    with pytest.raises(RuntimeError), new_model(own / "net") as folder:
        (folder / "config.json").write_text("half")
        raise RuntimeError
    assert (own / "net" / "config.json").read_text() == "{}"
    with new_model(own / "net") as folder:
        (folder / "new").write_text("whole")
        assert (own / "net" / "config.json").exists()
    assert [path.name for path in own.iterdir()] == ["net"]
    assert [path.name for path in (own / "net").iterdir()] == ["new"]
    own.parent.joinpath("file").write_text("")
    with pytest.raises(UsageError, match="cannot write"), new_model(own.parent / "file" / "net"):
        pass
