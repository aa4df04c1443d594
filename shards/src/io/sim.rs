//! A fake disk that loses unsynced writes, tears sectors and fails calls, and a fake clock. Both are deterministic.
//!
//! A file has what the kernel shows and what is on the medium; a write makes them differ sector by sector until a sync. When
//! the power goes, any of the sectors that differ may have reached the medium; when a process is killed, the kernel keeps what
//! it has. After a failed sync the kernel counts as clean what it failed to write, as Linux does: it goes on showing it until
//! it drops its cache. The same holds of names: one that is not synced may be gone after the power was.
//!
//! Every call is a number of steps, and a crash can be set at any of them: from there on every call fails, until
//! [`SimDisk::restart`]. Files that were opened before a restart fail for ever.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use super::{BLOCK_BYTES, Clock, Disk, DiskFile};

/// The unit that a write is torn at, in bytes.
pub const SECTOR_BYTES: usize = 512;

/// SplitMix64 (Steele et al., 2014): small, and the same everywhere.
#[derive(Debug, Clone)]
pub struct SimRng(u64);

impl SimRng {
    /// The generator with this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The power goes: what is not synced may be lost.
    Power,
    /// The process is killed: what the kernel has stays.
    Kill,
}

#[derive(Debug, Default)]
struct Node {
    shown: Vec<u8>,
    medium: Vec<u8>,
    /// Sectors that a sync would write.
    dirty: BTreeSet<usize>,
    /// Sectors that the kernel failed to write and counts as clean.
    lost: BTreeSet<usize>,
    /// Whether the medium knows the file's length; if not, it may be empty after the power was gone.
    sized: bool,
    /// Whether it was made empty, to be written at its end.
    grows: bool,
}

impl Node {
    fn write(&mut self, data: &[u8], offset: usize) {
        self.shown[offset..offset + data.len()].copy_from_slice(data);
        for sector in offset / SECTOR_BYTES..(offset + data.len()).div_ceil(SECTOR_BYTES) {
            self.dirty.insert(sector);
            self.lost.remove(&sector);
        }
    }

    fn persist(&mut self, sector: usize) {
        let start = sector * SECTOR_BYTES;
        let end = (start + SECTOR_BYTES).min(self.shown.len());
        self.medium[start..end].copy_from_slice(&self.shown[start..end]);
    }

    fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            self.persist(sector);
        }
        self.sized = true;
    }

    fn fail_to_sync(&mut self, rng: &mut SimRng) {
        for sector in std::mem::take(&mut self.dirty) {
            if rng.one_in(2) {
                self.persist(sector);
            } else {
                self.lost.insert(sector);
            }
        }
    }

    fn drop_cache(&mut self) {
        for sector in std::mem::take(&mut self.lost) {
            let start = sector * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(self.shown.len());
            self.shown[start..end].copy_from_slice(&self.medium[start..end]);
        }
    }

    fn lose_power(&mut self, rng: &mut SimRng) {
        let dirty = std::mem::take(&mut self.dirty);
        let prefix = rng.below(dirty.len() as u64 + 1) as usize;
        let manner = rng.below(4);
        for (index, sector) in dirty.into_iter().enumerate() {
            let reached = match manner {
                0 => false,
                1 => true,
                2 => index < prefix,
                _ => rng.one_in(2),
            };
            if reached {
                self.persist(sector);
            }
        }
        self.lost.clear();
        if !self.sized && rng.one_in(2) {
            self.medium.clear();
        }
        self.sized = true;
        self.shown.clone_from(&self.medium);
    }
}

#[derive(Debug)]
enum NameChange {
    Add(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Add(path, node) => {
                names.insert(path, node);
            }
            Self::Rename(from, to) => {
                if let Some(node) = names.remove(&from) {
                    names.insert(to, node);
                }
            }
            Self::Remove(path) => {
                names.remove(&path);
            }
        }
    }
}

#[derive(Debug)]
struct State {
    rng: SimRng,
    boot: u64,
    down: Option<Crash>,
    nodes: Vec<Node>,
    names: BTreeMap<PathBuf, usize>,
    synced_names: BTreeMap<PathBuf, usize>,
    pending_names: Vec<NameChange>,
    steps: u64,
    crash_at: Option<(u64, Crash)>,
    calls: u64,
    fail_at: Option<(u64, io::ErrorKind)>,
    lies_about_sync: bool,
    free_bytes: u64,
    trace: u64,
}

