"""Make the virtual environment .venv of this checkout ready; does nothing when it is.

Needs nothing but Python's standard library. An environment that exists is completed, never deleted.
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "deepvesicle-setup.json"
LOG = VENV / "deepvesicle-setup.log"
#: Other builds of TensorFlow fill the same folder, so only one may be installed.
OTHER_TENSORFLOWS = ("tensorflow-cpu", "tf-nightly", "tf-nightly-cpu")


def say(text: str) -> None:
    """One line of progress; stdout is left to the command that follows."""
    print(text, file=sys.stderr, flush=True)


def fingerprint() -> str:
    """Changes with everything that decides what must be installed, the place of the checkout included."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def is_ready(extras: set[str]) -> bool:
    """Whether the last complete setup was of this state of the checkout and had the extras."""
    try:
        stamp = json.loads(STAMP.read_text())
        return stamp["fingerprint"] == fingerprint() and extras <= set(stamp["extras"]) and PYTHON.exists()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def runs(*command: str) -> bool:
    """Whether the environment's Python runs a command without error."""
    try:
        return subprocess.run([str(PYTHON), *command], capture_output=True, stdin=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def make_environment() -> None:
    """Create .venv, or check the one that is there."""
    if not PYTHON.is_symlink() and not PYTHON.exists():
        if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
            sys.exit("Python cannot make virtual environments here. Install the missing part: apt install python3-venv")
        say("[1/3] making the virtual environment .venv")
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True, stdin=subprocess.DEVNULL)
    elif not runs("-c", "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))"):
        sys.exit(
            "The Python in .venv does not run, or is not one of 3.10 to 3.13. "
            "Move the folder away (mv .venv .venv-old) and start this again."
        )
    if not runs("-m", "pip", "--version") and not runs("-m", "ensurepip", "--upgrade"):
        sys.exit("There is no pip in .venv, and it cannot be added. Install the missing part: apt install python3-venv")


def installed_distributions() -> set[str]:
    """Normalised names of what is installed in the environment."""
    code = "import importlib.metadata as m; print(*(d.metadata['Name'] for d in m.distributions()), sep='\\n')"
    names = subprocess.run([str(PYTHON), "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def requirements(extras: set[str]) -> list[str]:
    """The requirements in setup.cfg; without tensorflow where another build of it is already there."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    texts = [config["options"]["install_requires"], *(config["options.extras_require"][extra] for extra in extras)]
    found = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    other = installed_distributions().intersection(OTHER_TENSORFLOWS)
    if other:
        say(f"      ({', '.join(sorted(other))} is installed in .venv and stays; tensorflow is not added)")
        found = [line for line in found if not re.match(r"tensorflow\b", line)]
    return found


def pip_install(*arguments: str) -> None:
    """Run pip with its output in a log, and name the large downloads as they start."""
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *arguments]
    with LOG.open("a", encoding="utf-8") as log:
        log.write(" ".join(command) + "\n")
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            log.write(line)
            log.flush()
            lines.append(line.rstrip())
            download = re.search(r"Downloading (\S+) \((\d+)[.\d]* MB\)", line)
            if download and int(download.group(2)) >= 20:
                say(f"      downloading {download.group(1).rsplit('/', 1)[-1]} ({download.group(2)} MB)")
            elif line.startswith("Installing collected packages"):
                say(f"      unpacking {line.count(',') + 1} package(s)")
        if process.wait() != 0:
            shown = [line for line in lines if "WARNING" not in line][-12:]
            sys.exit("\n".join([*shown, f"The installation failed; all of pip's output is in {LOG}"]))


def main() -> None:
    """Set up .venv with the extras named on the command line."""
    parser = argparse.ArgumentParser(description="Make the virtual environment of this checkout ready.")
    parser.add_argument("extras", nargs="*", help="extras of setup.cfg to install as well, e.g. test")
    extras = set(parser.parse_args().extras)
    if is_ready(extras):
        return
    start = time.monotonic()
    say("Setting up .venv in this folder. A fresh one downloads about 750 MB, most of it TensorFlow; 2.5 GB on disk")
    make_environment()
    LOG.write_text("", encoding="utf-8")
    say("[2/3] installing the libraries: one minute to many, as fast as the network is")
    pip_install("--constraint", "constraints.txt", *requirements(extras))
    say("[3/3] installing deepvesicle from this folder")
    pip_install("--no-deps", "--editable", ".")
    STAMP.write_text(json.dumps({"fingerprint": fingerprint(), "extras": sorted(extras)}) + "\n", encoding="utf-8")
    say(f"Setup done in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
