#!/usr/bin/env bash
# A world of its own: no network but a bridge with the laptop (10.0.0.1) on it, /tmp and /mnt that
# vanish with it. Run by `unshare --pid --net --mount --fork --mount-proc`; runs its arguments.
set -euo pipefail

ip link set lo up
ip link add cloud type bridge
ip address add 10.0.0.1/32 dev cloud
ip link set cloud up
ip route add default dev cloud src 10.0.0.1

mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/tmp /mnt/laptop/{tmp,work}
mount --bind /tmp /mnt/tmp
mount -t overlay overlay -o lowerdir=/mnt/tmp,upperdir=/mnt/laptop/tmp,workdir=/mnt/laptop/work /tmp
mkdir -p /tmp/ray
mount -t tmpfs tmpfs /tmp/ray
mount -t tmpfs tmpfs /run

exec "$@"
