//! The `ttdust` program: reads the command line and hands over.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use ttdust::{
    bundle, calendar,
    catalog::CatalogPlace,
    cli,
    config::{self, Config, ConfigError, Loaded, Sources},
    data_dir::DataDir,
    demo, doctor, http, metrics, orphans, rebuild, serve, telemetry, tls, wal,
};

/// Real-time ingestion of JSON records: validated, durable, queryable.
#[derive(Parser)]
#[command(name = "ttdust", version, about, after_help = cli::EXIT_STATUSES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server.
    Serve {
        #[command(flatten)]
        config: ConfigArgs,
        /// Write the addresses to this file, as JSON, once the server is ready.
        #[arg(long, value_name = "PATH")]
        port_file: Option<PathBuf>,
    },
    /// Look at the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Check this machine for the server as configured: kernel, disk, cores, clock, memory, ports, services.
    #[command(after_help = doctor::EXIT_STATUSES)]
    Doctor {
        #[command(flatten)]
        config: Box<ConfigArgs>,
        /// text, or json: one object.
        #[arg(short, long, value_enum, default_value_t, value_name = "FORM", hide_possible_values = true)]
        output: doctor::Form,
    },
    /// Collect what is needed to look into a fault.
    Debug {
        #[command(subcommand)]
        command: DebugCommand,
    },
    /// Bring the catalog to this version. `serve` does it too.
    Migrate {
        #[command(flatten)]
        config: ConfigArgs,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show the main job on real data: start a server, ingest, query, find the Parquet, stop.
    Demo {
        /// Where to work; kept afterwards. Default: a new temporary directory.
        #[arg(long, value_name = "PATH")]
        dir: Option<PathBuf>,
        /// How many records.
        #[arg(long, value_name = "N", default_value_t = 200_000)]
        records: usize,
    },
    /// Look at the write-ahead log of a server that is not running.
    Wal {
        #[command(subcommand)]
        command: WalCommand,
    },
    /// Look after the objects of a server.
    Objects {
        #[command(subcommand)]
        command: ObjectsCommand,
    },
    /// Print the description of REST, OpenAPI 3.1, that the server shows at `/openapi.json`.
    Openapi {
        /// json: the document; markdown: a page for people.
        #[arg(long, value_enum, default_value_t, value_name = "FORM", hide_possible_values = true)]
        format: Description,
    },
    /// What `/metrics` shows.
    Metrics {
        #[command(subcommand)]
        command: MetricsCommand,
    },
    #[command(flatten)]
    Client(cli::Command),
}

/// How REST is described.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Description {
    #[default]
    Json,
    Markdown,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check file, environment and flags against each other and this machine.
    Check(ConfigArgs),
    /// Print what is in force and where each value comes from.
    Show(ConfigArgs),
    /// Print all settings as a page of Markdown.
    Reference,
}

