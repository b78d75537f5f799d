#!/bin/sh
# unpack [FOLDER]: extracts the program and its tests from the archive next to this file into FOLDER (default: ./grpo).
# It needs tar and xz, or just Python 3; no network, compiler or Bun. Afterwards, in FOLDER:
#   ./grpo train                                          any command
#   ./grpo check:gpu                                      the checks of this machine's GPU
#   ./bun test ./test/unit/loss.test.ts                   any test; those on emulated hardware need a C++ compiler
set -e
pack=$(cd "$(dirname "$0")" && pwd)
to=${1:-grpo}
mkdir -p "$to"
if command -v xz >/dev/null && command -v tar >/dev/null; then
  # Read everything once before writing: the shell sees only the last status of a pipe, and tar does not check.
  xz -t "$pack/grpo.tar.xz"
  xz -dc "$pack/grpo.tar.xz" | tar -x -o -C "$to"
elif command -v python3 >/dev/null && python3 -c 'import lzma' 2>/dev/null; then
  python3 - "$pack/grpo.tar.xz" "$to" <<'PYTHON'
import lzma, sys, tarfile
with lzma.open(sys.argv[1]) as whole:  # like xz -t: tarfile stops reading at the last file
    while whole.read(1 << 20):
        pass
with tarfile.open(sys.argv[1], "r|xz") as archive:
    try:
        archive.extractall(sys.argv[2], filter="tar")
    except TypeError:  # Python before 3.12, or before 3.8.17, 3.9.17, 3.10.12, 3.11.4
        archive.extractall(sys.argv[2])
PYTHON
else
  echo "unpack: neither xz with tar nor python3 with lzma runs here; install one (Debian, Ubuntu: apt-get install xz-utils)" >&2
  exit 1
fi
# Printing the version also shows that the executable is complete and runs here.
version=$("$to/grpo" --version)
echo "$to: $version"
