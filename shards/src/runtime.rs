//! Starts the shards: probes the I/O backend, recovers the logs, pins the threads, runs the loops.

mod tasks;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::{SocketAddr, TcpListener},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, atomic::AtomicUsize},
    thread::JoinHandle,
    time::Instant,
};

use compio_driver::DriverType;
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

use crate::{
    background,
    config::{EngineConfig, IoChoice},
    dedup::{
        fingerprint::Seeds,
        folder::{FolderError, OpenKeys},
        jobs::KeyJob,
    },
    ids::{ShardId, StreamId},
    io::{
        Disk,
        real::{RealDisk, SystemClock},
        uring,
    },
    mailbox::{self, MailboxSender},
    memory::Pool,
    message::{ToControl, ToShard},
    metrics::ShardMetrics,
    reactor::Reactor,
    shard::Shard,
    snapshot::CatalogSnapshot,
    threads,
    trace::{TraceStart, Tracer},
    wal::{
        Wal,
        batch::RowBatch,
        lock::LogLock,
        recovery::{self, LogEnd, Recovered, RecoveryError},
        segment::Segment,
    },
};

/// What the engine needs to start.
#[derive(Debug)]
pub struct EngineStart {
    /// Its configuration.
    pub config: EngineConfig,
    /// The catalog as it is now.
    pub catalog: Arc<CatalogSnapshot>,
    /// For each stream with committed files, the last sequence number in them.
    pub flushed_through: HashMap<StreamId, i64>,
    /// What becomes of rows in the log whose stream is not in the catalog.
    pub unknown_streams: UnknownStreams,
    /// Where the shards send to.
    pub to_control: mpsc::Sender<ToControl>,
    /// How connections are secured, until [`ToShard::Tls`] says otherwise; `None`: plain text, for good.
    pub tls: Option<Arc<ServerConfig>>,
    /// How requests are traced; `None`: none are.
    pub traces: Option<TraceStart>,
}

/// What becomes of rows in the log whose stream is not in the catalog. They are what was acked: a catalog that does not know
/// of them may be the wrong one.
#[derive(Debug)]
pub enum UnknownStreams {
    /// Rows of streams that were deleted, which these are, are let go; of others, the start is refused.
    Refuse {
        /// Streams that were deleted.
        deleted: HashSet<StreamId>,
    },
    /// They stay in the log for now: nobody can tell yet which streams were deleted.
    Keep,
    /// They are let go.
    Discard,
}

/// Why the engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A log cannot be used.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The idempotency keys cannot be used.
    #[error(transparent)]
    Keys(#[from] FolderError),
    /// The log and the catalog do not fit together.
    #[error(
        "stream {stream}: the log begins at record {log_begins}, but committed files end at {files_end}: the catalog is \
         older than the log; restore the catalog that belongs to this data directory"
    )]
    CatalogBehind {
        /// The stream.
        stream: StreamId,
        /// The first sequence number in the log.
        log_begins: i64,
        /// The last one in committed files.
        files_end: i64,
    },
    /// The log holds rows of a stream that nobody knows.
    #[error(
        "the log holds {records} records of stream {stream}, which the catalog does not know: start with the catalog that \
         belongs to this log (pg.host, data_dir); or, to give up such records for good, with \
         wal.unknown_streams = discard until the log has gone on past them"
    )]
    UnknownStream {
        /// The stream.
        stream: StreamId,
        /// How many of its records are in the log.
        records: u64,
    },
    /// The address cannot be listened on.
    #[error("cannot listen for gRPC on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// io_uring was demanded and does not work.
    #[error("io = \"uring\" was demanded, but {reason}; {remedy}; or set io = \"auto\"")]
    NoUring {
        /// What failed.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// A thread or directory could not be made.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// The backend that the shards run on, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoBackend {
    /// `uring` or `epoll`.
    pub kind: &'static str,
    /// Why, for people: `probe passed`, or what refused io_uring.
    pub reason: String,
}

/// What recovery found, over all shards.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecoverySummary {
    /// Records that are in no committed file.
    pub records: u64,
    /// Bytes of log read.
    pub bytes: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

/// The running shards.
#[derive(Debug)]
pub struct Engine {
    shards: Vec<Running>,
    grpc_address: SocketAddr,
    backend: IoBackend,
    recovery: RecoverySummary,
    _lock: LogLock,
}

#[derive(Debug)]
struct Running {
    mailbox: MailboxSender,
    metrics: Arc<ShardMetrics>,
    thread: JoinHandle<()>,
}

