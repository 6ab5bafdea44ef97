"""The shape of the program: imports go down only, heavy libraries load late, every command explains itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mrcfile
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "deepvesicle").rglob("*.py")) + sorted((ROOT / "imod_bridge").rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in MODULES]

#: Floors of the house. A module may import from its own room and from lower floors: not from above, and not from the
#: neighbours on its floor.
FLOORS: dict[str, int] = {
    "deepvesicle": 0,  # the version
    "imod_bridge": 0,
    "errors": 0,
    "cores": 0,
    "grid": 1,
    "memory": 1,
    "settings": 1,
    "spheres": 2,
    "marks": 2,
    "vesicles": 2,
    "files": 3,
    "network": 4,
    "annotations": 4,
    "fitting": 4,
    "phantom": 4,
    "scoring": 4,
    "report": 4,
    "corrections": 3,
    "placing": 4,
    "pipeline": 5,
    "calibration": 5,
    "preparing": 5,
    "handover": 5,
    "tuning": 6,
    "batch": 6,
    "commands": 7,
    "__main__": 8,
}
#: The one door between neighbours: training draws its tomograms from phantoms while it runs.
DOORS = {("network", "phantom")}
NETWORK_LIBRARIES = {"tensorflow", "keras", "csbdeep"}
#: What a command module may load before its command runs.
LIGHT_LIBRARIES = {"typer"} | set(sys.stdlib_module_names)
LIGHT_MODULES = ("deepvesicle", "deepvesicle.errors", "deepvesicle.commands")


def room_of(module: str) -> str:
    """The room of a dotted module name: ``deepvesicle.files.tables`` -> ``files``."""
    parts = module.split(".")
    if parts[0] == "imod_bridge" or len(parts) == 1:
        return parts[0]
    return parts[1]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, at_load_time: bool = False) -> Iterator[str]:
    """Dotted names that a module imports: anywhere, or only those that run when it is loaded."""

    def visit(node: ast.AST) -> Iterator[str]:
        if at_load_time:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                return
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module_name(path).split(".")
                package = package if path.name == "__init__.py" else package[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            for alias in node.names:  # "from deepvesicle.files import tables" imports the module tables
                inner = f"{base}.{alias.name}"
                yield (
                    inner
                    if (ROOT / inner.replace(".", "/")).with_suffix(".py").exists()
                    or (ROOT / inner.replace(".", "/") / "__init__.py").exists()
                    else base
                )
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")))


def test_the_walk_sees_imports(tmp_path: Path) -> None:
    """The other tests mean nothing if the walk overlooks something."""
    files = set(imports(ROOT / "deepvesicle" / "files" / "tables.py"))
    assert {"csv", "numpy", "deepvesicle.errors", "deepvesicle.files.atomic", "deepvesicle.vesicles"} <= files
    check = ROOT / "deepvesicle" / "commands" / "check.py"
    assert "deepvesicle.files.tomogram" in set(imports(check))
    assert "deepvesicle.files.tomogram" not in set(imports(check, at_load_time=True))
    assert len(MODULES) > 20


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_imports_go_down_only(path: Path) -> None:
    here = room_of(module_name(path))
    assert here in FLOORS, f"give the new room {here} a floor"
    for name in imports(path):
        if name.split(".")[0] not in ("deepvesicle", "imod_bridge"):
            continue
        there = room_of(name)
        if there == here or (here, there) in DOORS:
            continue
        assert here != "imod_bridge", f"imod_bridge stands alone, but imports {name}"
        assert there in FLOORS, f"{name} is in no known room"
        assert FLOORS[there] < FLOORS[here], f"{here} must not import {name}"


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_network_libraries_are_imported_late_and_in_few_places(path: Path) -> None:
    late = {name.split(".")[0] for name in imports(path, at_load_time=True)}
    assert not late & NETWORK_LIBRARIES, "import it inside the function that needs it"
    everywhere = {name.split(".")[0] for name in imports(path)}
    if everywhere & NETWORK_LIBRARIES:
        assert room_of(module_name(path)) == "network"


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_one_module_reads_mrc_files(path: Path) -> None:
    if any(name.split(".")[0] == "mrcfile" for name in imports(path)):
        assert path == ROOT / "deepvesicle" / "files" / "tomogram.py"


@pytest.mark.parametrize("path", sorted((ROOT / "deepvesicle" / "commands").glob("*.py")), ids=lambda p: p.stem)
def test_command_modules_load_light(path: Path) -> None:
    for name in imports(path, at_load_time=True):
        light = name.split(".")[0] in LIGHT_LIBRARIES or name == "deepvesicle"
        assert light or name.startswith(LIGHT_MODULES[1:]), f"import {name} inside the command"


def loaded_after(arguments: list[str]) -> tuple[set[str], str]:
    """Top-level modules that a process has loaded after running the program with these arguments, and its output."""
    code = (
        "import sys; from deepvesicle.commands.main import main; code = main(sys.argv[1:]);"
        "print('LOADED', *sorted({name.split('.')[0] for name in sys.modules})); sys.exit(code)"
    )
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    text, _, modules = run.stdout.rpartition("LOADED ")
    return set(modules.split()), text


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []], ids=["help", "version", "nothing"])
def test_program_starts_without_heavy_libraries(arguments: list[str]) -> None:
    loaded, text = loaded_after(arguments)
    assert not loaded & (
        NETWORK_LIBRARIES | {"numpy", "scipy", "skimage", "pandas", "matplotlib", "mrcfile", "imodmodel"}
    )
    assert "deepvesicle" in text


def test_check_runs_without_the_network(tmp_path: Path, rng: np.random.Generator) -> None:
    with mrcfile.new(tmp_path / "t.mrc", rng.normal(size=(20, 30, 40)).astype(np.float32)) as mrc:
        mrc.voxel_size = 20.0
    loaded, text = loaded_after(["check", str(tmp_path / "t.mrc")])
    assert "mrcfile" in loaded and not loaded & (NETWORK_LIBRARIES | {"skimage", "pandas", "matplotlib", "imodmodel"})
    assert "40 x 30 x 20 voxels" in text


def test_every_command_and_option_explains_itself() -> None:
    from typer.main import get_command

    from deepvesicle.commands.main import app

    group = get_command(app)
    commands = group.commands  # type: ignore[attr-defined]
    assert "check" in commands
    for name, command in {"deepvesicle": group, **commands}.items():
        assert command.help and command.help.strip().endswith("."), f"{name} has no help"
        silent = [p.name for p in command.params if not getattr(p, "help", None)]
        assert not silent, f"{name}: no help for {silent}"


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
