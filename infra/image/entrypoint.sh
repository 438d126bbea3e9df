#!/bin/sh
# What the image runs, by its first argument:
#   firn …, python …             that program
#   serve …, worker …, wal …     a command of firn
#   service.aws.endpoint         a handler (two dots): AWS's runtime client, on Lambda or under its emulator
set -eu
if [ $# -eq 0 ]; then set -- --help; fi
case $1 in
*/*) exec "$@" ;;
[a-z]*.*.*)
  if [ -z "${AWS_LAMBDA_RUNTIME_API:-}" ]; then
    echo "the handler $1 runs on AWS Lambda or under its emulator: AWS_LAMBDA_RUNTIME_API is not set" >&2
    exit 2
  fi
  exec python -m awslambdaric "$@"
  ;;
esac
if command -v "$1" >/dev/null; then exec "$@"; fi
exec firn "$@"
