#!/bin/sh
# Bun, as the executable beside this file carries it: `./bun test test/unit`, `./bun run check:gpu`.
folder=$(cd "$(dirname "$0")" && pwd)
BUN_BE_BUN=1 PATH="$folder:$PATH" exec "$folder/grpo" "$@"
