#!/usr/bin/env bash
# Counts the instructions that a record costs in parts of the engine, and compares them with perf/budgets.toml.
#
#   perf/instructions.sh [PART ...]      exit status 1: a part costs over 5% more than its budget
#   perf/instructions.sh --update        writes what was counted as the budgets
#
# Exit status 2: it could not be done. Needs valgrind (Debian's) and python3. Instructions, not time: the count hardly depends on the
# machine or on what else it does. Each part runs over N records and over 2 N; the difference is what N records cost, without the
# start. What would vary is pinned: valgrind shows a processor with AVX2 and without AVX-512, the C library copies memory in one way
# whatever the cache's size, and the allocator gives no memory back by the clock.
#
# Environment: BENCH (the binary; default: it is built here, as the profile `counts` says)
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
die() { echo "instructions: $*" >&2; exit 2; }
command -v valgrind >/dev/null || die "valgrind is needed: apt-get install valgrind"
grep -qw avx2 /proc/cpuinfo || die "this machine has no AVX2: its counts cannot be compared with the budgets"

update=()
if [[ ${1:-} == --update ]]; then update=(--update); shift; fi
parts=("$@")
((${#parts[@]})) || parts=(decode-append validate-flights validate-clicks wal tape pipeline parquet-flights parquet-clicks)

if [[ -z ${BENCH:-} ]]; then
  cargo build --locked --profile counts --package ttdust-bench --bin ttdust-bench
  BENCH=${CARGO_TARGET_DIR:-target}/counts/ttdust-bench
fi
[[ -x $BENCH ]] || die "$BENCH is not there"
scratch=$(mktemp -d "$root/target/instructions-XXXXXX")
trap 'rm -rf "$scratch"' EXIT

# count PART RECORDS: instructions of the whole run.
count() {
  env -i PATH="$PATH" TMPDIR="$scratch" MIMALLOC_PURGE_DELAY=-1 \
    GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=4294967296:glibc.cpu.x86_rep_stosb_threshold=4294967296:glibc.cpu.x86_non_temporal_threshold=4294967296 \
    valgrind --tool=callgrind --callgrind-out-file="$scratch/$1.$2" --log-file="$scratch/$1.$2.log" \
    "$BENCH" micro once "$1" --records "$2" >"$scratch/$1.$2.said" 2>&1 ||
    { cat "$scratch/$1.$2.said" "$scratch/$1.$2.log" >&2; die "$1 failed under valgrind"; }
  awk '/^(summary|totals):/ { print $2; exit }' "$scratch/$1.$2"
}

records=40000
for part in "${parts[@]}"; do
  # Both at once: what else the machine does changes no count.
  count "$part" $records >"$scratch/one" &
  two=$(count "$part" $((2 * records)))
  wait $!
  one=$(<"$scratch/one")
  [[ -n $one && -n $two ]] || die "valgrind counted nothing for $part"
  echo "$part $(((two - one) / records))"
done >"$scratch/counted"
python3 perf/budgets.py "${update[@]}" --compiler "$(rustc --version)" perf/budgets.toml "$scratch/counted"
