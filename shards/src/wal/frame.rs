//! Encode and decode of a frame: a header, entries, zeros up to a multiple of 4096.
