"""Asks a provider which machines of a cluster there are, in a process that can be given up on.

Run by its path as ``python launch_nodes.py nodes|ssh FILE``; it imports nothing of clray, and the
last line that it prints is JSON: ``{"machines": [...]}`` or ``{"error": "..."}``.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import Any

import yaml


def machines(file: str, with_ssh: bool) -> list[dict[str, Any]]:
    """The machines that are not terminated.

    Args:
        file: the cluster file.
        with_ssh: tell how to reach them, which needs more questions to a cloud. Then also those
            machines of the provider local that are down.
    """
    from ray.autoscaler._private.commands import _bootstrap_config
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler._private.util import prepare_config
    from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_NODE_STATUS

    with open(file, encoding="utf-8") as stream:
        written = yaml.safe_load(stream)
    config = _bootstrap_config(written, no_config_cache=True) if with_ssh else written
    config = config if with_ssh else prepare_config(written)
    place = config["provider"]
    provider = _get_node_provider(place, config["cluster_name"])
    running = list(provider.non_terminated_nodes({}))
    by_ssh = place["type"] == "local" and "head_ip" in place
    there = [place["head_ip"], *place["worker_ips"]] if with_ssh and by_ssh else running
    found = []
    for node in there:
        tags = provider.node_tags(node)
        head = tags[TAG_RAY_NODE_KIND] == "head"
        machine = {
            "id": node,
            "head": head,
            "running": node in running,
            "ready": node in running and tags.get(TAG_RAY_NODE_STATUS) == "up-to-date",
            "ssh": [],
        }
        if with_ssh and (head or by_ssh):
            machine["ssh"] = _ssh(provider, config, node, head)
        found.append(machine)
    return found


def _ssh(provider: Any, config: dict[str, Any], node: str, head: bool) -> list[str]:
    """The arguments of ssh that lead to a machine."""
    place = config["provider"]
    inside = place.get("use_internal_ips", False)
    inside = inside and not (head and place.get("use_external_head_ip", False))
    runner = provider.get_command_runner(
        "", node, config["auth"], config["cluster_name"], subprocess, inside, None
    )
    options = runner.ssh_options.to_ssh_options_list(timeout=15)
    return [*options, f"{runner.ssh_user}@{runner._get_ssh_target()}"]


def main() -> None:
    """Answer on standard output; what Ray has to say goes to standard error."""
    what, file = sys.argv[1:]
    answer: dict[str, Any]
    with contextlib.redirect_stdout(sys.stderr):
        try:
            answer = {"machines": machines(file, what == "ssh")}
        except BaseException as error:  # a cloud's packages raise what they like; so does click
            text = " ".join(str(error).split())
            answer = {"error": f"{type(error).__name__}: {text}" if text else ""}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
