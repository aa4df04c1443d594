//! The target `import_csv`: what is done with an input, and what must hold, is in the entries.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| entries::import_csv(input));