impl State {
    /// One step of a call, and the place where a crash may be.
    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        if let Some((at, crash)) = self.crash_at
            && self.steps >= at
        {
            self.crash_at = None;
            self.down = Some(crash);
        }
        match self.down {
            Some(_) => Err(io::Error::other("the simulated machine is down")),
            None => Ok(()),
        }
    }

    /// The beginning of a call: `Ok(true)` if it has to fail.
    fn call(&mut self, what: u64) -> io::Result<Option<io::Error>> {
        self.step()?;
        self.calls += 1;
        self.trace = mix(self.trace ^ mix(what.wrapping_add(self.calls)));
        let fails = self.fail_at.filter(|&(at, _)| self.calls >= at);
        if fails.is_some() {
            self.fail_at = None;
        }
        Ok(fails.map(|(_, kind)| io::Error::new(kind, "a simulated fault")))
    }

    fn plain_call(&mut self, what: u64) -> io::Result<()> {
        self.call(what)?.map_or(Ok(()), Err)
    }

    fn node_of(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Changes a name and syncs the directory.
    fn change_name(&mut self, now: NameChange, later: NameChange) -> io::Result<()> {
        now.apply(&mut self.names);
        self.pending_names.push(later);
        self.step()?;
        self.pending_names.clear();
        self.synced_names.clone_from(&self.names);
        Ok(())
    }
}

/// The fake disk. A clone is the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk, whose accidents follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: SimRng::new(seed),
            boot: 0,
            down: None,
            nodes: Vec::new(),
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            pending_names: Vec::new(),
            steps: 0,
            crash_at: None,
            calls: 0,
            fail_at: None,
            lies_about_sync: false,
            free_bytes: u64::MAX,
            trace: seed,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked has failed already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mutation that the tests must catch: durable writes are acknowledged without being made so.
    pub fn lie_about_sync(&self, lies: bool) {
        self.state().lies_about_sync = lies;
    }

    /// What [`Disk::free_bytes`] says from now on; files are made all the same.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.state().free_bytes = bytes;
    }

    /// Sets a crash at the `steps`-th step from now (1: the next).
    pub fn crash_after(&self, steps: u64, crash: Crash) {
        let mut state = self.state();
        state.crash_at = Some((state.steps + steps, crash));
    }

    /// Crashes now.
    pub fn crash(&self, crash: Crash) {
        self.state().down = Some(crash);
    }

    /// Makes the `calls`-th call from now (1: the next) fail. A write or sync that fails has an unknown outcome.
    pub fn fail_after(&self, calls: u64, kind: io::ErrorKind) {
        let mut state = self.state();
        state.fail_at = Some((state.calls + calls, kind));
    }

    /// Whether it is crashed.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.state().down.is_some()
    }

    /// How it crashed, if it is crashed.
    #[must_use]
    pub fn crash_kind(&self) -> Option<Crash> {
        self.state().down
    }

    /// Takes back the crash or fault that is set and has not come yet.
    pub fn clear_accidents(&self) {
        let mut state = self.state();
        (state.crash_at, state.fail_at) = (None, None);
    }

    /// Starts again after a crash, or ends a run without one. No crash or fault stays set.
    pub fn restart(&self) {
        let mut state = self.state();
        let state = &mut *state;
        if state.down.take() == Some(Crash::Power) {
            for node in &mut state.nodes {
                node.lose_power(&mut state.rng);
            }
            let reached = state.rng.below(state.pending_names.len() as u64 + 1) as usize;
            for change in state.pending_names.drain(..).take(reached) {
                change.apply(&mut state.synced_names);
            }
            state.names.clone_from(&state.synced_names);
        }
        state.boot += 1;
        state.crash_at = None;
        state.fail_at = None;
    }

    /// How many steps there were: to crash at each of them in turn.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    /// A number that stands for all calls so far, in their order.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.state().trace
    }

    /// What the kernel shows of a file.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(path).map(|&node| state.nodes[node].shown.clone())
    }

    /// Puts a file there, or other bytes into it, on the medium too: damage.
    pub fn set_contents(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.state();
        let node = match state.names.get(path) {
            Some(&node) => node,
            None => {
                let node = state.nodes.len();
                state.nodes.push(Node::default());
                state.names.insert(path.to_owned(), node);
                state.synced_names.insert(path.to_owned(), node);
                node
            }
        };
        state.nodes[node] = Node { medium: bytes.clone(), shown: bytes, sized: true, ..Node::default() };
    }

    /// Removes a file, on the medium too: damage.
    pub fn lose(&self, path: &Path) {
        let mut state = self.state();
        state.names.remove(path);
        state.synced_names.remove(path);
    }

    /// A number that stands for the file, whatever its name will be.
    #[must_use]
    pub fn node(&self, path: &Path) -> Option<usize> {
        self.state().names.get(path).copied()
    }

    /// The kernel finishes a write that a killed process had asked for.
    pub fn write_late(&self, node: usize, data: &[u8], offset: u64) {
        let node = &mut self.state().nodes[node];
        node.write(data, usize::try_from(offset).expect("simulated files are small"));
        node.sync();
    }

    fn handle(&self, node: usize) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), node, boot: self.state().boot })
    }
}

fn name_hash(path: &Path) -> u64 {
    path.as_os_str().as_encoded_bytes().iter().fold(17, |hash, &byte| mix(hash ^ u64::from(byte)))
}

