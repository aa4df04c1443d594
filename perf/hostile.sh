# Scenarios of run-targets.sh, which sources this: floods of frames beside an honest load, more load than there is room for in a
# group of processes with limits, and hours of it with kills. It uses load, note, scrape and the server of its caller.
# shellcheck shell=bash

FLOOD_SECONDS=${FLOOD_SECONDS:-10}
FLOOD_LOAD=${FLOOD_LOAD:-20000}
OVERLOAD_SECONDS=${OVERLOAD_SECONDS:-60}
OVERLOAD_TIMES=${OVERLOAD_TIMES:-10}
OVERLOAD_MEMORY=${OVERLOAD_MEMORY:-4294967296}
OVERLOAD_CPU=${OVERLOAD_CPU:-20}
SOAK_SECONDS=${SOAK_SECONDS:-300}
SOAK_LOAD=${SOAK_LOAD:-20000}
SOAK_LIFE=${SOAK_LIFE:-120}
SOAK_EACH=${SOAK_EACH:-10}

rss() { awk '/^VmRSS:/ { print $2 * 1024 }' "/proc/$server_pid/status"; }

# Each flood beside an honest load at a steady rate, and that load alone just before it on the same server. The flood runs on the
# load's core, at the lowest priority, so that it takes from the server and not from the load.
run_floods() {
  local kind before kinds=(rapid-reset continuation settings ping empty-data window-update tiny-window slow-reader)
  local honest=(--method append --batch 16 --connections 4 --in-flight 64 --rate "$FLOOD_LOAD" --warmup 1s
    --duration "${FLOOD_SECONDS}s")
  fresh_server '[buffer]' 'memory_bytes = 33554432' 'freeze_bytes = 16777216'
  # What the server takes for itself it has then.
  load floods_first "${honest[@]}"
  for kind in "${kinds[@]}"; do
    load "floods_alone.$kind" "${honest[@]}"
    before=$(rss)
    nice -n 19 "$BENCH" flood --grpc "$grpc" --kind "$kind" --core "$LOAD_CORE" --duration "$((FLOOD_SECONDS + 2))s" -o json \
      >"$scratch/flood.json" 2>>"$out.txt" &
    local flooder=$!
    load "floods_beside.$kind" "${honest[@]}"
    wait "$flooder" || true
    [[ -s $scratch/flood.json ]] || die "the flood of $kind gave no report"
    note "floods_flood.$kind" "\"rss_before_bytes\": $before, \"flood\": $(cat "$scratch/flood.json")"
    cat "$scratch/flood.json" >>"$out.txt"
  done
}

# make_group: a group of processes with OVERLOAD_MEMORY bytes and OVERLOAD_CPU % of a core; sets groups, memory_group.
make_group() {
  [[ $(id -u) == 0 ]] || die "overload makes a cgroup: run it as root"
  local name=ttdust-perf-$$ v2=/sys/fs/cgroup
  if [[ -f $v2/cgroup.controllers ]]; then
    echo '+memory +cpu' >"$v2/cgroup.subtree_control" || die "the memory controller cannot be given to $v2"
    memory_group=$v2/$name
    mkdir "$memory_group"
    echo "$OVERLOAD_MEMORY" >"$memory_group/memory.max"
    echo "$((OVERLOAD_CPU * 1000)) 100000" >"$memory_group/cpu.max"
    groups=("$memory_group")
  else
    memory_group=$v2/memory/$name
    mkdir "$memory_group" "$v2/cpu/$name"
    echo "$OVERLOAD_MEMORY" >"$memory_group/memory.limit_in_bytes"
    echo 100000 >"$v2/cpu/$name/cpu.cfs_period_us"
    echo "$((OVERLOAD_CPU * 1000))" >"$v2/cpu/$name/cpu.cfs_quota_us"
    groups=("$memory_group" "$v2/cpu/$name")
  fi
}

# group_state: kills for want of memory, and the most that was used, page cache included.
group_state() {
  local kills peak
  if [[ -f $memory_group/memory.events ]]; then
    kills=$(awk '$1 == "oom_kill" { print $2 }' "$memory_group/memory.events")
    peak=$(cat "$memory_group/memory.peak" 2>/dev/null || cat "$memory_group/memory.current")
  else
    kills=$(awk '$1 == "oom_kill" { print $2 }' "$memory_group/memory.oom_control")
    peak=$(cat "$memory_group/memory.max_usage_in_bytes")
  fi
  echo "\"oom_kills\": ${kills:-0}, \"group_peak_bytes\": $peak"
}

