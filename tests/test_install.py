"""The set-up's own logic: what it repairs, and what its stamp marks. `make test` began with a real installation."""

import sys
from pathlib import Path

import pytest

from cluster import install


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a `pyproject.toml` and nothing installed, to which the set-up belongs."""
    (tmp_path / "pyproject.toml").write_text('[project.optional-dependencies]\ncpu = ["torch==0"]\n')
    (tmp_path / ".set-up").mkdir()
    for name, path in {"ROOT": "", "VENV": ".venv", "PIP": ".venv/bin/pip", "LOG": ".set-up/install.log"}.items():
        monkeypatch.setattr(install, name, tmp_path / path)
    return tmp_path


def test_stamp_changes_with_the_project_and_the_extra(checkout: Path) -> None:
    before = install.stamp_path("cpu")
    assert before == install.stamp_path("cpu")
    assert before != install.stamp_path("cuda")
    (checkout / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert before != install.stamp_path("cpu")


def test_an_incomplete_package_is_removed_and_a_complete_one_stays(checkout: Path) -> None:
    packages = checkout / ".venv/lib/python3.11/site-packages"
    for name in ("half-1.0.dist-info", "whole-1.0.dist-info"):
        (packages / name).mkdir(parents=True)
        (packages / name / "METADATA").touch()
    (packages / "whole-1.0.dist-info/INSTALLER").write_text("pip\n")
    install.drop_half_installed()
    assert [path.name for path in packages.iterdir()] == ["whole-1.0.dist-info"]


def test_an_environment_that_was_moved_is_rebuilt(checkout: Path) -> None:
    pip = checkout / ".venv/bin/pip"
    pip.parent.mkdir(parents=True)
    pip.write_text(f"#!{checkout}/elsewhere/.venv/bin/python\n")
    pip.chmod(0o755)
    (checkout / ".venv/left-over").touch()
    install.make_environment()
    assert install.run([str(pip), "--version"]) == 0
    assert not (checkout / ".venv/left-over").exists()


def test_failed_installation_leaves_no_stamp(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / ".venv").mkdir()
    monkeypatch.setattr(install, "make_environment", lambda: None)
    monkeypatch.setattr(install, "PIP", Path(sys.executable))  # `python install ...` fails at once
    assert install.main() == 2
    assert str(install.LOG) in capsys.readouterr().err
    assert list(checkout.glob(".venv/.entail-*")) == []
