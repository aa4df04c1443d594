//! Idempotency keys that a shard remembers.
