#!/bin/bash
# Runs a command with a Docker engine: engine.sh [--install | --kept] COMMAND…
#
# An engine that answers is used as it is. Else one is started for the command, as root, and ended with it. It needs no
# rights to the network's rules and gives containers no network but the host's; what it keeps is in $STATE, and nowhere
# else. --install: where there is no dockerd, Debian's docker.io comes by apt-get. --kept: one is started only if it keeps
# something already. Exits with 3 where no engine can be had, after saying why.
set -euo pipefail

STATE=${FIRNLINE_DOCKER:-/var/lib/firnline-docker}
RUN=/run/firnline-docker
SOCKET=unix://$RUN/docker.sock
WAIT_S=60

no_engine() {
  echo "no Docker engine: $1" >&2
  exit 3
}

install= kept=
case ${1:-} in
--install) install=yes && shift ;;
--kept) kept=yes && shift ;;
esac

if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
  exec "$@"
fi
[ "$(uname -s)" = Linux ] || no_engine "none answers, and one can be started on Linux only; start Docker, then try again"
[ -z "$kept" ] || [ -d "$STATE" ] || no_engine "none answers, and make image has not built anything here"
[ "$(id -u)" = 0 ] || no_engine "none answers, and only root can start one"
if ! command -v dockerd >/dev/null; then
  [ -n "$install" ] || no_engine "none answers, and dockerd is not installed; make image installs Debian's"
  command -v apt-get >/dev/null || no_engine "none answers, and without apt-get Debian's cannot be installed"
  echo "installing docker.io with apt-get"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker.io; } \
    >/dev/null || no_engine "apt-get could not install docker.io"
fi

mkdir -p "$STATE" "$RUN"
if [ -n "$install" ]; then echo "starting a Docker engine for this; what it keeps is in $STATE, until make image-clean"; fi
exec 9>"$RUN.lock"
flock -w 900 9 || no_engine "another command has used the one in $STATE for 15 minutes"

dockerd --iptables=false --ip6tables=false --bridge=none --data-root "$STATE" --exec-root "$RUN/exec" \
  --pidfile "$RUN/dockerd.pid" --host "$SOCKET" >"$RUN/dockerd.log" 2>&1 9>&- &
engine=$!

end() {
  kill "$engine" 2>/dev/null || true
  wait "$engine" 2>/dev/null || true
  awk -v under="$RUN/" 'index($2, under) == 1 { print $2 }' /proc/mounts | xargs -r umount
  rm -rf "$RUN"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

export DOCKER_HOST=$SOCKET
for _ in $(seq $((WAIT_S * 4))); do
  docker info >/dev/null 2>&1 && break
  kill -0 "$engine" 2>/dev/null || no_engine "dockerd ended: $(grep -v 'level=info' "$RUN/dockerd.log" | tail -3)"
  sleep 0.25
done
docker info >/dev/null 2>&1 || no_engine "dockerd did not answer within $WAIT_S s: $(tail -3 "$RUN/dockerd.log")"

"$@" 9>&-
