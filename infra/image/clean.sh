#!/bin/bash
# Removes the image, its base, and all that an engine of `engine.sh` keeps.
set -euo pipefail

STATE=${FIRNLINE_DOCKER:-/var/lib/firnline-docker}
if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
  for name in "${IMAGE:-firnline:dev}" firnline-base:bookworm; do
    if docker image inspect "$name" >/dev/null 2>&1; then docker image rm "$name"; fi
  done
fi
if [ -d "$STATE" ]; then
  exec 9>/run/firnline-docker.lock
  flock -w 10 9 || { echo "an engine that runs now uses $STATE" >&2; exit 1; }
  rm -rf "$STATE"
  echo "removed $STATE"
fi
