.PHONY: budgets demo fuzz test

demo:
	cargo run --release --bin ttdust -- demo

test:
	bash .ci/run

budgets:
	perf/instructions.sh

fuzz:
	tests/fuzz/run.sh
