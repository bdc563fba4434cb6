#!/usr/bin/env bash
# Pins every dependency with hashes. The files name no index: pip uses whichever the machine is set up with.
set -eu
cd "$(dirname "$0")/.."
compile() { uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
  --no-header --no-annotate --allow-unsafe "$@"; }
compile pyproject.toml requirements/build.in --extra embedded -o requirements/run.txt
compile pyproject.toml requirements/build.in requirements/dev.in --extra embedded -c requirements/run.txt -o requirements/dev.txt
sed -i '/:\/\//d' requirements/run.txt requirements/dev.txt  # comments that name an address
