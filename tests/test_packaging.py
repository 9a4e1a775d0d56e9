"""The wheel works without its checkout: types, migrations and the console command are inside."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


def _run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, REPOSITORY, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an environment that holds the wheel, and no checkout anywhere near it.

    Its dependencies are those of the running environment, so that nothing is downloaded.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = folder / "venv"
    venv.create(environment, symlinks=True)  # without pip: this environment's pip serves it
    (site,) = environment.glob("lib/python*/site-packages")
    python = str(environment / "bin/python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    _run(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=folder)
    # A .pth inside a folder that a .pth names is not read: the editable install of the checkout stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_carries_types_licence_migrations_and_what_pages_look_like(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "storage/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    migrations = {
        f"storage/{path.relative_to(REPOSITORY).as_posix()}"
        for path in (REPOSITORY / "migrations").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "storage/migrations/env.py" in migrations
    assert migrations <= names
    styles = {f"storage/reporting/{name}" for name in ("page/style.css", "page/script.js", "serve/static/style.css")}
    assert styles <= names


def test_the_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
        modules = {name for name in archive.namelist() if name.endswith(".py")}
    assert {name for name in top if not name.endswith(".dist-info")} == {"storage"}
    ours = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "storage").rglob("*.py")}
    assert ours <= modules


def test_the_metadata_names_the_versions_and_the_extras(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert metadata["Name"] == "agent-storage"
    assert metadata["Version"] == project["version"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == {
        "gcs",
        "keyring",
        "kms",
        "openhands",
        "otel",
        "reporting",
        "s3",
    }


def test_the_installed_package_is_not_the_checkout(elsewhere: Path) -> None:
    where = _run(elsewhere / "venv/bin/python", "-c", "import storage; print(storage.__file__)", cwd=elsewhere)
    assert Path(where.strip()).is_relative_to(elsewhere)


def test_init_and_status_work_from_the_wheel_in_an_empty_home(elsewhere: Path) -> None:
    home = elsewhere / "home"
    home.mkdir()
    command = elsewhere / "venv/bin/storage"
    _run(command, "init", cwd=home, HOME=str(home))
    assert "sqlite" in _run(command, "status", cwd=home, HOME=str(home)).lower()
    # Initialising again is not an error, and changes nothing.
    _run(command, "init", cwd=home, HOME=str(home))


@pytest.mark.parametrize("name", ["runtime", "dev"])
def test_pins_have_hashes_and_no_addresses(name: str) -> None:
    text = (REPOSITORY / "requirements" / f"{name}.txt").read_text()
    assert "://" not in text
    assert "--index" not in text
    assert " @ " not in text
    pins = [line for line in text.splitlines() if "==" in line and not line.lstrip().startswith("#")]
    assert pins
    assert text.count("--hash=sha256:") >= len(pins)
