//! A database of a test's own, in the Postgres that `TESTS_PG` names. Dropped with the test.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use std::{path::PathBuf, time::Duration};

use tokio_postgres::{Client, Config, NoTls, config::Host};
use ttdust::config::{PgOptions, PgPassword, PgTls, Secret};

/// A database.
pub struct Database {
    name: String,
}

/// The server that tests share.
fn server() -> Config {
    let text = std::env::var("TESTS_PG").unwrap_or_else(|_| {
        panic!(
            "this test needs a Postgres: run `make test`, or start one with `tests/services.sh start` and tell this shell \
             with `eval \"$(tests/services.sh env)\"`"
        )
    });
    text.parse().unwrap_or_else(|error| panic!("TESTS_PG = {text:?}: {error}"))
}

async fn connect(database: &str) -> Client {
    let (client, connection) = server().dbname(database).connect(NoTls).await.expect("the Postgres of TESTS_PG");
    tokio::spawn(connection);
    client
}

/// Outside of any runtime that the test may have.
fn on_a_thread(future: impl Future<Output = ()> + Send + 'static) {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(future);
    };
    std::thread::spawn(run).join().expect("done");
}

impl Database {
    /// A new and empty one.
    pub fn fresh() -> Self {
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        let sql = format!("CREATE DATABASE {name}");
        on_a_thread(async move { connect("postgres").await.batch_execute(&sql).await.expect("a database") });
        Self { name }
    }

    /// Runs SQL on it.
    pub async fn execute(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        connect(&self.name).await.batch_execute(sql).await
    }

    /// The directory of the server's socket, and the port that names it.
    pub fn socket(&self) -> (PathBuf, u16) {
        let server = server();
        match server.get_hosts() {
            [Host::Unix(dir)] => (dir.clone(), server.get_ports().first().copied().unwrap_or(5432)),
            other => panic!("TESTS_PG names {other:?}: want the directory of a socket"),
        }
    }

    /// The file with the certificate that vouches for the server, which takes encrypted connections at 127.0.0.1.
    pub fn ca() -> PathBuf {
        std::env::var_os("TESTS_PG_CA").expect("tests/services.sh env names it").into()
    }

    /// How a catalog gets there.
    pub fn options(&self) -> PgOptions {
        let (dir, port) = self.socket();
        PgOptions {
            host: dir.to_str().expect("a path of ours").to_owned(),
            port,
            database: self.name.clone(),
            user: server().get_user().expect("TESTS_PG names a user").to_owned(),
            password: PgPassword::Text(Secret::default()),
            tls: PgTls::Disable,
            ca_path: None,
            pool_size: 4,
            statement_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        on_a_thread(async move {
            // The cluster is thrown away anyhow.
            let _ = connect("postgres").await.batch_execute(&sql).await;
        });
    }
}
