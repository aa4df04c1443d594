//! How many connections each address has open: one client must not take the room of all.
//!
//! Invariant: an address is known for as long as it has a connection open, so there are never more entries than connections.
//! IPv6 goes by its /64, which is what one site is given. A proxy is one address, like any other.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Where a peer is, as far as limits go: an IPv4 address, or the /64 of an IPv6 address.
#[must_use]
pub fn place_of(peer: IpAddr) -> u64 {
    match peer.to_canonical() {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64 | 1 << 63,
    }
}

/// The open connections of one listener, by address. Its lock is never held for longer than a look-up.
#[derive(Debug)]
pub struct Peers {
    limit: usize,
    open: Mutex<HashMap<u64, usize, ahash::RandomState>>,
}

/// An open connection, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    peers: Arc<Peers>,
    place: u64,
}

impl Peers {
    /// At most `limit` connections an address; at least 1.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        assert!(limit > 0, "nobody could connect");
        Arc::new(Self { limit, open: Mutex::default() })
    }

    /// Counts a connection of `peer`. `None`: it has as many as it may.
    #[must_use]
    pub fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Seat> {
        let place = place_of(peer);
        let mut open = self.locked();
        let count = open.entry(place).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Seat { peers: Arc::clone(self), place })
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<u64, usize, ahash::RandomState>> {
        // Nothing can panic while it is held.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.peers.locked();
        if let Some(count) = open.get_mut(&self.place) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_has_its_share_and_gets_it_back() {
        let peers = Peers::new(2);
        let (first, _second) = (peers.enter(ip("192.0.2.1")).expect("one"), peers.enter(ip("192.0.2.1")).expect("two"));
        assert!(peers.enter(ip("::ffff:192.0.2.1")).is_none(), "a mapped address is the same");
        assert!(peers.enter(ip("192.0.2.2")).is_some(), "another address is not hindered");
        drop(first);
        assert!(peers.enter(ip("192.0.2.1")).is_some());
        assert_eq!(peers.locked().len(), 1, "whoever has none open is not known");
    }

    #[test]
    fn ipv6_goes_by_its_network() {
        let peers = Peers::new(1);
        let _seat = peers.enter(ip("2001:db8::1")).expect("one");
        assert!(peers.enter(ip("2001:db8::ffff")).is_none());
        assert!(peers.enter(ip("2001:db8:0:1::1")).is_some());
    }
}
