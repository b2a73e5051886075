"""Waiting for room, and what a training does when it has lost some: without a cluster."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster import places
from cluster.inspection import STACK, NodeReport, find_problems, look
from cluster.placement import Placement
from cluster.places import Node, Wait
from cluster.session import Session
from data.errors import InputError, ResumableError
from pipeline.sections import Cluster, Engine, Train
from pipeline.stages import resources
from pipeline.stages import train as stage
from pipeline.stages.resources import LazyCluster, Setting
from pipeline.workspace import Workspace
from train.run.launch import LostPlacesError, Progress

ALL = Placement(3, 1, 0, 3, 1, 0)
NODES = [Node("a", "10.0.0.1", 1, 0), Node("b", "10.0.0.2", 1, 0)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(places.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(places, "living_nodes", lambda: NODES)
    return now


def test_a_wait_says_what_is_wanted_what_is_there_and_how_long_it_waits(clock: list[float]) -> None:
    said: list[str] = []
    wait = Wait("3 ranks", 100, said.append)
    for clock[0] in (1, 4, 6, 10, 50, 70, 99):
        assert wait.goes_on()
    clock[0] = 100
    assert not wait.goes_on()
    there = "2 nodes with 2 CPUs and 0 GPUs there"
    assert said == [f"3 ranks wanted, {there}; waiting for up to {left} s more" for left in (94, 30)]


def test_an_allowance_is_not_waited(clock: list[float]) -> None:
    wait = Wait("an engine", 10, lambda line: None)
    clock[0] = 60
    assert wait.goes_on(allowance=55)
    assert not wait.goes_on()


@pytest.mark.parametrize(("cpus", "gpus", "room"), [(1, 0, 2), (2, 0, 0), (1, 1, 0), (0, 0, 2)])
def test_the_room_of_the_living_nodes(clock: list[float], cpus: int, gpus: int, room: int) -> None:
    assert places.total_room(cpus, gpus) == room


def setting(folder: Path, said: io.StringIO, **cluster: Any) -> Setting:
    console = Console(file=said, width=300)
    return Setting(Workspace(folder), console, Engine(), Cluster(address="10.0.0.1:6379", **cluster), 0)


@pytest.mark.parametrize(("room", "group", "ranks"), [(3, 1, 3), (2, 1, 2), (2, 2, 2), (0, 1, None), (1, 2, None)])
def test_a_training_goes_on_with_the_ranks_that_fit(
    room: int, group: int, ranks: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "await_room", lambda *_: room)
    monkeypatch.setattr(resources, "living_nodes", lambda: NODES)
    said = io.StringIO()
    cluster = LazyCluster(setting(tmp_path, said, place_seconds=7))
    if ranks is None:
        with pytest.raises(ResumableError, match=r"for 7 s 3 training ranks .* wanted.*2 nodes with 2 CPUs"):
            cluster.after_loss(ALL, group)
        return
    assert cluster.after_loss(ALL, group).ranks == ranks
    assert (f"goes on with {ranks} of 3 ranks" in said.getvalue()) == (ranks < 3)


def trained_with(
    outcomes: list[Callable[[Callable[[Progress], None]], None]], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> list[int]:
    """The numbers of ranks with which the training was started, while each start ends as the list says."""
    started: list[int] = []

    def finetune_all(runs: object, *, num_workers: int, on_progress: Callable[[Progress], None], **_: object) -> None:
        started.append(num_workers)
        outcomes[len(started) - 1](on_progress)

    class Shrinking(LazyCluster):
        placement = ALL

        def after_loss(self, placement: Placement, group: int) -> Placement:
            return Placement(3, 1, 0, placement.ranks - 1 or 1, 1, 0)

    monkeypatch.setattr(stage, "finetune_all", finetune_all)
    monkeypatch.setattr(stage, "fit", lambda setting, section, runs, placement: runs)
    where = setting(folder, io.StringIO())
    stage._train_all(where, Train(steps=10), [], Shrinking(where), folder)
    return started


def lose_after(step: int) -> Callable[[Callable[[Progress], None]], None]:
    def act(on_progress: Callable[[Progress], None]) -> None:
        on_progress(Progress(run="r", step=step, num_steps=10, loss=1.0, tokens_per_second=1, done=step / 10))
        raise LostPlacesError("a node is gone")

    return act


def test_lost_nodes_cost_ranks_and_not_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = [lose_after(step) for step in (1, 2, 3, 4, 5, 6)]
    assert trained_with([*losses, lambda _: None], monkeypatch, tmp_path) == [3, 2, 1, 1, 1, 1, 1]


def test_a_training_that_makes_no_progress_between_losses_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LostPlacesError):
        trained_with([lose_after(1)] * 9, monkeypatch, tmp_path)


def test_a_head_without_cpus_is_no_node_for_a_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    cluster = LazyCluster(setting(tmp_path, said), Train(), whole_nodes=True)
    session = resources.Session("10.0.0.1:6379", tmp_path, 8, 0, ((0, 0), (4, 0), (4, 0)))
    assert cluster._place(session).ranks == 2 and "instead" not in said.getvalue()


def test_a_cluster_without_room_is_waited_for_only_where_nodes_may_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [((0, 0),), ((0, 0), (1, 0))]

    class Growing(Session):
        def now(self) -> Session:
            nodes = sizes.pop(0) if len(sizes) > 1 else sizes[0]
            return Session("a", tmp_path, sum(cpus for cpus, _ in nodes), 0, nodes)

    monkeypatch.setattr(resources, "POLL_SECONDS", 0.01)
    cluster = LazyCluster(setting(tmp_path, io.StringIO(), place_seconds=30))
    cluster.__dict__["_session"] = Growing("a", tmp_path, 0, 0, ())
    assert cluster.placement.engines == 1
    sizes[:] = [((1, 0),)]
    large = Setting(Workspace(tmp_path), Console(), Engine(tensor_parallel=4), Cluster(place_seconds=30), 0)
    cluster = LazyCluster(large)
    cluster.__dict__["_session"] = Growing("a", tmp_path, 0, 0, ())
    with pytest.raises(InputError, match="no node has more than 1"):
        assert cluster.placement


def test_problems_are_named_by_node_and_package() -> None:
    own = look()
    assert set(STACK) <= own.versions.keys() and find_problems({"10.0.0.1": own}, own) == []
    versions = {**own.versions, "vllm": None, "torch": "1.0"}
    other = NodeReport("b", versions, "other", 1, [], {"/shared": "", "/models/m": "it is not there"})
    found = find_problems({"10.0.0.1": own, "10.0.0.2": other, "10.0.0.3": "no answer"}, own)
    assert [(problem.node, problem.what.split(",")[0]) for problem in found] == [
        ("10.0.0.2", "torch 1.0"),
        ("10.0.0.2", "vllm is missing"),
        ("10.0.0.2", "it runs other code of ours"),
        ("10.0.0.2", "/models/m: it is not there"),
        ("10.0.0.3", "no answer"),
    ]