#[derive(Subcommand)]
enum WalCommand {
    /// Print what it holds; goes on past damage.
    Inspect {
        /// A segment, a shard's folder, or the folder of all shards.
        path: PathBuf,
        /// Print every frame.
        #[arg(long)]
        frames: bool,
    },
    /// Check it as a start would.
    Verify {
        /// A shard's folder, or the folder of all shards.
        path: PathBuf,
    },
    /// Make the log of a node again from what `wal.archive` copied to the object store.
    Restore {
        #[command(flatten)]
        config: Box<ConfigArgs>,
        /// The node's name: `wal.archive_node` of the server that wrote it.
        #[arg(long, value_name = "NODE")]
        from: String,
        /// Which of the node's logs, by its id; default: the one that was written to last.
        #[arg(long, value_name = "ID")]
        log: Option<String>,
        /// The folder to make it in, such as wal under a new data_dir.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Cut it at its first damage, and set aside what is given up.
    Repair {
        /// A shard's folder, or the folder of all shards.
        path: PathBuf,
    },
}

#[derive(Subcommand)]
enum ObjectsCommand {
    /// Find the objects of files that no list names. A server does it by itself now and then.
    Orphans {
        #[command(flatten)]
        config: ConfigArgs,
        /// Only say what there is.
        #[arg(long, conflicts_with = "delete", required_unless_present = "delete")]
        dry_run: bool,
        /// Give them up: a server removes them after compaction.grace_ms.
        #[arg(long)]
        delete: bool,
    },
    /// Make the catalog's lists of files again from the manifests and objects, after the catalog came back from an older copy.
    /// The server must not run.
    Rebuild {
        #[command(flatten)]
        config: ConfigArgs,
        /// Only say what would be done.
        #[arg(long, conflicts_with = "apply", required_unless_present = "apply")]
        dry_run: bool,
        /// Do it.
        #[arg(long)]
        apply: bool,
    },
}

#[derive(Subcommand)]
enum DebugCommand {
    /// Put settings, `doctor`, the state of log and files, and what a running server tells of itself into one archive. No secret
    /// and no record is in it.
    Bundle {
        #[command(flatten)]
        config: Box<ConfigArgs>,
        #[command(flatten)]
        server: Box<cli::Options>,
        /// The archive to make; default: ttdust-debug-TIME.tar.gz here.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum MetricsCommand {
    /// Print all metrics as a page of Markdown.
    Reference,
}

#[derive(Args)]
struct ConfigArgs {
    /// The TOML file.
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Where REST listens.
    #[arg(long, value_name = "ADDRESS")]
    bind_address: Option<String>,
    /// Where gRPC listens.
    #[arg(long, value_name = "ADDRESS")]
    grpc_address: Option<String>,
    /// Holds the log, the catalog and the objects.
    #[arg(long, value_name = "PATH")]
    data_dir: Option<String>,
    /// error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// json or text.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Allow authentication off on an address that is no loopback one.
    #[arg(long)]
    allow_open: bool,
    /// Any setting, by its key in the file; may be given again.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("want KEY=VALUE, such as wal.quota_bytes=1GiB")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl ConfigArgs {
    fn load(self) -> Result<Loaded, ConfigError> {
        let mut flags = self.set;
        let named = [
            ("bind_address", self.bind_address),
            ("grpc_address", self.grpc_address),
            ("data_dir", self.data_dir),
            ("log.level", self.log_level),
            ("log.format", self.log_format),
            ("allow_open", self.allow_open.then(|| "true".into())),
        ];
        flags.extend(named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
        config::load(&Sources::of_process(self.config, flags))
    }

    fn resolve(self) -> Result<Config, ConfigError> {
        Config::resolve(self.load()?, &config::usable_cores()?)
    }
}

/// Measured against the C library's: 15% less CPU a record on the ack path, the same with flushes, and half as much memory
/// again (`perf/README.md`, "Allocator").
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let command = match Cli::parse().command {
        Command::Client(command) => return cli::run(command, Cli::command()),
        Command::Doctor { config, output } => return examine(*config, output),
        command => command,
    };
    let outcome = run(command);
    telemetry::flush();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With nobody to read it, the status says it alone.
            let _ = writeln!(std::io::stderr(), "ttdust: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The status is the verdict's; settings that cannot be read are a mistake of the caller's.
fn examine(config: ConfigArgs, form: doctor::Form) -> ExitCode {
    let status = match config.load() {
        Ok(loaded) => {
            doctor::print(loaded, form).map(doctor::Verdict::exit_status).map_err(|error| (1, error.to_string()))
        }
        Err(error) => Err((2, error.to_string())),
    };
    ExitCode::from(status.unwrap_or_else(|(status, error)| {
        let _ = writeln!(std::io::stderr(), "ttdust: {error}");
        status
    }))
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Serve { config, port_file } => {
            let config = config.resolve()?;
            let level = telemetry::start(config.settings());
            serve::serve(config, level, port_file.as_deref())?;
        }
        Command::Config { command: ConfigCommand::Check(config) } => {
            let config = config.resolve()?;
            if let Some(files) = &config.tls {
                let identity = tls::load(files, calendar::now_unix_micros())?;
                identity.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            }
            println!(
                "ok: control on cores {:?}, shards on cores {:?}, authentication {:?}",
                config.control_cores,
                config.engine.shard_cores.iter().flatten().collect::<Vec<_>>(),
                config.auth
            );
        }
        Command::Config { command: ConfigCommand::Show(config) } => print!("{}", config::show(&config.load()?)),
        Command::Config { command: ConfigCommand::Reference } => print!("{}", config::reference()),
        Command::Metrics { command: MetricsCommand::Reference } => print!("{}", metrics::reference()),
        Command::Openapi { format: Description::Json } => print!("{}", http::openapi()),
        Command::Openapi { format: Description::Markdown } => print!("{}", http::openapi_markdown()),
        Command::Demo { dir, records } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(demo::run(dir, records))?;
        }
        Command::Wal { command: WalCommand::Inspect { path, frames } } => wal::inspect(&path, frames)?,
        Command::Wal { command: WalCommand::Restore { config, from, log, to } } => {
            wal::restore(&config.resolve()?, &from, log.as_deref(), &to)?;
        }
        Command::Wal { command: WalCommand::Verify { path } } => wal::verify(&path)?,
        Command::Wal { command: WalCommand::Repair { path } } => wal::repair(&path)?,
        Command::Objects { command: ObjectsCommand::Orphans { config, delete, .. } } => {
            orphans::print(&config.resolve()?, delete)?;
        }
        Command::Objects { command: ObjectsCommand::Rebuild { config, apply, .. } } => {
            rebuild::print(&config.resolve()?, apply)?;
        }
        Command::Debug { command: DebugCommand::Bundle { config, server, out } } => {
            make_bundle(&config.load()?, *server, out)?;
        }
        Command::Migrate { config, dry_run } => return migrate_catalog(&config.resolve()?, dry_run),
        Command::Client(_) | Command::Doctor { .. } => unreachable!("`main` hands these over"),
    }
    Ok(())
}

fn make_bundle(loaded: &Loaded, server: cli::Options, out: Option<PathBuf>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let told = runtime.block_on(cli::facts(server));
    let told = told.into_iter().map(|(name, content)| bundle::Part { name: name.to_owned(), content });
    let (path, missing) = bundle::write(loaded, told.collect(), out)?;
    println!("{}: {missing} parts are missing, which notes.txt in it tells of", path.display());
    Ok(())
}

fn migrate_catalog(config: &Config, dry_run: bool) -> Outcome {
    let place = CatalogPlace::of(config);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let plan = if dry_run {
        runtime.block_on(place.migration_plan())?
    } else {
        // A file has one user at a time; Postgres sees to it by itself.
        let locked = matches!(place, CatalogPlace::Embedded(_)).then(|| DataDir::lock(&config.settings().data_dir));
        let _locked = locked.transpose()?;
        runtime.block_on(place.migrate())?
    };
    let done = if dry_run { "would run" } else { "ran" };
    println!("{place}: version {} of {}; {done} {:?}", plan.from, plan.to, plan.steps);
    Ok(())
}
