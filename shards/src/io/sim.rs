//! A fake disk that loses unsynced writes, tears sectors and fails calls, and a fake clock.