/// What one shard's thread is given.
struct ShardStart {
    id: ShardId,
    config: Arc<EngineConfig>,
    driver: DriverType,
    catalog: Arc<CatalogSnapshot>,
    flushed_through: HashMap<StreamId, i64>,
    listener: TcpListener,
    end: LogEnd,
    batches: Vec<RowBatch>,
    /// Segments of shards that are no more: a list a shard, oldest first.
    retired: Vec<VecDeque<Arc<Segment>>>,
    /// Segments that are not to be let go of.
    kept: Vec<Arc<Segment>>,
    metrics: Arc<ShardMetrics>,
    mailboxes: Vec<MailboxSender>,
    tail_pools: Vec<Arc<Pool>>,
    to_control: mpsc::Sender<ToControl>,
    tls: Option<Arc<ServerConfig>>,
    traces: Option<TraceStart>,
    disk: Arc<dyn Disk>,
    silent: Arc<Silent>,
    keys: OpenKeys,
}

impl Engine {
    /// Recovers the logs and starts the shards; returns when all of them listen. Blocking.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(start: EngineStart) -> Result<Self, StartError> {
        let config = Arc::new(start.config);
        let count = config.shard_cores.len();
        assert!(count > 0 && u16::try_from(count).is_ok(), "an engine has 1 to 65535 shards");
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::default());
        for dir in [&config.wal_dir, &config.staging_dir] {
            disk.create_dir(dir).map_err(system(|| format!("cannot make {}", dir.display())))?;
        }
        let in_use = || format!("cannot lock {}", config.wal_dir.display());
        let lock = LogLock::take(&config.wal_dir).map_err(system(in_use))?;
        let (driver, backend) = choose_backend(&*disk, &config)?;
        let began = Instant::now();
        let mut recovered = recover_all(&disk, &config.wal_dir)?;
        let keys = OpenKeys::open(&*disk, &config.wal_dir.join("keys"), Seeds::draw())?;
        let recovery = summarise(&recovered, &start.flushed_through, began);
        let mut kept = let_go_or_keep(&mut recovered, &start.catalog, &start.unknown_streams)?;
        let homes = distribute(&mut recovered, &start.catalog, &start.flushed_through, count)?;
        let (listeners, grpc_address) = listen(config.grpc_address, count)?;
        let mailboxes = (0..count)
            .map(|_| mailbox::channel())
            .collect::<Result<Vec<_>, _>>()
            .map_err(system(|| "cannot make an eventfd".to_owned()))?;
        let tail_pools: Vec<_> = (0..count).map(|_| Pool::new(config.tail_memory_bytes)).collect();
        let mut ends: BTreeMap<u16, LogEnd> = recovered.into_iter().map(|log| (log.shard.0, log.end)).collect();
        let silent = Arc::new(Silent { shards: count, silent: AtomicUsize::new(0) });
        let mut engine = Self { shards: Vec::new(), grpc_address, backend, recovery, _lock: lock };
        let (ready, started) = std::sync::mpsc::channel();
        for ((index, listener), batches) in listeners.into_iter().enumerate().zip(homes) {
            let id = ShardId(index as u16);
            let end = ends.remove(&id.0).unwrap_or_default();
            let retired = if index == 0 { retire(&mut ends, count) } else { Vec::new() };
            let flushed_through = at_home(&start.flushed_through, &start.catalog, id);
            let shard = ShardStart {
                id,
                config: Arc::clone(&config),
                driver,
                catalog: Arc::clone(&start.catalog),
                flushed_through,
                listener,
                end,
                batches,
                retired,
                kept: std::mem::take(&mut kept),
                metrics: Arc::default(),
                mailboxes: mailboxes.clone(),
                tail_pools: tail_pools.clone(),
                to_control: start.to_control.clone(),
                tls: start.tls.clone(),
                traces: start.traces.clone(),
                disk: Arc::clone(&disk),
                silent: Arc::clone(&silent),
                keys: keys.clone(),
            };
            engine.shards.push(spawn(shard, ready.clone())?);
        }
        drop(ready);
        for _ in 0..count {
            let outcome = started.recv().unwrap_or_else(|_| Err(std::io::Error::other("a shard's thread ended")));
            outcome.map_err(system(|| "a shard did not start".to_owned()))?;
        }
        Ok(engine)
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.shards.len() as u16
    }

    /// Sends to a shard; gives the message back when its queue is full. From any thread.
    ///
    /// # Errors
    /// The message, when the queue is full.
    #[allow(clippy::result_large_err, reason = "what was not taken goes back by value, and rarely")]
    pub fn send(&self, shard: ShardId, message: ToShard) -> Result<(), ToShard> {
        self.shards[shard.index()].mailbox.send(message)
    }

    /// The counters of a shard.
    #[must_use]
    pub fn metrics(&self, shard: ShardId) -> &Arc<ShardMetrics> {
        &self.shards[shard.index()].metrics
    }

    /// Where gRPC really listens (the port is chosen if the configured one is 0).
    #[must_use]
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// The I/O backend.
    #[must_use]
    pub fn backend(&self) -> &IoBackend {
        &self.backend
    }

    /// What recovery found.
    #[must_use]
    pub fn recovery(&self) -> RecoverySummary {
        self.recovery
    }

    /// Waits for the shards' threads to end (after [`ToShard::Drain`]). Blocking.
    pub fn join(self) {
        for shard in self.shards {
            // A panic was caught on the thread and told to control.
            let _ = shard.thread.join();
        }
    }
}