# Many times what the server can take, in a group with a limit of memory and a part of a core, so that a generator on one core can
# offer that much. First what it can take; then the overload; then every acked record is read back.
run_overload() {
  local groups memory_group rate status=0
  make_group
  # Where it begins the server moves itself into the groups.
  server_env=(bash -c 'for group in $0; do echo $$ >"$group/cgroup.procs"; done; exec "$@"' "${groups[*]}")
  fresh_server "${everything_on[@]}" '[wal]' 'quota_bytes = 4294967296'
  load overload_capacity --method append --batch 100 --connections 4 --in-flight 16 --duration "${SECONDS_EACH}s"
  rate=$(python3 -c 'import json, sys
print(max(1, int(json.loads(open(sys.argv[1]).readlines()[-1])["records_per_second"] * float(sys.argv[2]))))' "$jsonl" "$OVERLOAD_TIMES")
  load overload --stream overload --method append --batch 100 --connections 64 --in-flight 64 --rate "$rate" \
    --duration "${OVERLOAD_SECONDS}s" --drain 60s --acked "$scratch/acked.json"
  local dead=0
  kill -0 "$server_pid" 2>/dev/null || dead=1
  note overload.end "\"times\": $OVERLOAD_TIMES, \"offered_per_second\": $rate, \"server_is_dead\": $dead, $(group_state)"
  "$BENCH" verify "$scratch/acked.json" --grpc "$grpc" >>"$out.txt" 2>&1 || status=$?
  # Once more after a crash: what was acked is on the disk too.
  stop_server KILL
  start_server "${everything_on[@]}" '[wal]' 'quota_bytes = 4294967296'
  local again=0
  "$BENCH" verify "$scratch/acked.json" --grpc "$grpc" >>"$out.txt" 2>&1 || again=$?
  note overload.verify "\"verify_exit\": $status, \"verify_after_kill_exit\": $again"
  stop_server
  server_env=()
  rmdir "${groups[@]}"
}

# soak_sample: age and total seconds, memory, descriptors, threads, bytes of the log.
soak_sample() {
  local age=$(($(date +%s) - soak_started)) at=$(($(date +%s) - soak_began)) of=/proc/$server_pid
  echo "[$at, $age, $(rss), $(find "$of/fd" -mindepth 1 | wc -l), $(find "$of/task" -mindepth 1 -maxdepth 1 | wc -l), $(scrape ttdust_wal_used_bytes)]"
}

# A steady load for SOAK_SECONDS, in which the server is killed after lives of about SOAK_LIFE seconds; with SOAK_POSTGRES=1 it has
# Postgres, which is away for a while in each life. After each life what was acked is read back.
run_soak() {
  local soak_began soak_started samples='' life ends round=0 status lost=0 loader
  local settings=("${everything_on[@]}" '[compaction]' 'min_age_ms = 10000')
  if [[ ${SOAK_POSTGRES:-0} == 1 ]]; then
    local postgres
    with_postgres
    settings+=("${postgres[@]}")
  fi
  fresh_server "${settings[@]}"
  soak_began=$(date +%s)
  soak_started=$soak_began
  while (($(date +%s) - soak_began < SOAK_SECONDS)); do
    round=$((round + 1))
    life=$((SOAK_LIFE / 2 + RANDOM % SOAK_LIFE))
    ends=$(($(date +%s) + life))
    ((ends <= soak_began + SOAK_SECONDS)) || ends=$((soak_began + SOAK_SECONDS))
    load "soak.$round" --stream "soak-$round" --method append --batch 100 --connections 4 --in-flight 64 --rate "$SOAK_LOAD" \
      --warmup 0s --duration 1h --acked "$scratch/acked.json" >>"$out.txt" &
    loader=$!
    while (($(date +%s) < ends)); do
      sleep "$((ends - $(date +%s) < SOAK_EACH ? 1 : SOAK_EACH))"
      samples+=", $(soak_sample)"
      if [[ ${SOAK_POSTGRES:-0} == 1 ]] && ((RANDOM % 6 == 0)); then
        "$root/tests/services.sh" halt postgres
        sleep 5
        "$root/tests/services.sh" resume postgres
      fi
    done
    kill -KILL "$server_pid"
    wait "$server_pid" 2>/dev/null || true
    server_pid=
    # It ends with errors: the server died under it.
    wait "$loader" || true
    start_server "${settings[@]}"
    soak_started=$(date +%s)
    status=0
    "$BENCH" verify "$scratch/acked.json" --grpc "$grpc" >>"$out.txt" 2>&1 || status=$?
    ((status == 0)) || lost=$((lost + 1))
    echo "done: soak, life $round, verify $status"
  done
  note soak.samples "\"lives\": $round, \"lives_with_losses\": $lost, \"of\": [\"at\", \"age\", \"rss_bytes\", \"descriptors\", \"threads\", \"wal_used_bytes\"], \"samples\": [${samples#, }]"
}
