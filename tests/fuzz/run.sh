#!/usr/bin/env bash
# Fuzzes: each target for FUZZ_SECONDS, one after the other. Inputs that are found go to target/fuzz/corpus/TARGET; what fails stays in
# target/fuzz/failed/TARGET and ends the run with 1, once all targets had their time. Prints a table, and leaves it in
# target/fuzz/table.txt.
#
#   tests/fuzz/run.sh [TARGET ...]         (default: all)
#   tests/fuzz/run.sh keep [TARGET ...]    takes the inputs that reach more code than those that are kept into tests/fuzz/corpus,
#                                          the smallest of them, within KEEP_FILES=250 and KEEP_BYTES=262144 a target
#   tests/fuzz/run.sh seeds                writes the inputs from sample data anew (needs target/venv: `make test` makes it)
#
# Environment: FUZZ_SECONDS=60 (the long run: 1800) · FUZZ_SANITIZER=none (address: with nightly or RUSTC_BOOTSTRAP=1) ·
# FUZZ_MEMORY_MB=2048 (more is a finding) · FUZZ_NICE=19
set -euo pipefail
cd "$(dirname "$0")/../.."

FUZZ_SECONDS=${FUZZ_SECONDS:-60}
FUZZ_SANITIZER=${FUZZ_SANITIZER:-none}
FUZZ_MEMORY_MB=${FUZZ_MEMORY_MB:-2048}
FUZZ_NICE=${FUZZ_NICE:-19}
KEEP_FILES=${KEEP_FILES:-250}
KEEP_BYTES=${KEEP_BYTES:-262144}
all=(wal grpc_messages grpc_connection json schema compatibility text import_lines import_csv import_parquet)
work=$PWD/target/fuzz
kept=$PWD/tests/fuzz/corpus

die() { echo "fuzz: $*" >&2; exit 2; }

# built TARGET...: the programs, in $bin.
built() {
  command -v cargo-fuzz >/dev/null || die "cargo-fuzz is needed: cargo install --locked cargo-fuzz"
  # The product's versions of everything; the fuzzer's own are pinned in its manifest.
  cp Cargo.lock tests/fuzz/Cargo.lock
  local target host
  host=$(rustc -vV | sed -n 's/^host: //p')
  # Without a sanitizer it builds on stable; what is unstable in the rest is asked for by name.
  for target in "$@"; do
    RUSTC_BOOTSTRAP=1 cargo fuzz build --fuzz-dir tests/fuzz --target-dir "$work/build" --sanitizer "$FUZZ_SANITIZER" "$target"
  done
  bin=$work/build/$host/release
}

options() {
  # Long inputs find little that short ones do not; a file of Parquet has a footer.
  case $1 in
    import_*) echo -max_len=16384 ;;
    compatibility) echo -max_len=2048 -dict=tests/fuzz/json-schema.dict ;;
    schema) echo -max_len=4096 -dict=tests/fuzz/json-schema.dict ;;
    json) echo -max_len=4096 -dict=tests/fuzz/json-schema.dict ;;
    wal) echo -max_len=32768 ;;
    *) echo -max_len=4096 ;;
  esac
}

fuzz() {
  built "$@"
  local target status failed=0 log
  mkdir -p "$work"
  printf '%-16s %8s %12s %10s %9s %9s  %s\n' target seconds executions 'per second' features corpus outcome >"$work/table.txt"
  for target in "$@"; do
    mkdir -p "$work/corpus/$target" "$work/failed/$target"
    log=$work/$target.log
    status=0
    # shellcheck disable=SC2046
    nice -n "$FUZZ_NICE" "$bin/$target" "$work/corpus/$target" "$kept/$target" -max_total_time="$FUZZ_SECONDS" -timeout=30 \
      -rss_limit_mb="$FUZZ_MEMORY_MB" -malloc_limit_mb=1024 -print_final_stats=1 -artifact_prefix="$work/failed/$target/" \
      -verbosity=1 $(options "$target") >"$log" 2>&1 || status=$?
    ((status == 0)) || failed=1
    awk -v target="$target" -v wanted="$FUZZ_SECONDS" -v status="$status" '
      /stat::number_of_executed_units/ { runs = $2 }
      /^Done/ { runs = $2; seconds = $5 }
      /ft: / { for (i = 1; i < NF; i++) { if ($i == "ft:") features = $(i + 1); if ($i == "corp:") corpus = $(i + 1) } }
      END {
        sub("/.*", "", corpus)
        if (seconds == "") seconds = wanted
        printf "%-16s %8d %12d %10.0f %9d %9d  %s\n", target, seconds, runs, runs / (seconds ? seconds : 1), features, corpus,
          status == 0 ? "nothing found" : "FAILED: see " target ".log"
      }' "$log" | tee -a "$work/table.txt"
  done
  return "$failed"
}

keep() {
  built "$@"
  local target more
  for target in "$@"; do
    more=$work/merged/$target
    rm -rf "$more"
    mkdir -p "$more" "$work/corpus/$target"
    # The kept ones first, so that each of them stays unless another does all that it did.
    # shellcheck disable=SC2046
    "$bin/$target" -merge=1 $(options "$target") "$more" "$kept/$target" "$work/corpus/$target" >"$work/$target.merge.log" 2>&1 ||
      die "the merge of $target failed: $work/$target.merge.log"
    python3 - "$more" "$kept/$target" "$KEEP_FILES" "$KEEP_BYTES" <<'PY'
import os, shutil, sys
merged, kept, files_max, bytes_max = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
mine = sorted(os.listdir(kept))
count, total = len(mine), sum(os.path.getsize(f"{kept}/{name}") for name in mine)
known = {open(f"{kept}/{name}", "rb").read() for name in mine}
for name in sorted(os.listdir(merged), key=lambda name: (os.path.getsize(f"{merged}/{name}"), name)):
    size = os.path.getsize(f"{merged}/{name}")
    if open(f"{merged}/{name}", "rb").read() in known:
        continue
    if count >= files_max or total + size > bytes_max:
        break
    shutil.copy(f"{merged}/{name}", f"{kept}/{name}")
    count, total = count + 1, total + size
print(f"{os.path.basename(kept)}: {count} inputs, {total} bytes")
PY
  done
}

case ${1:-} in
  seeds) exec target/venv/bin/python tests/fuzz/seeds.py "$kept" ;;
  keep) shift; (($#)) || set -- "${all[@]}"; keep "$@" ;;
  *) (($#)) || set -- "${all[@]}"; fuzz "$@" ;;
esac
