"""The interface that a training rank uses: the one that bears its node's address, unless the user named another."""

import os
import socket

import psutil
import pytest
import ray

from train.run import network


def test_each_address_of_this_machine_is_found_on_its_interface() -> None:
    families = (socket.AF_INET, socket.AF_INET6)
    found = [
        (name, address.address.partition("%")[0])
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family in families and not address.address.startswith("fe80")  # the same on several interfaces
    ]
    assert ("lo", "127.0.0.1") in found
    for name, address in found:
        assert network.find_interface(address) == name
    assert network.find_interface("192.0.2.1") == ""


@pytest.mark.parametrize(
    ("given", "gloo", "nccl"),
    [({}, "en7", "=en7"), ({"GLOO_SOCKET_IFNAME": "ib0"}, "ib0", "=en7"), ({"NCCL_SOCKET_IFNAME": "ib"}, "en7", "ib")],
)
def test_a_variable_of_the_user_wins(
    given: dict[str, str], gloo: str, nccl: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (network.GLOO, network.NCCL):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    monkeypatch.setattr(network, "find_interface", lambda address: {"10.0.0.7": "en7"}[address])
    network.choose_interface()
    assert (os.environ[network.GLOO], os.environ[network.NCCL]) == (gloo, nccl)
