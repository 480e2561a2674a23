#!/usr/bin/env bash
# Puts uPlot, which draws the charts of the operators' page, into streamedge/page/vendor.
# Run it to change the version: set the two lines below, run, and commit what has changed.
# npm has to be installed; the files are used as they are, as an ES module.
set -euo pipefail
version=1.6.32
sha256=4b8a8191e425658e3ea8c8c1314b0fc679c861ee3a1af2b20c7b16ba50b5133d

target=$(cd "$(dirname "${BASH_SOURCE[0]}")/../streamedge/page/vendor" && pwd)
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
cd "$folder"
npm pack --silent "uplot@$version" >/dev/null
echo "$sha256  uplot-$version.tgz" | sha256sum --check --quiet
tar xzf "uplot-$version.tgz"
{ cat package/dist/uPlot.iife.min.js; printf 'export default uPlot;\n'; } >"$target/uplot.js"
cp package/dist/uPlot.min.css "$target/uplot.css"
cp package/LICENSE "$target/uplot.LICENSE"
