"""The network of a training group: every rank uses the interface that bears its node's address in the Ray cluster.

Left to themselves, Gloo takes the address of the host's own name, which is a loopback address on Debian, and NCCL the
first interface that is up. A variable that the user set wins. No files.
"""

import ipaddress
import os
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"


def find_interface(address: str) -> str:
    """The name of this machine's interface that has the address; "" if none has."""
    wanted = ipaddress.ip_address(address)
    for name, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            try:
                if ipaddress.ip_address(one.address.partition("%")[0]) == wanted:
                    return name
            except ValueError:  # of the hardware
                continue
    return ""


def choose_interface() -> None:
    """In a rank, before it joins a group: name the interface to Gloo and NCCL, unless the user did."""
    address = ray.util.get_node_ip_address()
    interface = find_interface(address)
    if not interface:
        return
    os.environ.setdefault(GLOO, interface)
    if not ipaddress.ip_address(address).is_loopback:
        os.environ.setdefault(NCCL, f"={interface}")  # without "=" any name that begins so


_Backend: Any = TorchConfig().backend_cls


class _NodeBackend(_Backend):  # type: ignore[misc]
    """Ray Train's own set-up of torch, after the choice of the interface."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


@dataclass
class NodeTorchConfig(TorchConfig):  # type: ignore[misc]
    """How Ray Train sets up torch on the ranks."""

    @property
    def backend_cls(self) -> type:
        """The class that Ray Train asks for."""
        return _NodeBackend
