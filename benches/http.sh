#!/usr/bin/env bash
# A whole server under load, over loopback: axum without and with the layer, with the floors of such a layer and bare
# spawns beside it, and Starlette on uvicorn with its background tasks. Prints tables of ratios; see benches/load.py
# for how they are made.
#
#     benches/http.sh             # 9 rounds of 2 s for each variant: about five minutes
#     ROUNDS=15 SECONDS_EACH=5 benches/http.sh
#
# Installs wrk (Debian), and Starlette and uvicorn (PyPI, in a virtual environment in the target folder).
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v wrk >/dev/null; then
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends wrk >&2
fi

environment=${CARGO_TARGET_DIR:-target}/starlette
if [ ! -x "$environment/bin/uvicorn" ]; then
    python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet starlette uvicorn uvloop httptools
fi

server=$(cargo bench --quiet --all-features --bench server --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
exec python3 benches/load.py "$server" "$environment/bin/uvicorn"
