"""The manifests parse, agree with each other, and every command in them is one of ours."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml
from tyro.conf import FlagCreatePairsOff

from mallocgame.search import CommandFlags
from muzero.train import TrainFlags

DEPLOY = Path(__file__).parents[2] / "deploy"
PARSERS = {"mallocgame.search": CommandFlags, "muzero.train": TrainFlags}


def _documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def _pods(found: Any) -> Iterator[dict[str, Any]]:
    """The pods' specifications, wherever they are."""
    if isinstance(found, dict):
        if "containers" in found:
            yield found
        for value in found.values():
            yield from _pods(value)
    elif isinstance(found, list):
        for value in found:
            yield from _pods(value)


def _flags(command: list[str]) -> Any:
    """What our own parser makes of a command."""
    start = command.index("python")
    assert command[start + 1] == "-m"
    parser = PARSERS[command[start + 2]]
    return tyro.cli(parser, args=command[start + 3 :], config=(FlagCreatePairsOff,))


def _script() -> dict[str, list[str]]:
    """The commands of the SLURM script by what they are for, with arguments filled in."""
    text = (DEPLOY / "slurm.sbatch").read_text()
    found = re.findall(r"^(\w+)\)\n  exec (.*)$", text, re.MULTILINE)
    given = {"search": "dumps --out runs/x", "train": "--programs dumps --out runs/x"}
    return {what: shlex.split(c.replace('"$@"', given[what])) for what, c in found}


def test_the_ray_job_runs_a_batch_that_goes_on() -> None:
    (job,) = _documents("ray-cluster.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    flags = _flags(shlex.split(job["spec"]["entrypoint"]))
    assert flags.executor == "ray" and flags.resume and flags.budget.deterministic
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    assert all(isinstance(v, str) for v in workers["rayStartParams"].values())


def test_the_jobset_trains_on_every_host_of_the_slice() -> None:
    jobset, single = _documents("jobset.yaml")
    assert jobset["kind"] == "JobSet" and single["kind"] == "Job"
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (pod,) = _pods(jobset)
    (container,) = pod["containers"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    rows, columns = map(int, topology.split("x"))
    per_host = container["resources"]["limits"]["google.com/tpu"]
    assert spec["parallelism"] == spec["completions"] == rows * columns // per_host
    flags = _flags(container["command"])
    assert flags.distributed and flags.resume
    assert flags.config.lanes % (rows * columns) == 0
    (pod,) = _pods(single)
    flags = _flags(pod["containers"][0]["command"])
    assert flags.measure and flags.resume
    for document in (jobset, single):
        assert "kueue.x-k8s.io/queue-name" in document["metadata"]["labels"]


@pytest.mark.parametrize("name", ["ray-cluster.yaml", "jobset.yaml"])
def test_pods_mount_what_they_name(name: str) -> None:
    pods = [pod for document in _documents(name) for pod in _pods(document)]
    assert pods
    for pod in pods:
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {m["name"] for m in container["volumeMounts"]} == volumes
            resources = container["resources"]
            for kind, limit in resources["limits"].items():
                assert resources["requests"][kind] == limit


def test_the_slurm_script_is_one_and_its_commands_are_ours(tmp_path: Path) -> None:
    path = DEPLOY / "slurm.sbatch"
    subprocess.run(["bash", "-n", path], check=True)
    commands = _script()
    search, train = _flags(commands["search"]), _flags(commands["train"])
    assert search.executor == "slurm" and search.resume and search.budget.deterministic
    assert train.distributed and train.resume
    done = subprocess.run(["bash", path, "dance"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "search or train, not dance\n")
    # Run with a python that only says what it was asked.
    fake = tmp_path / "python"
    fake.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    done = subprocess.run(
        [shutil.which("bash") or "bash", path, "search", "a b", "--out", "x"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stdout.splitlines()
    assert said[:5] == ["-m", "mallocgame.search", "a b", "--out", "x"]
    assert _flags(["python", *said]).input == ("a b",)


def test_the_image_has_the_extras_that_exist_and_starts_a_command() -> None:
    import tomllib

    text = (DEPLOY / "Dockerfile").read_text()
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert "cluster" in extras.split(",")
    (command,) = re.findall(r'^CMD \["([\w.]+)", "--help"\]$', text, re.MULTILINE)
    assert command in PARSERS
