//! The server's life: lock, recover, serve, drain. Only orders the parts.
//!
//! Order of the start: data directory → catalog → snapshot → shards (they recover and listen) → REST → ready. Order of the
//! end: not ready → shards drain → REST ends → the process. A shard that fails ends the process with an error; so does a
//! drain that takes too long.

mod inbox;
mod manager;
mod reload;
mod stalls;
mod stop;

use std::{
    collections::HashMap,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    net::TcpListener,
    runtime,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use ttdust_shards::{
    ids::ShardId,
    runtime::{Engine, EngineStart, StartError, UnknownStreams},
    threads::{Turns, pin, take},
    trace::TraceStart,
};

use crate::{
    access::tokens::TokenKeyError,
    archive::{ArchiveError, ArchiveParts, ArchiveQueue, Archiver},
    catalog::{Catalog, CatalogError, CatalogPlace, Known},
    config::{AuthMode, Config, ServiceManager, UnknownStreamsPolicy},
    control::{Control, ControlError, Parts},
    coordination::{Coordinator, redis::SharedLedger},
    data_dir::{DataDir, DataDirError},
    dead_letters::DeadLetters,
    file_lists::FileLists,
    flush::{Flusher, Takeover, TakeoverPending},
    http::{self, App, ConnectionLimits},
    imports::{ImportParts, Imports},
    link::{Homes, ShardLink},
    metrics::{ControlMetrics, Exposition},
    objects::{ObjectError, Objects, clean_staging},
    otlp::{Exporter, ExporterEnd},
    producer::Producer,
    publish::{Checks, PublishError, Publisher},
    query::{Queries, QueryLimits, QueryParts},
    shared_cache::SharedCache,
    tails::Tails,
    telemetry::Level,
    tls::{Identity, TlsError},
    traces::Traces,
    upkeep::Upkeep,
    workers::Workers,
};
use inbox::{Inbox, ShardEnd};
use manager::Manager;

/// Messages of all shards that wait for control.
const INBOX: usize = 4096;
/// Changes of settings that wait.
const RELOADS: usize = 16;
/// Threads that check records of REST, where there are too many for the control runtime, and requests that may wait for them.
const CHECKERS: (usize, usize) = (2, 256);
/// By how much imports come after all else, on the scale of `nice`.
const IMPORT_NICE: i32 = 10;
/// What may wait for one of their threads: as much as there are of them.
const IMPORTS_WAITING: usize = 16;
/// Threads that move objects and check directories.
const BLOCKING_THREADS: usize = 4;
/// Between tries to make an admin's key while the catalog is away.
const BOOTSTRAP_PAUSE: Duration = Duration::from_secs(2);
/// How long tasks may take to notice the end of the runtime.
const RUNTIME_END: Duration = Duration::from_secs(1);

/// Why the server did not start, or ended badly.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each variant is the failure of the part that it names.
pub enum ServeError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Tokens(#[from] TokenKeyError),
    #[error(transparent)]
    Objects(#[from] ObjectError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Engine(#[from] StartError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("otlp.endpoint: {0}")]
    Traces(#[source] TlsError),
    #[error("redis.url: {0}")]
    Redis(#[from] redis::RedisError),
    #[error("cannot listen for REST on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("{what}: {source}")]
    System { what: &'static str, source: io::Error },
    #[error("shard {0} ended: {1}")]
    Shard(ShardId, String),
    #[error("the shards did not drain in {0:?} (shutdown_timeout); what was acked is in the log")]
    DrainTimeout(Duration),
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::System { what, source }
}

/// Serves until a signal ends it. Blocking. With `port_file`, writes the addresses there, as JSON, once it is ready.
///
/// # Errors
/// See [`ServeError`]; the process should exit non-zero.
pub fn serve(config: Config, level: Level, port_file: Option<&Path>) -> Result<(), ServeError> {
    let _locked = DataDir::lock(&config.settings().data_dir)?;
    // Threads that are started later are on the same cores and take the same turns, until they set it for themselves.
    take(Turns::Prompt);
    if let Err(error) = pin(&config.control_cores) {
        tracing::warn!(cores = ?config.control_cores, %error, "the control plane is not pinned");
    }
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .on_thread_start(|| take(Turns::Steady))
        .build()
        .map_err(system("cannot start the control runtime"))?;
    let ended = runtime.block_on(async {
        let server = Server::start(Arc::new(config), level, port_file).await?;
        server.run().await
    });
    runtime.shutdown_timeout(RUNTIME_END);
    // The tasks that shared it are gone with the runtime.
    if let Some(engine) = Arc::into_inner(ended?) {
        engine.join();
    }
    Ok(())
}

/// The running server.
struct Server {
    config: Arc<Config>,
    engine: Arc<Engine>,
    link: ShardLink,
    control: Arc<Control>,
    signals: stop::Signals,
    ended: mpsc::Receiver<ShardEnd>,
    data: DataPaths,
    stop_http: watch::Sender<bool>,
    http: JoinHandle<()>,
    exporter: Option<ExporterEnd>,
}

/// What stands before the shards do.
struct Base {
    catalog: Catalog,
    objects: Objects,
    workers: Workers,
    publisher: Arc<Publisher>,
    metrics: Arc<ControlMetrics>,
    known: Known,
    traced: Tracing,
}

/// Where traces go. All of it is nothing where none are wanted.
#[derive(Default)]
struct Tracing {
    traces: Traces,
    /// For the shards.
    start: Option<TraceStart>,
    exporter: Option<ExporterEnd>,
}

impl Base {
    async fn open(config: &Config) -> Result<Self, ServeError> {
        let settings = config.settings();
        let cleaned = clean_staging(&config.engine.staging_dir)?;
        if cleaned > 0 {
            tracing::info!(files = cleaned, "removed staged files of an earlier run; their rows are in the log");
        }
        let metrics = Arc::<ControlMetrics>::default();
        let traced = start_traces(config, &metrics)?;
        let catalog = Catalog::open(&CatalogPlace::of(config), metrics.postgres()).await?;
        catalog.claim(&node_name(&settings.data_dir)).await?;
        let objects = Objects::open(config, metrics.s3()).await?;
        let workers = Workers::start("worker", settings.query_workers, settings.query_queue, &config.control_cores)
            .map_err(system("cannot start the workers"))?;
        let shards = u16::try_from(config.engine.shard_cores.len()).expect("the configuration bounds it");
        let homes = Homes::new(&settings.pins, shards);
        let checks = Checks::load(settings)?;
        let publisher = Arc::new(Publisher::new(catalog.clone(), workers.clone(), homes, config.auth, checks));
        publisher.set_rates(settings.rate_limits());
        let known = catalog.last_known().await?;
        if known.mirrored {
            tracing::warn!(
                "the catalog cannot be reached: starting from its mirror; changes are refused until it is back"
            );
        }
        publisher.put_in_force(&known.everything).await?;
        Ok(Self { catalog, objects, workers, publisher, metrics, known, traced })
    }

    /// Recovers the logs and starts the shards.
    async fn start_engine(
        &self,
        config: &Config,
        tls: Option<Arc<ServerConfig>>,
    ) -> Result<(Arc<Engine>, mpsc::Receiver<Message>), ServeError> {
        let (to_control, inbox) = mpsc::channel(INBOX);
        let streams = &self.known.everything.streams;
        let flushed_through: HashMap<_, _> =
            streams.iter().filter(|s| s.flushed_through > 0).map(|s| (s.id, s.flushed_through)).collect();
        let start = EngineStart {
            config: config.engine.clone(),
            catalog: self.publisher.current(),
            flushed_through,
            unknown_streams: self.unknown_streams(config).await?,
            to_control,
            tls,
            traces: self.traced.start.clone(),
        };
        // On a thread that may block, so that a signal still ends a long recovery.
        let started = tokio::task::spawn_blocking(move || Engine::start(start)).await;
        let engine = started.map_err(|e| system("cannot start the shards")(io::Error::other(e)))??;
        Ok((Arc::new(engine), inbox))
    }
}

impl Base {
    async fn unknown_streams(&self, config: &Config) -> Result<UnknownStreams, ServeError> {
        Ok(match config.settings().wal_unknown_streams {
            UnknownStreamsPolicy::Discard => UnknownStreams::Discard,
            // Only the catalog itself knows what was deleted.
            UnknownStreamsPolicy::Refuse if self.known.mirrored => UnknownStreams::Keep,
            UnknownStreamsPolicy::Refuse => UnknownStreams::Refuse { deleted: self.catalog.deleted_streams().await? },
        })
    }

    fn flusher(&self, lists: &Arc<FileLists>, link: &ShardLink, takeover: Takeover) -> Flusher {
        let dead_letters = DeadLetters::new(link.clone(), Arc::clone(&self.publisher));
        Flusher::new(
            self.catalog.clone(),
            self.objects.clone(),
            Arc::clone(lists),
            Arc::clone(&self.metrics),
            takeover,
            (dead_letters, self.traced.traces.clone()),
        )
    }

    fn upkeep(&self, config: &Config, lists: Arc<FileLists>) -> io::Result<Upkeep> {
        let told = (Arc::clone(&self.metrics), self.traced.traces.clone());
        Upkeep::new(config, self.catalog.clone(), self.objects.clone(), lists, told)
    }

    fn queries(&self, config: &Config, lists: &Arc<FileLists>, link: &ShardLink) -> Arc<Queries> {
        let parts = QueryParts {
            lists: Arc::clone(lists),
            link: link.clone(),
            workers: self.workers.clone(),
            publisher: Arc::clone(&self.publisher),
            metrics: Arc::clone(&self.metrics),
        };
        let settings = config.settings();
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let limits = QueryLimits {
            timeout: settings.query_timeout,
            cache_bytes: bytes(settings.query_cache_bytes),
            memory_bytes: bytes(settings.query_memory_bytes),
            memory_total_bytes: bytes(settings.query_memory_total_bytes),
        };
        Arc::new(Queries::new(parts, limits))
    }
}

fn start_traces(config: &Config, metrics: &ControlMetrics) -> Result<Tracing, ServeError> {
    let Some(options) = &config.otlp else { return Ok(Tracing::default()) };
    let (traces, start, spans) = Traces::start(options.sampling, metrics.traces());
    let times = Arc::clone(&start.times);
    let exporter = Exporter::start(options, spans, times, metrics.traces()).map_err(ServeError::Traces)?;
    tracing::info!(endpoint = options.endpoint, ratio = options.sampling.ratio, "traces are exported");
    Ok(Tracing { traces, start: Some(start), exporter: Some(exporter) })
}

/// What tells this node from others, for people.
fn node_name(data_dir: &Path) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    format!("{host}:{}", data_dir.display())
}

type Message = ttdust_shards::message::ToControl;

impl Server {
    async fn start(config: Arc<Config>, level: Level, port_file: Option<&Path>) -> Result<Self, ServeError> {
        let mut signals = stop::Signals::install().map_err(system("cannot handle signals"))?;
        let hangups = reload::signals().map_err(system("cannot handle signals"))?;
        let tls = load_tls(&config).await?;
        let base = Base::open(&config).await?;
        let address = config.settings().bind_address;
        let listener = TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })?;
        let rest = listener.local_addr().map_err(|source| ServeError::Listen { address, source })?;
        let (engine, messages) = tokio::select! {
            started = base.start_engine(&config, tls.as_ref().map(|tls| Arc::clone(&tls.grpc))) => started?,
            () = signals.next() => stop::exit_at_once(),
        };
        let link = ShardLink::new(Arc::clone(&engine));
        log_start(&config, &engine, rest);

        let shared = shared_cache(&config, &base).await?;
        let lists = Arc::new(FileLists::new(base.catalog.clone(), base.objects.clone(), shared));
        let queries = base.queries(&config, &lists, &link);
        let coordinator = coordinator(&config, &base.metrics).await?;
        let (takeover, pending) = takeover(&base.known);
        let flusher = base.flusher(&lists, &link, takeover);
        let upkeep = base.upkeep(&config, lists).map_err(system("cannot start the upkeep"))?;
        let (reloads, asked_reloads) = mpsc::channel(RELOADS);
        let data = data_paths(&config, &base, &link, &queries)?;
        let exposition = Exposition::new(&base.metrics, engine.backend(), Some(link.clone()));
        let (objects, catalog) = (base.objects.clone(), base.catalog.clone());
        let archive = start_archive(&config, objects.clone(), Arc::clone(&base.metrics))?;
        let control = Arc::new(Control::new(Parts {
            config: Arc::clone(&config),
            catalog: base.catalog,
            objects: base.objects,
            link: link.clone(),
            workers: base.workers,
            publisher: base.publisher,
            queries: Arc::clone(&queries),
            reloads,
            coordinator: Arc::new(coordinator),
            imports: Arc::clone(&data.imports),
        }));

        let (inbox, ended) =
            Inbox::new(link.clone(), flusher, queries, Arc::clone(&control), (archive, base.traced.traces.clone()));
        tokio::spawn(inbox.run(messages));
        make_bootstrap_key(&control).await?;
        let (rest_sender, rest_tls) = match tls {
            None => (None, None),
            Some(identity) => {
                reload::report(&identity, &base.metrics);
                let (sender, receiver) = watch::channel(identity.rest);
                (Some(sender), Some(receiver))
            }
        };
        let metrics = Arc::clone(&base.metrics);
        let reloader = reload::Reloader {
            config: Arc::clone(&config),
            control: Arc::clone(&control),
            objects,
            catalog,
            link: link.clone(),
            level,
            metrics,
            rest_tls: rest_sender,
        };
        tokio::spawn(stalls::watch(link.clone(), Arc::clone(&base.metrics)));
        let Tracing { traces, exporter, .. } = base.traced;
        let told = (base.metrics, exposition, traces);
        let (stop_http, http) = start_http(&config, listener, &control, told, &data, rest_tls);
        tokio::spawn(reloader.run(hangups, asked_reloads));
        tokio::spawn(upkeep.run());
        start_background(&control, &data.imports, pending);
        if let Some(path) = port_file {
            write_ports(path, rest, engine.grpc_address()).map_err(system("cannot write the port file"))?;
        }
        tracing::info!("ready");
        Ok(Self { config, engine, link, control, signals, ended, data, stop_http, http, exporter })
    }

    /// Serves until a signal, then drains.
    async fn run(mut self) -> Result<Arc<Engine>, ServeError> {
        let manager = Manager::new(ServiceManager::of_process());
        manager.ready().await;
        tokio::spawn(manager.clone().keep_telling(self.link.clone()));
        tokio::select! {
            () = self.signals.next() => {}
            ended = self.ended.recv() => return Err(unasked_end(ended)),
        }
        let asked = tokio::time::Instant::now();
        let timeout = self.config.settings().shutdown_timeout;
        tracing::info!(timeout_s = timeout.as_secs(), "draining; a second signal ends the process at once");
        self.control.start_draining();
        manager.stopping().await;
        self.data.stop();
        let Self { engine, link, control, mut signals, mut ended, stop_http, http, exporter, .. } = self;
        tokio::select! {
            drained = tokio::time::timeout(timeout, drain(&link, &mut ended)) => {
                drained.map_err(|_| ServeError::DrainTimeout(timeout))??;
            }
            () = signals.next_after(asked) => stop::exit_at_once(),
        }
        // The receiver may be gone already; then there is nothing to stop.
        let _ = stop_http.send(true);
        tokio::select! {
            _ = http => {}
            () = signals.next_after(asked) => stop::exit_at_once(),
        }
        control.save_last_uses().await;
        if let Some(exporter) = exporter {
            exporter.flush().await;
        }
        tracing::info!("stopped");
        Ok(engine)
    }
}

/// What takes records that do not come over gRPC, what reads them for those who follow, and what imports them.
struct DataPaths {
    producer: Arc<Producer>,
    tails: Arc<Tails>,
    imports: Arc<Imports>,
}

impl DataPaths {
    /// Ends what would go on for long; what is left of imports is for the next start.
    fn stop(&self) {
        self.tails.stop();
        self.imports.stop();
    }
}

fn data_paths(config: &Config, base: &Base, link: &ShardLink, queries: &Arc<Queries>) -> Result<DataPaths, ServeError> {
    let (threads, waiting) = CHECKERS;
    let checkers = Workers::start("checker", threads, waiting, &config.control_cores)
        .map_err(system("cannot start the checkers of records"))?;
    let (publisher, metrics) = (Arc::clone(&base.publisher), Arc::clone(&base.metrics));
    let (limits, memory) = (config.engine.limits, config.engine.tail_memory_bytes);
    let tails = Tails::new(link.clone(), Arc::clone(&publisher), Arc::clone(queries), memory, limits.tails);
    let producer = Arc::new(Producer::new(link.clone(), publisher, limits, checkers, metrics));
    let settings = config.settings();
    let threads =
        Workers::start_at(IMPORT_NICE, "import", settings.import_jobs, IMPORTS_WAITING, &config.control_cores)
            .map_err(system("cannot start the threads of imports"))?;
    let imports = Arc::new(Imports::new(ImportParts {
        catalog: base.catalog.clone(),
        producer: Arc::clone(&producer),
        queries: Arc::clone(queries),
        threads,
        sorters: base.workers.clone(),
        at_once: settings.import_jobs,
        roots: settings.import_roots.clone(),
        s3: config.s3.clone(),
        traces: base.traced.traces.clone(),
    }));
    Ok(DataPaths { producer, tails: Arc::new(tails), imports })
}

fn takeover(known: &Known) -> (Takeover, Option<TakeoverPending>) {
    if !known.mirrored {
        return (Takeover::not_needed(), None);
    }
    let (takeover, pending) = Takeover::needed(&known.everything.streams);
    (takeover, Some(pending))
}

/// What the control plane does by itself, for as long as the server runs.
fn start_background(control: &Arc<Control>, imports: &Arc<Imports>, pending: Option<TakeoverPending>) {
    tokio::spawn(Arc::clone(imports).run());
    let kept = Arc::clone(control);
    tokio::spawn(async move { kept.keep_house().await });
    let resumed = Arc::clone(control);
    tokio::spawn(async move { resumed.resume().await });
    let follower = Arc::clone(control);
    tokio::spawn(async move { follower.follow_catalog(pending).await });
}

/// Where segments to archive go; `None`: none are.
fn start_archive(
    config: &Config,
    objects: Objects,
    metrics: Arc<ControlMetrics>,
) -> Result<Option<ArchiveQueue>, ServeError> {
    let settings = config.settings();
    if !settings.upkeep.archive {
        return Ok(None);
    }
    let thread = Workers::start("archive", 1, 1, &config.control_cores).map_err(system("cannot start the archiver"))?;
    let (archiver, queue) = Archiver::new(ArchiveParts {
        objects,
        metrics,
        node: settings.upkeep.archive_node.clone(),
        wal_dir: config.engine.wal_dir.clone(),
        staging_dir: config.engine.staging_dir.clone(),
        kept: settings.upkeep.archive_kept,
        thread,
    })?;
    tokio::spawn(archiver.run());
    Ok(Some(queue))
}

fn unasked_end(ended: Option<ShardEnd>) -> ServeError {
    match ended {
        Some((shard, outcome)) => ServeError::Shard(shard, outcome.err().unwrap_or_else(|| "unasked".into())),
        None => system("the inbox of the control plane ended")(io::ErrorKind::BrokenPipe.into()),
    }
}

/// Drains every shard and waits for all to end.
async fn drain(link: &ShardLink, ended: &mut mpsc::Receiver<ShardEnd>) -> Result<(), ServeError> {
    let tell = link.shards().map(|shard| link.deliver(shard, ttdust_shards::message::ToShard::Drain));
    // A shard that is gone already has reported its end.
    let _ = futures_util::future::join_all(tell).await;
    while !link.all_ended() {
        match ended.recv().await {
            Some((_, Ok(()))) => {}
            other => return Err(unasked_end(other)),
        }
    }
    // The last report may still hold a failure.
    while let Ok((shard, outcome)) = ended.try_recv() {
        outcome.map_err(|reason| ServeError::Shard(shard, reason))?;
    }
    Ok(())
}

async fn load_tls(config: &Config) -> Result<Option<Identity>, ServeError> {
    let Some(files) = config.tls.clone() else { return Ok(None) };
    let loaded = reload::load_tls(files).await;
    Ok(Some(loaded.map_err(|e| system("cannot read the certificates")(io::Error::other(e)))??))
}

/// Over all nodes where Redis is configured, else over this one. A Redis that is gone does not keep the server from starting.
async fn coordinator(config: &Config, metrics: &Arc<ControlMetrics>) -> Result<Coordinator, ServeError> {
    let settings = config.settings();
    let shared = match &settings.redis_url {
        None => None,
        Some(url) => Some(SharedLedger::start(url, settings.redis_timeout, Arc::clone(metrics)).await?),
    };
    Ok(Coordinator::new(shared, Arc::clone(metrics)))
}

/// Where there is a Redis and files lie elsewhere. As above, it need not be there.
async fn shared_cache(config: &Config, base: &Base) -> Result<Option<Arc<SharedCache>>, ServeError> {
    let settings = config.settings();
    let kept = settings.query_shared_cache;
    match &settings.redis_url {
        Some(url) if base.objects.is_remote() && !kept.is_zero() => {
            let metrics = Arc::clone(&base.metrics);
            Ok(Some(SharedCache::start(url, settings.redis_timeout, kept, metrics).await?))
        }
        _ => Ok(None),
    }
}

fn start_http(
    config: &Config,
    listener: TcpListener,
    control: &Arc<Control>,
    (metrics, exposition, traces): (Arc<ControlMetrics>, Exposition, Traces),
    data: &DataPaths,
    tls: http::Tls,
) -> (watch::Sender<bool>, JoinHandle<()>) {
    let settings = config.settings();
    let body_limit = usize::try_from(settings.limit_http_body_bytes).expect("a 64-bit target");
    let app = App {
        control: Arc::clone(control),
        metrics: Arc::clone(&metrics),
        exposition,
        body_limit,
        on_loopback: settings.bind_address.ip().is_loopback(),
        under_way: http::UnderWay::default(),
        producer: Arc::clone(&data.producer),
        batches: http::Batches::default(),
        tails: Arc::clone(&data.tails),
        traces,
    };
    let (stop, stopped) = watch::channel(false);
    let limits = ConnectionLimits {
        connections: settings.limit_http_connections,
        per_address: settings.limit_http_connections_per_address,
    };
    let serving = http::serve(listener, http::router(Arc::new(app)), metrics, limits, tls, stopped);
    (stop, tokio::spawn(serving))
}

fn log_start(config: &Config, engine: &Engine, rest: SocketAddr) {
    let (backend, recovery) = (engine.backend(), engine.recovery());
    let auth = match config.auth {
        AuthMode::Off => "off",
        AuthMode::Keys => "keys",
    };
    let tls = match &config.tls {
        None => "off",
        Some(files) => match files.clients {
            None => "on",
            Some((_, false)) => "on, client certificates optional",
            Some((_, true)) => "on, client certificates required",
        },
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        http = %rest,
        grpc = %engine.grpc_address(),
        shards = engine.shards(),
        control_cores = ?config.control_cores,
        shard_cores = ?config.engine.shard_cores.iter().flatten().collect::<Vec<_>>(),
        io_backend = backend.kind,
        io_reason = %backend.reason,
        auth,
        tls,
        "started"
    );
    tracing::info!(records = recovery.records, bytes = recovery.bytes, millis = recovery.millis, "log recovered");
}

/// Makes an admin's key if there is none, once the catalog can keep it. A server without one still serves everyone else.
async fn make_bootstrap_key(control: &Arc<Control>) -> Result<(), ServeError> {
    let later = |error: &ControlError| matches!(error, ControlError::Unavailable(_) | ControlError::Overloaded);
    match control.bootstrap_key(show_key).await {
        Err(error) if later(&error) => {
            tracing::warn!(%error, "no admin's key is known to be in use; if there is none, one is made as soon as it can be");
            let control = Arc::clone(control);
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(BOOTSTRAP_PAUSE).await;
                    match control.bootstrap_key(show_key).await {
                        Ok(()) => return,
                        Err(error) if later(&error) => {}
                        Err(error) => {
                            return tracing::error!(%error, "there is no admin's key; the next start tries again");
                        }
                    }
                }
            });
        }
        Err(error @ ControlError::Conflict(_)) => {
            tracing::error!(%error, "there is no admin's key; start with an open stderr")
        }
        made => made?,
    }
    Ok(())
}

/// The one place where a secret is shown: on stderr, once, as no log line.
fn show_key(text: &str) -> io::Result<()> {
    let shown = format!("There was no admin key. This one is shown now and never again:\n\n    {text}\n\n");
    io::stderr().write_all(shown.as_bytes())
}

/// Whoever waits for the file sees it whole.
fn write_ports(path: &Path, rest: SocketAddr, grpc: SocketAddr) -> io::Result<()> {
    let staged: PathBuf = path.with_extension("new");
    std::fs::write(&staged, serde_json::json!({"http": rest.to_string(), "grpc": grpc.to_string()}).to_string())?;
    std::fs::rename(staged, path)
}
