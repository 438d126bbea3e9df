#!/bin/bash
# Builds the image $IMAGE (firnline:dev) from this checkout, with the engine that answers (engine.sh), and says how
# large it is. BASE=name@sha256:…: on that image of a registry; else on Debian's packages (base.sh).
set -euo pipefail
cd "$(dirname "$0")/../.."

IMAGE=${IMAGE:-firnline:dev}
BASE=${BASE:-}
if [ -z "$BASE" ]; then
  BASE=firnline-base:bookworm
  infra/image/base.sh "$BASE"
elif [[ $BASE != *@sha256:* ]]; then
  echo "name the base image by its digest, as in BASE=python:3.11-slim-bookworm@sha256:…: BASE=$BASE" >&2
  exit 2
fi

# The client must know secrets of a build: an old one with BuildKit does, and a new one with the plugin buildx.
export DOCKER_BUILDKIT=1
client=
for each in $(type -ap docker | awk '!seen[$0]++'); do
  if [[ $("$each" build --help 2>&1) == *--secret* ]]; then
    client=$each
    break
  fi
done
[ -n "$client" ] || { echo "docker build knows no --secret: install the plugin buildx, or Debian's docker.io" >&2; exit 3; }

# Ways of this machine to the packages are secrets of the build: they are in no layer.
secrets=()
for certificates in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt; do
  if [ -f "$certificates" ]; then
    secrets+=(--secret "id=ca,src=$certificates")
    break
  fi
done
uv_config=${UV_CONFIG_FILE:-$HOME/.config/uv/uv.toml}
if [ -f "$uv_config" ]; then secrets+=(--secret "id=uv,src=$uv_config"); fi
proxies=()
for name in HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy; do
  if [ -n "${!name:-}" ]; then proxies+=(--build-arg "$name"); fi
done

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml | head -1)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
"$client" build --network host --progress plain --file infra/image/Dockerfile --tag "$IMAGE" \
  --build-arg "BASE=$BASE" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
  "${secrets[@]}" "${proxies[@]}" .

# What had the name before.
"$client" image prune --force --filter label=org.opencontainers.image.title=Firnline >/dev/null

echo "$IMAGE: $("$client" image inspect --format '{{.Size}}' "$IMAGE" | awk '{printf "%.0f MB", $1 / 1e6}'), by layer:"
"$client" history --no-trunc --format '{{.Size}}\t{{.CreatedBy}}' "$IMAGE" | grep -v '^0B' | cut -c1-110
