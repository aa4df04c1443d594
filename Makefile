.PHONY: budgets demo fuzz peers runtimes test

demo:
	cargo run --release --bin ttdust -- demo

test:
	bash .ci/run

budgets:
	perf/instructions.sh

fuzz:
	tests/fuzz/run.sh

peers:
	bench/peers/run.sh

runtimes:
	bench/runtimes/run.sh