fn system(what: impl FnOnce() -> String) -> impl FnOnce(std::io::Error) -> StartError {
    |source| StartError::System { what: what(), source }
}

fn choose_backend(disk: &dyn Disk, config: &EngineConfig) -> Result<(DriverType, IoBackend), StartError> {
    let epoll = |reason: String| Ok((DriverType::Poll, IoBackend { kind: "epoll", reason }));
    if config.io == IoChoice::Epoll {
        return epoll("configured".to_owned());
    }
    match uring::probe(disk, &config.wal_dir) {
        Ok(()) => Ok((DriverType::IoUring, IoBackend { kind: "uring", reason: "probe passed".to_owned() })),
        Err(reason) if config.io == IoChoice::Auto => epoll(reason),
        Err(reason) => Err(StartError::NoUring { reason, remedy: uring::REMEDY.to_owned() }),
    }
}

/// The log folder of a shard.
fn log_dir(wal_dir: &Path, shard: ShardId) -> PathBuf {
    wal_dir.join(format!("shard-{:05}", shard.0))
}

/// Reads every log folder, those of shards that are no more too; one thread each.
fn recover_all(disk: &Arc<dyn Disk>, wal_dir: &Path) -> Result<Vec<Recovered>, StartError> {
    let entries = std::fs::read_dir(wal_dir).map_err(system(|| format!("cannot list {}", wal_dir.display())))?;
    let mut shards: Vec<ShardId> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("shard-")?.parse().ok().map(ShardId))
        .collect();
    shards.sort_unstable();
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = shards
            .iter()
            .map(|&shard| scope.spawn(move || recovery::recover(&**disk, &log_dir(wal_dir, shard), shard)))
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let mut recovered = Vec::new();
    for outcome in outcomes {
        let log = outcome.map_err(|_| system(|| "recovery".to_owned())(std::io::Error::other("panicked")))??;
        if let Some(cut) = &log.truncated {
            tracing::warn!(shard = %log.shard, %cut, "a torn tail was cut off: it was never acked");
        }
        recovered.push(log);
    }
    Ok(recovered)
}

fn summarise(logs: &[Recovered], flushed_through: &HashMap<StreamId, i64>, began: Instant) -> RecoverySummary {
    let unflushed = |batch: &RowBatch| {
        let header = batch.header();
        let flushed = flushed_through.get(&header.stream).copied().unwrap_or(0);
        (header.last_sequence() - flushed.max(header.first_sequence - 1)).max(0) as u64
    };
    RecoverySummary {
        records: logs.iter().flat_map(|log| &log.batches).map(unflushed).sum(),
        bytes: logs.iter().map(|log| log.bytes_read).sum(),
        millis: began.elapsed().as_millis() as u64,
    }
}

