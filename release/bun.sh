#!/bin/sh
# Bun, as contained in the executable next to this file: `./bun test test/unit`, `./bun run check:gpu`.
folder=$(cd "$(dirname "$0")" && pwd)
BUN_BE_BUN=1 PATH="$folder:$PATH" exec "$folder/grpo" "$@"
