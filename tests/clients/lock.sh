#!/usr/bin/env bash
# Pins what the foreign clients and servers are made of, each folder on its own. Needs uv and npm. The locks name no
# index and no registry: pip and npm use whichever the machine is set up with.
set -eu
cd "$(dirname "$0")/.."
for folder in clients/*/ servers/*/; do
  if [ -f "$folder/requirements.in" ]; then
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
      --no-header --no-annotate --upgrade "$folder/requirements.in" -o "$folder/requirements.txt"
    sed -i '/:\/\//d' "$folder/requirements.txt" # comments that name an address
  elif [ -f "$folder/package.json" ]; then
    rm -f "$folder/package-lock.json"
    (cd "$folder" && npm install --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --no-audit --no-fund)
    # Funding notes are the only addresses left; npm ci does not read them.
    python3 - "$folder/package-lock.json" <<'PY'
import json
import pathlib
import sys

path = pathlib.Path(sys.argv[1])
lock = json.loads(path.read_text())
for package in lock["packages"].values():
    package.pop("funding", None)
path.write_text(json.dumps(lock, indent=2) + "\n")
PY
  fi
done
if grep -rn '://' clients/*/requirements.txt clients/*/package-lock.json servers/*/requirements.txt servers/*/package-lock.json; then
  echo "a lock names an address: the lines above" >&2
  exit 1
fi