/// Decides on rows whose stream is not in the catalog; the segments of those that stay.
fn let_go_or_keep(
    logs: &mut [Recovered],
    catalog: &CatalogSnapshot,
    unknown: &UnknownStreams,
) -> Result<Vec<Arc<Segment>>, StartError> {
    let mut kept: Vec<Arc<Segment>> = Vec::new();
    let mut strangers: BTreeMap<StreamId, u64> = BTreeMap::new();
    for batch in logs.iter().flat_map(|log| &log.batches) {
        let header = batch.header();
        if catalog.stream(header.stream).is_some() {
            continue;
        }
        match unknown {
            UnknownStreams::Refuse { deleted } if deleted.contains(&header.stream) => {}
            UnknownStreams::Refuse { .. } | UnknownStreams::Discard => {
                *strangers.entry(header.stream).or_default() += u64::from(header.count);
            }
            UnknownStreams::Keep if kept.last().is_some_and(|last| Arc::ptr_eq(last, batch.segment())) => {}
            UnknownStreams::Keep => kept.push(Arc::clone(batch.segment())),
        }
    }
    if !kept.is_empty() {
        tracing::warn!(
            segments = kept.len(),
            "the log holds records of streams that the catalog's mirror does not know: kept"
        );
    }
    for (stream, records) in strangers {
        if matches!(unknown, UnknownStreams::Refuse { .. }) {
            return Err(StartError::UnknownStream { stream, records });
        }
        tracing::warn!(%stream, records, "records of a stream that the catalog does not know are discarded, as configured");
    }
    Ok(kept)
}

/// Gives each recovered batch to the shard that owns its stream now, in the order of the sequence numbers.
fn distribute(
    logs: &mut [Recovered],
    catalog: &CatalogSnapshot,
    flushed_through: &HashMap<StreamId, i64>,
    count: usize,
) -> Result<Vec<Vec<RowBatch>>, StartError> {
    let mut homes = vec![Vec::new(); count];
    for batch in logs.iter_mut().flat_map(|log| log.batches.drain(..)) {
        // What is to be made of a stream that is not in the catalog was decided before.
        if let Some(stream) = catalog.stream(batch.header().stream) {
            homes[stream.home.index()].push(batch);
        }
    }
    for batches in &mut homes {
        batches.sort_by_key(|batch: &RowBatch| (batch.header().stream, batch.header().first_sequence));
        let mut last: Option<(StreamId, i64)> = None;
        for batch in batches {
            let header = batch.header();
            let files_end = flushed_through.get(&header.stream).copied().unwrap_or(0);
            let end =
                last.filter(|(stream, _)| *stream == header.stream).map_or(files_end, |(_, end)| end.max(files_end));
            if header.first_sequence > end + 1 {
                let log_begins = header.first_sequence;
                return Err(StartError::CatalogBehind { stream: header.stream, log_begins, files_end: end });
            }
            // An entry without records ends before it begins.
            last = Some((header.stream, header.last_sequence().max(end)));
        }
    }
    Ok(homes)
}

/// The segments of shards past `count`: kept until their rows are in files.
fn retire(ends: &mut BTreeMap<u16, LogEnd>, count: usize) -> Vec<VecDeque<Arc<Segment>>> {
    let segments = |end: LogEnd| end.segments.into_iter().map(|sealed| sealed.segment).collect();
    ends.split_off(&(count as u16)).into_values().map(segments).collect()
}

fn at_home(flushed: &HashMap<StreamId, i64>, catalog: &CatalogSnapshot, id: ShardId) -> HashMap<StreamId, i64> {
    let here = |stream: StreamId| catalog.stream(stream).is_some_and(|stream| stream.home == id);
    flushed.iter().filter(|(stream, _)| here(**stream)).map(|(&stream, &through)| (stream, through)).collect()
}

/// One listener a shard, all on the same address: the kernel spreads connections over them.
fn listen(address: SocketAddr, count: usize) -> Result<(Vec<TcpListener>, SocketAddr), StartError> {
    const BACKLOG: i32 = 1024;
    let mut address = address;
    let mut bind = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from(socket);
        // The first one chooses the port if none is configured; the others follow it.
        address = listener.local_addr()?;
        Ok(listener)
    };
    let listeners: std::io::Result<Vec<_>> = (0..count).map(|_| bind()).collect();
    match listeners {
        Ok(listeners) => Ok((listeners, address)),
        Err(source) => Err(StartError::Listen { address, source }),
    }
}

fn spawn(start: ShardStart, ready: std::sync::mpsc::Sender<std::io::Result<()>>) -> Result<Running, StartError> {
    let (id, metrics) = (start.id, Arc::clone(&start.metrics));
    let mailbox = start.mailboxes[id.index()].clone();
    let to_control = start.to_control.clone();
    let thread = std::thread::Builder::new()
        .name(format!("shard-{id}"))
        .spawn(move || {
            // Control is gone only when the process ends anyway.
            let tell = |outcome| drop(to_control.blocking_send(ToControl::ShardEnded(id, outcome)));
            if catch_unwind(AssertUnwindSafe(|| run(start, &ready, &tell))).is_err() {
                tell(Err("the shard's thread panicked".to_owned()));
            }
        })
        .map_err(system(|| format!("cannot start shard {id}")))?;
    Ok(Running { mailbox, metrics, thread })
}

