.PHONY: budgets demo test

demo:
	cargo run --release --bin ttdust -- demo

test:
	bash .ci/run

budgets:
	perf/instructions.sh
