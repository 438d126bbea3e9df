#!/bin/bash
# Makes the base image $1 of Debian's packages, where there is none: no registry is asked. As root, with debootstrap.
set -euo pipefail

NAME=$1
SUITE=bookworm
MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

if docker image inspect "$NAME" >/dev/null 2>&1; then
  exit 0
fi
if [ "$(id -u)" != 0 ]; then
  echo "the base image is made by debootstrap, as root; or name one of a registry: BASE=name@sha256:…" >&2
  exit 3
fi
if ! command -v debootstrap >/dev/null; then
  echo "installing debootstrap with apt-get"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap; } >/dev/null
fi

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
echo "making $NAME with debootstrap from $MIRROR"
debootstrap --variant=minbase --include=python3,ca-certificates "$SUITE" "$tree" "$MIRROR" >"$tree.log" 2>&1 ||
  { tail -5 "$tree.log" >&2; rm -f "$tree.log"; exit 3; }
rm -f "$tree.log"
rm -rf "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/* "$tree"/usr/share/{doc,man,info,locale} "$tree"/var/log/*
# Whoever made the tree left it a way to the network that is not the image's business.
rm -f "$tree/etc/resolv.conf" "$tree/etc/hostname"
tar -C "$tree" --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' --numeric-owner -c . |
  docker import --message "Debian $SUITE, minbase, python3, ca-certificates" - "$NAME" >/dev/null
