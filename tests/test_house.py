"""The house is in order: packaging, scripts, and documents that say what is true of the program."""

from __future__ import annotations

import configparser
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import deepvesicle
from deepvesicle.commands.fix_action import NOTHING_TO_DO
from deepvesicle.errors import NetworkError
from deepvesicle.files.imod import OUR_OBJECTS
from deepvesicle.files.tables import COLUMNS
from deepvesicle.network import shipped
from deepvesicle.settings import Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
)
SCRIPTS = sorted(path for path in (ROOT / "bin").iterdir() if path.is_file() and not path.name.startswith("_"))


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def help_of(*arguments: str) -> str:
    """What the command line prints for ``--help``, wide enough that no name is cut."""
    code = "import sys; from deepvesicle.commands.main import main; sys.exit(main())"
    environment = {**os.environ, "COLUMNS": "200", "TERMINAL_WIDTH": "200", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("FORCE_COLOR", None)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--help"], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """The help of the program (under "") and of every command that the documents name."""
    named = set(re.findall(r"\bdeepvesicle ([a-z][a-z-]*)", "\n".join(code_of(read(name)) for name in DOCUMENTS)))
    assert {"segment", "check", "fix", "demo"} <= named | {"demo"}
    return {"": help_of(), **{name: help_of(name) for name in sorted(named)}}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def readme() -> str:
    return read("README.md")


def code_of(markdown: str) -> str:
    """The code blocks and `code spans` of a Markdown text, a line each."""
    blocks = re.findall(r"```[a-z]*\n(.*?)```", markdown, re.DOTALL)
    rest = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", rest)])


# --- packaging


def test_every_package_folder_is_in_the_list_of_packages() -> None:
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("deepvesicle", "imod_bridge")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert set(lines(setup_cfg()["options"]["packages"])) == folders | {"deepvesicle.shipped_models"}


def test_console_script_points_to_a_function() -> None:
    entry = setup_cfg()["options.entry_points"]["console_scripts"]
    name, target = (part.strip() for part in entry.strip().split("="))
    module, function = target.split(":")
    assert name == "deepvesicle"
    assert callable(getattr(importlib.import_module(module), function))


def test_requirements_are_ranges_and_constraints_pin_them() -> None:
    config = setup_cfg()
    wanted = lines(config["options"]["install_requires"]) + lines(config["options.extras_require"]["test"])
    assert not [line for line in wanted if "==" in line]
    pinned = {re.split(r"[=;\s]", line)[0] for line in lines(read("constraints.txt")) if not line.startswith("#")}
    assert {re.split(r"[<>=;\s\[]", line)[0] for line in wanted} <= pinned


def test_every_constraint_has_one_version_on_every_python() -> None:
    pytest.importorskip("packaging")
    from packaging.requirements import Requirement

    pins = [Requirement(line) for line in lines(read("constraints.txt")) if not line.startswith("#")]
    for python in ("3.10", "3.11", "3.12", "3.13"):
        names = [pin.name for pin in pins if pin.marker is None or pin.marker.evaluate({"python_version": python})]
        assert len(names) == len(set(names)) == len({pin.name for pin in pins})


def test_only_one_build_of_tensorflow_is_required() -> None:
    everything = "\n".join(setup_cfg()["options.extras_require"].values()) + setup_cfg()["options"]["install_requires"]
    assert set(re.findall(r"^\s*(tensorflow[\w-]*|tf-nightly[\w-]*)", everything, re.MULTILINE)) == {"tensorflow"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel made from a copy of the sources, so that no build folder is left in the checkout."""
    if importlib.util.find_spec("setuptools") is None or importlib.util.find_spec("wheel") is None:
        pytest.skip("setuptools and wheel are not installed here")
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    for name in ("deepvesicle", "imod_bridge", "models"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("deepvesicle-*.whl")
    return path


def test_wheel_holds_the_code_the_models_and_the_type_markers(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {
        p.relative_to(ROOT).as_posix() for top in ("deepvesicle", "imod_bridge") for p in (ROOT / top).rglob("*.py")
    }
    models = {
        "deepvesicle/shipped_models/" + p.relative_to(ROOT / "models").as_posix()
        for suffix in ("json", "h5", "md")
        for p in (ROOT / "models").glob(f"*/*.{suffix}")
    }
    assert code | {"deepvesicle/py.typed", "imod_bridge/py.typed"} <= names
    assert models <= names
    assert "deepvesicle/shipped_models/default/config.json" in names
    assert not [name for name in names if name.startswith(("tests", "bin", "docs", "models"))]


def test_installed_package_finds_its_models(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "from deepvesicle.network.shipped import shipped_models_folder; print(shipped_models_folder())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60
    )
    folder = Path(done.stdout.strip())
    assert folder == tmp_path.resolve() / "deepvesicle" / "shipped_models", done.stderr
    assert (folder / "default" / "config.json").is_file()


def test_checkout_finds_its_models() -> None:
    assert shipped.shipped_models_folder() == ROOT / "models"


def test_missing_models_are_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepvesicle, "__file__", str(tmp_path / "deepvesicle" / "__init__.py"))
    with pytest.raises(NetworkError, match="--model"):
        shipped.shipped_models_folder()


# --- scripts


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_scripts_run_from_anywhere(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)
    assert text.startswith("#!/usr/bin/env ")
    assert not re.search(r"(?<![\w.$}>/\"])/(home|root|usr(?!/bin/env)|tmp|opt|work|data|mnt|var)\b", text)
    if "bash" in text.splitlines()[0]:
        assert "set -euo pipefail" in text
        assert subprocess.run(["bash", "-n", str(script)]).returncode == 0


def test_the_promised_scripts_are_there() -> None:
    assert {"demo", "deepvesicle", "test"} <= {script.name for script in SCRIPTS}
    for name in re.findall(r"(?<![\w/])bin/([a-z-]+)", "".join(read(name) for name in DOCUMENTS)):
        assert (ROOT / "bin" / name).is_file(), name


@pytest.fixture
def setup_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """bin/_setup.py, with its environment in a temporary folder."""
    spec = importlib.util.spec_from_file_location("house_setup", ROOT / "bin" / "_setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    venv = tmp_path / ".venv"
    for name, value in {
        "VENV": venv,
        "PYTHON": venv / "bin" / "python",
        "STAMP": venv / "stamp.json",
        "LOG": venv / "log",
    }.items():
        monkeypatch.setattr(module, name, value)
    return module


def make_fake_python(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n" + body + "\n")
    path.chmod(0o755)


def test_setup_is_ready_only_for_its_own_state(setup_module: ModuleType) -> None:
    make_fake_python(setup_module.PYTHON, "exit 0")
    assert not setup_module.is_ready(set())
    setup_module.STAMP.write_text(json.dumps({"fingerprint": setup_module.fingerprint(), "extras": ["test"]}))
    assert setup_module.is_ready(set())
    assert setup_module.is_ready({"test"})
    assert not setup_module.is_ready({"gpu"})
    setup_module.STAMP.write_text(json.dumps({"fingerprint": "of another day", "extras": ["test"]}))
    assert not setup_module.is_ready(set())
    setup_module.STAMP.write_text("[")
    assert not setup_module.is_ready(set())


def test_setup_names_the_debian_package(setup_module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="apt install python3-venv"):
        setup_module.make_environment()
    assert not setup_module.VENV.exists()


def test_setup_leaves_an_unusable_environment_alone(setup_module: ModuleType) -> None:
    make_fake_python(setup_module.PYTHON, "exit 1")
    with pytest.raises(SystemExit, match="mv .venv .venv-old"):
        setup_module.make_environment()
    assert setup_module.PYTHON.exists()


def test_setup_adds_no_second_tensorflow(setup_module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_module, "installed_distributions", lambda: {"numpy", "pip"})
    plain = setup_module.requirements({"test"})
    assert {"numpy", "pytest", "tensorflow>=2.16"} <= set(plain)
    monkeypatch.setattr(setup_module, "installed_distributions", lambda: {"numpy", "tensorflow-cpu"})
    assert set(plain) - set(setup_module.requirements({"test"})) == {"tensorflow>=2.16"}


def test_setup_reports_a_failed_installation(setup_module: ModuleType) -> None:
    make_fake_python(setup_module.PYTHON, "echo ERROR: no matching distribution; exit 1")
    with pytest.raises(SystemExit, match="no matching distribution"):
        setup_module.pip_install("something")
    assert "no matching distribution" in setup_module.LOG.read_text()


# --- documents


def test_every_command_in_the_documents_exists_and_is_in_the_readme(helps: dict[str, str]) -> None:
    for name in helps:
        assert name in helps[""]
    # The commands, as the program lists them: the first words of the lines in the box of commands.
    listed = re.split(r"Commands", helps[""], maxsplit=1)[1]
    registered = {match for match in re.findall(r"^[\s│|]*([a-z][a-z-]+)\s{2,}\S", listed, re.MULTILINE)}
    assert "segment" in registered
    for name in registered:
        assert re.search(rf"\bdeepvesicle {name}\b|bin/{name}\b", readme()), f"{name} is not in the README"


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_option_in_the_documents_exists(helps: dict[str, str], name: str) -> None:
    for command, rest in re.findall(r"deepvesicle ([a-z]+)([^`\n]*)", code_of(read(name))):
        assert options_in(rest) <= options_in(helps[command]), f"{command} {rest}"


@pytest.mark.parametrize(
    "command, heading", [("segment", "### Options of `deepvesicle segment`"), ("fix", "| option of `deepvesicle fix`")]
)
def test_the_options_in_the_readme_are_all_there_are(helps: dict[str, str], command: str, heading: str) -> None:
    text = readme().split(heading, maxsplit=1)[1].split("\n### ", maxsplit=1)[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `-")]
    assert options_in(" ".join(rows)) == options_in(helps[command]) - {"-h", "--help"}


def test_other_options_in_the_page_on_3dmod_exist(helps: dict[str, str]) -> None:
    assert options_in("\n".join(re.findall(r"`(-[^`\n]+)`", read("docs/imod.md")))) <= options_in(helps["fix"])


@pytest.mark.parametrize(
    "name, least", [("README.md", set(OUR_OBJECTS) - {"proposed"}), ("docs/imod.md", set(OUR_OBJECTS))]
)
def test_objects_of_models_in_the_documents_are_those_of_the_program(name: str, least: set[str]) -> None:
    table = re.search(r"\| object \| colour \|.*?\n\n", read(name), re.DOTALL)
    assert table is not None
    assert set(re.findall(r"^\| `(\w+)`", table.group(), re.MULTILINE)) == least


def test_lines_of_output_in_the_page_on_3dmod_are_of_the_form_that_is_printed() -> None:
    (block,) = re.findall(r"```text\n(.*?)```", read("docs/imod.md"), re.DOTALL)
    assert "nothing to do" in read("docs/imod.md") and NOTHING_TO_DO == "nothing to do"
    for line in lines(block):
        assert re.match(r"x \d+, y \d+, z \d+ \((click|remove)\): |\d+ (re)?fitted, |wrote ", line), line


def test_settings_in_the_readme_are_valid() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", readme(), re.DOTALL)
    assert blocks
    for block in blocks:
        assert Settings.from_dict(tomllib.loads(block)) != Settings()


def test_default_radii_in_the_readme_are_those_of_the_program() -> None:
    proposal = Settings().proposal
    assert f"({proposal.min_radius_nm:.0f} and {proposal.max_radius_nm:.0f} if not given)" in readme()


def test_columns_in_the_readme_are_those_of_the_table() -> None:
    section = re.search(r"### The table\n(.*?)\n### ", readme(), re.DOTALL)
    assert section is not None
    rows = [line.split("|")[1] for line in section.group(1).splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(COLUMNS)


def test_version_is_the_same_everywhere() -> None:
    version = deepvesicle.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert version in read("CHANGELOG.md")
    assert re.search(rf"^version: {re.escape(version)}$", read("CITATION.cff"), re.MULTILINE)


def test_links_in_the_documents_lead_somewhere() -> None:
    for name in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", read(name)):
            # Pages of the commands are made with the site; tests/documents builds it.
            if target.startswith("https://") or (name.startswith("docs/") and target.startswith("commands/")):
                continue
            assert (ROOT / name).parent.joinpath(target).exists(), f"{name}: {target}"


def test_pictures_are_shown_and_small() -> None:
    pictures = sorted((ROOT / "docs" / "pictures").iterdir())
    pages = "".join(read(name) for name in DOCUMENTS if name.startswith("docs/"))
    shown = re.findall(r"!\[[^]]+\]\((pictures/[^)]+)\)", pages)
    assert sorted(set(shown)) == [f"pictures/{path.name}" for path in pictures]
    assert all(path.stat().st_size < 150_000 for path in pictures)
