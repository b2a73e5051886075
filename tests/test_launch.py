"""The launchers of `cluster/launch/`, as far as they can be checked without Slurm, Kubernetes and other machines."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

LAUNCH = Path(__file__).resolve().parent.parent / "cluster" / "launch"
SLURM = LAUNCH / "slurm.sbatch"
# Programs of a Slurm node: srun runs what it is given here, the others say what they were asked.
FAKES = {
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
    "scontrol": 'if [ "$1" = show ]; then echo node-a; echo node-b; else echo "scontrol $*" >> "$SEEN"; fi',
    "hostname": "echo 10.1.0.1 192.168.7.7",
    "ip": 'echo "$3 dev eth0 src $3 uid 0"',
    "ray": 'if [ "$1" = status ]; then sed "s/.*/ 1 node_x/" "$SEEN"; else echo "ray $*" >> "$SEEN"; fi',
    "sleep": "/bin/sleep 0.5",
}


def fakes(folder: Path, entail: str) -> dict[str, str]:
    """An environment in which a script finds these programs before the real ones."""
    folder.mkdir()
    for name, body in {**FAKES, "entail": entail}.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "ENTAIL_BIN": str(folder), "SEEN": str(folder / "seen")}
    return env | {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_CPUS_PER_TASK": "8"}


def test_the_slurm_script_is_sound() -> None:
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", str(SLURM)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    directives = [line for line in SLURM.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --requeue", "#SBATCH --signal=B:TERM@120"} <= set(directives)


def test_the_slurm_script_starts_a_node_each_and_the_command_on_the_head(tmp_path: Path) -> None:
    env = fakes(tmp_path / "bin", 'echo "entail $*" >> "$SEEN"')
    done = subprocess.run(["bash", str(SLURM), "run", "my.toml"], env=env, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    seen = (tmp_path / "bin" / "seen").read_text().splitlines()
    starts = sorted(line for line in seen if line.startswith("ray start"))
    assert len(starts) == 2
    assert "--address 10.1.0.1:24711" in starts[0] and "--head" in starts[1]
    assert all("--num-cpus 8 --num-gpus 0" in line and "--node-ip-address 10.1.0.1" in line for line in starts)
    assert seen[-1] == "entail run my.toml --grace-seconds 90 --address 10.1.0.1:24711"


@pytest.mark.parametrize(("code", "is_queued"), [(3, True), (2, False)])
def test_sigterm_reaches_the_command_and_a_resumable_end_is_queued_again(
    code: int, is_queued: bool, tmp_path: Path
) -> None:
    entail = f'trap "exit {code}" TERM; touch "$SEEN.up"; while true; do /bin/sleep 0.1; done'
    env = fakes(tmp_path / "bin", entail)
    process = subprocess.Popen(["bash", str(SLURM), "run", "my.toml"], env=env)
    seen = tmp_path / "bin" / "seen"
    while not seen.with_name("seen.up").exists():
        assert process.poll() is None
    process.terminate()
    assert process.wait(30) == code
    assert ("scontrol requeue 4711" in seen.read_text()) == is_queued


def pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert all("rayStartParams" in group for group in groups)
    return [group["template"]["spec"] for group in groups]


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_the_kubernetes_files_have_what_kuberay_requires(name: str) -> None:
    found = yaml.safe_load((LAUNCH / name).read_text())
    assert found["apiVersion"] == "ray.io/v1" and found["metadata"]["name"]
    spec = found["spec"]
    if found["kind"] == "RayJob":
        assert spec["entrypoint"].startswith("entail run ") and spec["backoffLimit"] > 0
    cluster = spec if found["kind"] == "RayCluster" else spec["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    for group in cluster["workerGroupSpecs"]:
        assert group["groupName"] and group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for pod in pods(cluster):
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["image"] and container["name"]
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert requests == limits  # Ray takes the limits for what a node has


def test_the_config_of_ray_up_fits_rays_own_schema() -> None:
    config = yaml.safe_load((LAUNCH / "ray-up.yaml").read_text())
    validate_config(prepare_config(config))
    config["no_such_key"] = 1
    with pytest.raises(Exception, match="no_such_key"):
        validate_config(config)


@pytest.mark.parametrize(("name", "extra"), [("Dockerfile.cpu", "make setup"), ("Dockerfile.cuda", ".[cuda]")])
def test_the_images_install_the_pinned_stack(name: str, extra: str) -> None:
    text = (LAUNCH / name).read_text()
    steps = [line.split()[0] for line in text.splitlines() if line and line[0].isupper()]
    assert steps[0] == "FROM" and {"COPY", "RUN", "ENV", "CMD"} <= set(steps)
    assert extra in text and f"ray[default]=={ray.__version__}" in text
