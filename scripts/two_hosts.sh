#!/usr/bin/env bash
# Runs a command on host "a" of two hosts, "a" and "b", that have a network between them and nothing else of each other's
# but the file system: network and host name spaces of this machine, so that what spans several hosts can be tried on one.
#
#   scripts/two_hosts.sh mpirun --host a,b -n 2 winnow run -m MODEL -p TEXT
#
# mpirun finds its way to b (nsenter in place of ssh) and its processes talk over TCP alone. Nothing is left when the
# command has ended. Exit code: the command's, or 77 where the system does not let this user make such spaces.
set -euo pipefail
if [[ -z "${WINNOW_TWO_HOSTS:-}" ]]; then
  spaces=(unshare --map-root-user --net --uts --mount --pid --fork --mount-proc)
  "${spaces[@]}" sh -c 'hostname a && ip link set lo up' 2>/dev/null || { echo "two_hosts.sh: no name spaces here" >&2; exit 77; }
  WINNOW_TWO_HOSTS=1 exec "${spaces[@]}" "$0" "$@"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '127.0.0.1 localhost\n10.9.0.1 a\n10.9.0.2 b\n' >"$work/hosts"
mount --bind "$work/hosts" /etc/hosts
hostname a
unshare --net --uts sleep infinity &
b=$!
for space in net uts; do
  while [[ "$(readlink /proc/$b/ns/$space)" == "$(readlink /proc/self/ns/$space)" ]]; do sleep 0.01; done
done
ip link add to_b type veth peer name to_a netns "$b"
ip addr add 10.9.0.1/24 dev to_b
ip link set to_b up
ip link set lo up
nsenter -t "$b" -n -u sh -c 'hostname b; ip addr add 10.9.0.2/24 dev to_a; ip link set to_a up; ip link set lo up'

cat >"$work/rsh" <<END
#!/bin/sh
# HOST COMMAND..., as mpirun calls ssh
shift
exec nsenter -t $b -n -u sh -c "\$*"
END
chmod +x "$work/rsh"
export OMPI_MCA_plm_rsh_agent=$work/rsh OMPI_MCA_btl=tcp,self OMPI_MCA_btl_tcp_if_include=10.9.0.0/24
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
"$@"
