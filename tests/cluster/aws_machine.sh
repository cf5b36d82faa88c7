#!/usr/bin/env bash
# One machine of the pretended cloud: namespaces of its own for network, processes and mounts, its
# own /tmp, home and shared memory, and sshd, which is what the launcher meets. It lives until the
# process that this becomes is killed, and everything on it dies at once, as with a spot machine.
#
# aws_machine.sh boot NAME PRIVATE_IP PUBLIC_IP PUBLIC_KEY_FILE PYTHON_PREFIX ENDPOINT
set -euo pipefail
step=$1 name=$2 private=$3 public=$4 key=$5 prefix=$6 endpoint=$7
disk=/mnt/$name

if [ "$step" = boot ]; then
  ip netns add "$name"
  ip link add "$name" type veth peer name eth0 netns "$name"
  ip link set "$name" master cloud up
  exec ip netns exec "$name" unshare --pid --mount --fork --mount-proc --kill-child \
    bash "$0" run "${@:2}"
fi

ip link set lo up
ip address add "$private/32" dev eth0
ip address add "$public/32" dev eth0
ip link set eth0 up
ip route add default dev eth0 src "$private"

mkdir -p "$disk"/{home/.ssh,home/.local/bin,tmp,work}
mount -t overlay overlay -o "lowerdir=/mnt/tmp,upperdir=$disk/tmp,workdir=$disk/work" /tmp
mkdir -p /tmp/ray
mount -t tmpfs tmpfs /tmp/ray
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd

# The user of the image, who is root here and stands first, so that ssh takes this for his home;
# nobody answers for names.
(echo "ubuntu:x:0:0::$disk/home:/bin/bash"; cat /etc/passwd) > "$disk/passwd"
mount --bind "$disk/passwd" /etc/passwd
echo 'nameserver 127.0.0.1' > "$disk/resolv.conf"
mount --bind "$disk/resolv.conf" /etc/resolv.conf

# The setup commands change Ray: a copy of what they change.
ray=$prefix/lib/python3.11/site-packages/ray/autoscaler/v2/instance_manager
cp -r "$ray" "$disk/instance_manager"
mount --bind "$disk/instance_manager" "$ray"

# uv, which installs nothing: the packages are those of the environment that runs the test.
cat > "$disk/home/.local/bin/uv" <<EOF
#!/usr/bin/env bash
echo "\$*" >> $disk/home/uv.log
if [ "\$1" = venv ]; then ln -s $prefix "\${@: -1}"; fi
EOF
chmod +x "$disk/home/.local/bin/uv"

# What AWS gives a machine: the rights of its instance profile, and where AWS is.
cat > "$disk/home/.bashrc" <<EOF
export AWS_ENDPOINT_URL=$endpoint AWS_ACCESS_KEY_ID=testing AWS_SECRET_ACCESS_KEY=testing
export AWS_DEFAULT_REGION=us-west-2 PYTHONDONTWRITEBYTECODE=1 RAY_prestart_worker_first_driver=0
EOF
cp "$key" "$disk/home/.ssh/authorized_keys"
ssh-keygen -q -t ed25519 -N '' -f "$disk/host_key"
/usr/sbin/sshd -D -e -f /dev/null -o Port=22 -o HostKey="$disk/host_key" -o UsePAM=no \
  -o PermitRootLogin=yes -o PasswordAuthentication=no -o StrictModes=no -o MaxStartups=100 \
  -o PidFile=none -o Subsystem="sftp internal-sftp" &
wait