/// A shard's thread, from start to end. What comes of it is told before anything is waited for: the helper threads may be at
/// a sick disk.
fn run(start: ShardStart, ready: &std::sync::mpsc::Sender<std::io::Result<()>>, tell: &dyn Fn(Result<(), String>)) {
    // It keeps the system's turns: with shorter ones it would be over its turn at most of the scheduler's ticks, and whoever
    // else wants the core would have it until the next.
    let built = threads::pin(start.config.shard_cores[start.id.index()].as_slice())
        .and_then(|()| uring::build_runtime(start.driver))
        .and_then(|runtime| Ok((runtime, build(start)?)));
    let (runtime, parts) = match built {
        Ok(built) => built,
        Err(error) => {
            let reason = error.to_string();
            // The receiver is gone only when another shard failed first.
            let _ = ready.send(Err(error));
            return tell(Err(reason));
        }
    };
    tell(runtime.block_on(tasks::run(parts, ready)));
}

/// What a shard's loops need.
struct Parts {
    reactor: Rc<Reactor>,
    driver: DriverType,
    /// Taken by the loop that accepts: when that ends, nobody listens.
    listener: Option<TcpListener>,
    mailbox: MailboxSender,
    flusher: background::Helper<background::FlushJob>,
    key_keeper: background::Helper<KeyJob>,
    key_merger: background::Helper<KeyJob>,
    preparer: background::Helper<background::DiskJob>,
    retired: Vec<VecDeque<Arc<Segment>>>,
    staging_dir: PathBuf,
    archive: bool,
    silent: Arc<Silent>,
    /// See [`UnknownStreams::Keep`]: who holds a segment keeps it from being released.
    _kept: Vec<Arc<Segment>>,
}

/// How many shards of how many have no more calls in a drain: the others may still send them records.
#[derive(Debug)]
struct Silent {
    shards: usize,
    silent: AtomicUsize,
}

/// Where the helpers of shard `id` may run; empty: the shard is not pinned.
fn helper_cores(config: &EngineConfig, id: ShardId) -> Vec<usize> {
    let Some(own) = config.shard_cores[id.index()] else { return Vec::new() };
    [own].into_iter().chain(config.helper_cores.iter().copied()).collect()
}

fn build(start: ShardStart) -> std::io::Result<Parts> {
    let ShardStart { id, config, disk, keys, metrics, to_control, .. } = start;
    let mailbox = start.mailboxes[id.index()].clone();
    let dir = log_dir(&config.wal_dir, id);
    disk.create_dir(&dir)?;
    let clock = Arc::new(SystemClock::new());
    let catalog = Arc::clone(&start.catalog);
    let is_home = |stream| catalog.stream(stream).is_some_and(|stream| stream.home == id);
    let mut wal = Wal::new(id, config.wal, start.end);
    wal.learn_free_bytes(disk.free_bytes(&dir));
    let shard =
        Shard::new(id, &config, wal, (start.batches, &start.flushed_through), (&*disk, &keys, &is_home), clock)?;
    let cores = helper_cores(&config, id);
    let keeper =
        |name| background::start_keeper(name, id, cores.clone(), keys.dir.clone(), Arc::clone(&disk), mailbox.clone());
    let (key_keeper, key_merger) = (keeper("keep-keys")?, keeper("merge-keys")?);
    let key_reader = background::start_key_reader(id, mailbox.clone())?;
    let preparer = background::start_preparer(id, cores.clone(), dir, Arc::clone(&disk), mailbox.clone())?;
    let flusher = background::start_flusher(id, cores, mailbox.clone(), to_control.clone(), Arc::clone(&metrics))?;
    if id == ShardId(0) {
        metrics.dedup_damaged.add(keys.damaged);
    }
    let others = (start.mailboxes, start.tail_pools);
    let to_control = (to_control, Tracer::new(start.traces));
    let reactor = Reactor::new(id, config.limits, shard, metrics, others, to_control, key_reader);
    reactor.set_catalog(start.catalog);
    if let Some(config) = start.tls {
        reactor.set_tls(config);
    }
    Ok(Parts {
        reactor: Rc::new(reactor),
        driver: start.driver,
        listener: Some(start.listener),
        mailbox,
        flusher,
        key_keeper,
        key_merger,
        preparer,
        retired: start.retired,
        staging_dir: config.staging_dir.clone(),
        archive: config.wal.archive,
        silent: start.silent,
        _kept: start.kept,
    })
}
