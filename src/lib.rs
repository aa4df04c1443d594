//! The server: composition, control plane and everything around the shard engine.
