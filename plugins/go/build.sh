#!/bin/sh
# Builds every Go plugin below this directory into its own bin/. Needs no network: standard library only.
# Programs that are up to date are left alone. Without Go, it says so and succeeds: the other plugins do not need it.
set -eu
cd -- "$(dirname -- "$0")"

if ! command -v go >/dev/null; then
    echo 'go plugins: not built, there is no "go" in PATH'
    exit 0
fi

# CGO_ENABLED=0: a program that runs on any Linux of this architecture. The rest: no toolchain or module is fetched, and
# the surroundings of this directory (a workspace, a repository) do not affect the build.
export CGO_ENABLED=0 GOTOOLCHAIN=local GOPROXY=off GOWORK=off GOFLAGS=
umask 022

for manifest in */plugin.json; do
    plugin=${manifest%/plugin.json}
    (cd "$plugin" && go build -trimpath -buildvcs=false -o "bin/$plugin" .)
    echo "go plugins: $plugin/bin/$plugin is up to date"
done
