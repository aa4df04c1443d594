//! Rows by stream: filling, frozen, being flushed.
