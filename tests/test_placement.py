"""The planner: what a laptop and GPU machines carry."""

import pytest

from cluster.placement import Placement, plan
from data.errors import InputError


def test_a_laptop_of_two_cores_gets_two_of_each_with_one_thread() -> None:
    assert plan(cpus=2, gpus=0) == Placement(
        engines=2, cpus_per_engine=1, gpus_per_engine=0, ranks=2, cpus_per_rank=1, gpus_per_rank=0
    )


def test_one_core_carries_one_of_each() -> None:
    placement = plan(cpus=1, gpus=0, engines=4, ranks=4)
    assert (placement.engines, placement.ranks, placement.cpus_per_engine) == (1, 1, 1)


def test_gpus_are_divided_by_the_product_of_the_parallel_sizes() -> None:
    placement = plan(cpus=64, gpus=8, tensor_parallel=2, pipeline_parallel=2)
    assert (placement.engines, placement.gpus_per_engine, placement.cpus_per_engine) == (2, 4, 32)


def test_gpus_are_divided_by_the_tensor_parallel_size() -> None:
    placement = plan(cpus=64, gpus=8, tensor_parallel=4)
    assert (placement.engines, placement.gpus_per_engine, placement.cpus_per_engine) == (2, 4, 32)
    assert (placement.ranks, placement.gpus_per_rank, placement.cpus_per_rank) == (8, 1, 8)


def test_without_gpus_the_parts_of_an_engine_take_a_cpu_each() -> None:
    placement = plan(cpus=8, gpus=0, tensor_parallel=2, pipeline_parallel=2)
    assert (placement.engines, placement.gpus_per_engine, placement.cpus_per_engine) == (2, 0, 4)
    with pytest.raises(InputError, match="no node has more than 4"):
        plan(cpus=8, gpus=0, nodes=[(4, 0), (4, 0)], tensor_parallel=8)


def test_an_engine_lies_on_one_node() -> None:
    assert plan(cpus=8, gpus=0, nodes=[(4, 0), (4, 0)], engines=1).cpus_per_engine == 4
    assert plan(cpus=8, gpus=0, nodes=[(5, 0), (3, 0)], engines=2).cpus_per_engine == 3
    uneven = plan(cpus=24, gpus=6, nodes=[(16, 4), (8, 2)], tensor_parallel=2)
    assert (uneven.engines, uneven.cpus_per_engine) == (3, 8)
    with pytest.raises(InputError, match="no node has more than 1"):
        plan(cpus=8, gpus=2, nodes=[(4, 1), (4, 1)], tensor_parallel=2)


def test_a_node_without_gpus_carries_none_of_the_engines_that_need_one() -> None:
    placement = plan(cpus=40, gpus=2, nodes=[(32, 0), (8, 2)])
    assert (placement.engines, placement.cpus_per_engine) == (2, 4)
    assert (placement.ranks, placement.cpus_per_rank) == (2, 4)


@pytest.mark.parametrize("cpus", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("gpus", [0, 1, 3, 8])
@pytest.mark.parametrize("wanted", [None, 1, 2, 100])
def test_no_plan_asks_for_more_gpus_or_cpus_than_there_are(cpus: int, gpus: int, wanted: int | None) -> None:
    placement = plan(cpus=cpus, gpus=gpus, engines=wanted, ranks=wanted)
    assert 1 <= placement.engines <= (wanted or 100)
    assert placement.engines * placement.gpus_per_engine <= gpus
    assert placement.ranks * placement.gpus_per_rank <= gpus
    assert placement.engines * placement.cpus_per_engine <= cpus
    assert placement.ranks * placement.cpus_per_rank <= cpus


@pytest.mark.parametrize(
    "wish",
    [
        {"tensor_parallel": 3},
        {"engines": 0},
        {"ranks": -1},
        {"pipeline_parallel": 0},
        {"gpus": 2, "tensor_parallel": 4},
        {"gpus": 2, "tensor_parallel": 2, "pipeline_parallel": 2},
    ],
)
def test_what_cannot_be_is_refused(wish: dict[str, int]) -> None:
    with pytest.raises(InputError):
        plan(**{"cpus": 2, "gpus": 0, **wish})
