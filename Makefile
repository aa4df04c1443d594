.PHONY: budgets demo peers runtimes test

demo:
	cargo run --release --bin ttdust -- demo

test:
	bash .ci/run

budgets:
	perf/instructions.sh

peers:
	bench/peers/run.sh

runtimes:
	bench/runtimes/run.sh
