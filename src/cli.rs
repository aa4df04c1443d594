//! The client side of the program: commands that drive a server by its public REST interface, as any client would. Nothing in
//! here knows the server's insides.

mod api;
mod audit;
mod connection;
mod dead_letters;
mod facts;
mod failure;
mod imports;
mod keyfile;
mod keys;
mod output;
mod pipelines;
mod produce;
mod profiles;
mod records;
mod schemas;
mod session;
mod settings;
mod streams;
mod tail;
mod text;
mod top;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use clap_complete::Shell;

use crate::config::ClientEnvironment;
pub use facts::{Fact, facts};
use failure::{Failure, Outcome};
pub use session::Options;
use session::Session;

/// How the program's exit statuses read, for its help.
pub const EXIT_STATUSES: &str = "\
Exit status of the commands that call a server:
  0    done
  1    the server refused it, or a part of it
  2    the command line, the profile or a local file is at fault
  3    no server answers there
  4    not found, or not allowed
  5    not now: the server is busy or a part of it is down; the same may work later
  130  broken off with Ctrl-C

Which server: --endpoint, else TTDUST_ENDPOINT, else the profile in use, else http://127.0.0.1:8080.
Which key: --api-key-file, else TTDUST_API_KEY, else the profile's. A named --profile comes before the variables.";

/// A command of the client.
#[derive(Subcommand)]
pub enum Command {
    /// Register schemas and their versions.
    Schema(Calling<schemas::SchemaCommand>),
    /// Create, look at, change, pause and delete streams.
    Stream(Calling<streams::StreamCommand>),
    /// Give streams pipelines, which shape what readers see, and try steps out.
    Pipeline(Calling<pipelines::PipelineCommand>),
    /// Look at what a stream did not take, and put it back.
    Dlq(Calling<dead_letters::DlqCommand>),
    /// Give API keys out and take them back.
    Key(Calling<keys::KeyCommand>),
    /// Send the records of files or of standard input.
    Produce(Asking<produce::Produce>),
    /// Read a stream's records by time.
    Query(Asking<records::Query>),
    /// Find the latest record with a key.
    Lookup(Asking<records::Lookup>),
    /// Follow a stream: print its records as they come.
    Tail(Asking<tail::Tail>),
    /// Watch a running server's shards and streams.
    Top(Asking<top::Top>),
    /// Have the server read objects of its own or of S3 into a stream.
    Import(Calling<imports::ImportCommand>),
    /// Show who changed what, the newest change first.
    Audit(Asking<audit::Audit>),
    /// Look at a running server's settings, and change those that it takes over.
    Settings(Calling<settings::SettingsCommand>),
    /// Ask a server how it and its parts are.
    Health(Options),
    /// Keep where servers are and the keys for them, by name.
    #[command(subcommand)]
    Profile(profiles::ProfileCommand),
    /// Print a completion script for a shell: bash, zsh, fish, elvish or powershell.
    Completions(Completions),
}

/// Commands of a kind, and the server that they go to.
#[derive(Args)]
pub struct Calling<C: Subcommand> {
    #[command(subcommand)]
    command: C,
    #[command(flatten)]
    options: Options,
}

/// A command's arguments, and the server that it goes to.
#[derive(Args)]
pub struct Asking<A: Args> {
    #[command(flatten)]
    arguments: A,
    #[command(flatten)]
    options: Options,
}

/// A shell to complete commands in.
#[derive(Args)]
pub struct Completions {
    #[arg(value_enum, hide_possible_values = true)]
    shell: Shell,
}

/// Does what `command` of `program` says; the status says how it went.
#[must_use]
pub fn run(command: Command, mut program: clap::Command) -> ExitCode {
    let environment = ClientEnvironment::of_process();
    let outcome = match command {
        Command::Profile(command) => profiles::run(command, &environment),
        Command::Completions(Completions { shell }) => completions(shell, &mut program),
        command => call(command, &environment),
    };
    let Err(failure) = outcome else { return ExitCode::SUCCESS };
    tell(&failure, &environment);
    failure.exit_code()
}

/// Calls a server. One thread is enough to wait for it.
fn call(command: Command, environment: &ClientEnvironment) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::usage(format!("cannot start: {error}")))?;
    let open = |options: Options| Session::open(options, environment);
    runtime.block_on(async {
        match command {
            Command::Schema(to) => Box::pin(schemas::run(to.command, &mut open(to.options)?)).await,
            Command::Stream(to) => Box::pin(streams::run(to.command, &mut open(to.options)?)).await,
            Command::Pipeline(to) => Box::pin(pipelines::run(to.command, &mut open(to.options)?)).await,
            Command::Dlq(to) => Box::pin(dead_letters::run(to.command, &mut open(to.options)?)).await,
            Command::Key(to) => Box::pin(keys::run(to.command, &mut open(to.options)?)).await,
            Command::Produce(to) => Box::pin(produce::run(to.arguments, &mut open(to.options)?)).await,
            Command::Query(to) => Box::pin(records::query(to.arguments, &mut open(to.options)?)).await,
            Command::Lookup(to) => Box::pin(records::lookup(to.arguments, &mut open(to.options)?)).await,
            Command::Tail(to) => Box::pin(tail::run(to.arguments, &mut open(to.options)?)).await,
            Command::Top(to) => Box::pin(top::run(to.arguments, &mut open(to.options)?)).await,
            Command::Import(to) => Box::pin(imports::run(to.command, &mut open(to.options)?)).await,
            Command::Audit(to) => Box::pin(audit::run(to.arguments, &mut open(to.options)?)).await,
            Command::Settings(to) => Box::pin(settings::run(to.command, &mut open(to.options)?)).await,
            Command::Health(options) => Box::pin(settings::health(&mut open(options)?)).await,
            Command::Profile(_) | Command::Completions(_) => unreachable!("these call no server"),
        }
    })
}

fn completions(shell: Shell, program: &mut clap::Command) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, program, "ttdust", &mut script);
    io::stdout().write_all(&script).map_err(Failure::output)
}

fn tell(failure: &Failure, environment: &ClientEnvironment) {
    let told = failure.told();
    let mut stderr = io::stderr();
    let red = !environment.no_color && stderr.is_terminal();
    let told = match told.strip_prefix("ttdust:") {
        Some(rest) if red => format!("\u{1b}[31mttdust:\u{1b}[0m{rest}"),
        _ => told,
    };
    // With nobody to read it, the status says it alone.
    let _ = stderr.write_all(told.as_bytes());
}
