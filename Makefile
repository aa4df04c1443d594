.PHONY: demo test

demo:
	cargo run --release --bin ttdust -- demo

test:
	bash .ci/run