impl Disk for SimDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        self.state().plain_call(1)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut state = self.state();
        state.plain_call(2)?;
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| path.file_name()).map(PathBuf::from).collect())
    }

    fn create(&self, path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.plain_call(3 ^ name_hash(path))?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let len = usize::try_from(len).expect("simulated files are small");
        let node = state.nodes.len();
        state.nodes.push(Node { shown: vec![0; len], medium: vec![0; len], grows: len == 0, ..Node::default() });
        state.names.insert(path.to_owned(), node);
        state.pending_names.push(NameChange::Add(path.to_owned(), node));
        state.step()?;
        state.nodes[node].sync();
        state.step()?;
        state.pending_names.clear();
        let names = state.names.clone();
        state.synced_names = names;
        drop(state);
        Ok(self.handle(node))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.plain_call(4 ^ name_hash(path))?;
        let node = state.node_of(path)?;
        drop(state);
        Ok(self.handle(node))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.plain_call(5 ^ name_hash(from) ^ name_hash(to).rotate_left(1))?;
        state.node_of(from)?;
        let change = || NameChange::Rename(from.to_owned(), to.to_owned());
        state.change_name(change(), change())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.plain_call(6 ^ name_hash(path))?;
        state.node_of(path)?;
        let change = || NameChange::Remove(path.to_owned());
        state.change_name(change(), change())
    }

    fn free_bytes(&self, _dir: &Path) -> u64 {
        self.state().free_bytes
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    node: usize,
    boot: u64,
}

impl SimFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.boot == self.boot { Ok(state) } else { Err(io::Error::other("the file was opened before a crash")) }
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.state()?;
        state.plain_call(7)?;
        Ok(state.nodes[self.node].shown.len() as u64)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state()?;
        state.plain_call(8 ^ offset << 8)?;
        let start = usize::try_from(offset).expect("simulated files are small");
        let bytes = state.nodes[self.node].shown.get(start..start + buf.len());
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_durable(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut guard = self.state()?;
        let state = &mut *guard;
        assert!(data.len().is_multiple_of(BLOCK_BYTES) && offset.is_multiple_of(BLOCK_BYTES as u64), "whole blocks");
        let fault = state.call(9 ^ offset << 8 ^ u64::from(crc32c::crc32c(data)) << 32)?;
        let start = usize::try_from(offset).expect("simulated files are small");
        let node = &mut state.nodes[self.node];
        if start + data.len() > node.shown.len() {
            if !node.grows || start > node.shown.len() {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            node.shown.resize(start + data.len(), 0);
            node.medium.resize(start + data.len(), 0);
            node.sized = false;
        }
        // A part of the sectors first: a crash now finds the write half done.
        let sectors = data.len() / SECTOR_BYTES;
        let half = state.rng.next_u64();
        for pass in [0, 1] {
            for sector in (0..sectors).filter(|sector| half >> (sector % 64) & 1 == pass) {
                let at = sector * SECTOR_BYTES;
                state.nodes[self.node].write(&data[at..at + SECTOR_BYTES], start + at);
            }
            if pass == 0 {
                state.step()?;
                if fault.is_some() && state.rng.one_in(3) {
                    break;
                }
            }
        }
        state.step()?;
        if let Some(fault) = fault {
            let State { nodes, rng, .. } = state;
            nodes[self.node].fail_to_sync(rng);
            return Err(fault);
        }
        if !state.lies_about_sync {
            state.nodes[self.node].sync();
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut guard = self.state()?;
        let state = &mut *guard;
        let fault = state.call(10)?;
        state.step()?;
        let State { nodes, rng, .. } = state;
        if let Some(fault) = fault {
            nodes[self.node].fail_to_sync(rng);
            return Err(fault);
        }
        nodes[self.node].sync();
        nodes[self.node].drop_cache();
        Ok(())
    }

    fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn writes_are_durable(&self) -> bool {
        false
    }
}

/// The fake clock: it stands still until it is told to go on. A clone is the same clock.
#[derive(Debug, Clone, Default)]
pub struct SimClock {
    wall: Arc<AtomicI64>,
    monotonic: Arc<AtomicU64>,
}

impl SimClock {
    /// A clock whose wall time is `unix_micros`.
    #[must_use]
    pub fn new(unix_micros: i64) -> Self {
        Self { wall: Arc::new(AtomicI64::new(unix_micros)), monotonic: Arc::default() }
    }

    /// Lets time pass.
    pub fn advance(&self, micros: u64) {
        self.monotonic.fetch_add(micros, Ordering::Relaxed);
        self.wall.fetch_add(micros.cast_signed(), Ordering::Relaxed);
    }

    /// Sets the wall clock forward or back, as an operator or NTP may.
    pub fn jump(&self, micros: i64) {
        self.wall.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn unix_micros(&self) -> i64 {
        self.wall.load(Ordering::Relaxed)
    }

    fn monotonic_micros(&self) -> u64 {
        self.monotonic.load(Ordering::Relaxed)
    }
}
