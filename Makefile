.PHONY: demo test

demo:
	cargo run --release -- demo

test:
	bash .ci/run
