//! The real disk (blocking operations) and the real clock.
