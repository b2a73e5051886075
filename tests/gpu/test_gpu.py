"""The checks of `benchmarks.gpu` on this machine's GPUs, one test for each. A few minutes; skipped without a GPU."""

from collections.abc import Iterator

import pytest
from rich.console import Console

from benchmarks import gpu
from benchmarks.harness import Bench, build_parser
from cluster.install import has_gpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),  # a group is checked as a whole, by the first of its tests
    pytest.mark.skipif(not has_gpu(), reason="no GPU: nvidia-smi names none"),
]
TESTS = [(group, name) for group, names in gpu.GROUPS.items() if group != gpu.SPEED for name in names]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gpu.Scene]:
    flags = build_parser("gpu", "").parse_args([])
    bench = Bench("gpu", flags, tmp_path_factory.mktemp("gpu"), Console(), on_gpu=True, command="")
    with gpu.open_scene(bench) as scene:
        yield scene


@pytest.fixture(scope="module")
def found() -> dict[str, list[gpu.Check]]:
    """The checks of the groups that were run."""
    return {}


@pytest.mark.parametrize(("group", "name"), TESTS, ids=[f"{group}-{name}" for group, name in TESTS])
def test_gpu(scene: gpu.Scene, found: dict[str, list[gpu.Check]], group: str, name: str) -> None:
    if group not in found:
        found[group] = gpu.run_group(scene, group)
    (check,) = (check for check in found[group] if check.name == name)
    if check.state == gpu.SKIPPED:
        pytest.skip(check.reason)
    assert check.state == gpu.PASSED, check.reason
