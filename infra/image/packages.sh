#!/bin/sh
# Installs what uv.lock pins into $UV_PROJECT_ENVIRONMENT: what the four roles need, with AWS's runtime client, and no tests.
set -eu
if [ -f /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi
if [ -f /run/secrets/uv ]; then export UV_CONFIG_FILE=/run/secrets/uv; fi
python=$(command -v python3.11)

extras=""
for extra in s3 etcd iceberg iceberg-catalogs delta kernels functions otel server lambda client cli; do
  extras="$extras --extra $extra"
done
# shellcheck disable=SC2086
uv sync --frozen --quiet --no-dev --no-install-project --python "$python" $extras

# Packages bring their own tests, headers and static libraries.
cd "$UV_PROJECT_ENVIRONMENT/lib/python3.11/site-packages"
rm -rf numba/tests numba/cuda/tests pyarrow/tests pyarrow/include pyarrow/src
find . -type d \( -name tests -o -name test \) -path './numpy/*' -prune -exec rm -r {} +
find . -name '*.a' -o -name '*.pxd' -o -name '*.pyx' -o -name '*.pyi' | xargs rm -f

# Names for debuggers take a tenth of the room. Not of every library: what auditwheel has changed is not loaded after it.
for large in llvmlite/binding/libllvmlite.so pyarrow/libarrow*.so.* pyarrow/libparquet.so.* obstore/*.so uvloop/*.so \
  zstandard/*.so pyroaring*.so fastavro/*.so; do
  strip --strip-unneeded "$large"
done
