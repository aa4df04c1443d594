//! A real server whose files lie in an S3 store of the test's own, and what must be true of both.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use std::{collections::BTreeSet, fs};

use ttdust::{
    catalog::{Catalog, CatalogPlace, PgFigures},
    objects::FileName,
};

use crate::{
    process::{Server, wait_for},
    producer::{Producer, block_on},
    rest,
    s3::{self, Store},
};

/// A server's directory, and the store of its files.
pub struct Site {
    pub dir: tempfile::TempDir,
    pub store: Store,
    pub settings: Vec<(&'static str, String)>,
}

impl Site {
    pub fn new(more: &[(&'static str, &str)]) -> Self {
        let (dir, store) = (tempfile::tempdir().expect("a directory"), Store::start());
        let own = [("shards.count", "1"), ("buffer.flush_interval_ms", "50"), ("log.level", "trace")];
        let more = own.iter().chain(more).map(|&(key, value)| (key, value.to_owned()));
        let mut settings = store.settings();
        settings.extend(more);
        if !settings.iter().any(|(key, _)| *key == "wal.quota_bytes") {
            settings.push(("wal.quota_bytes", "256MiB".into()));
        }
        Self { dir, store, settings }
    }

    pub fn spawn(&self) -> Server {
        let settings: Vec<_> = self.settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
        Server::spawn(self.dir.path(), &settings)
    }

    pub fn start(&self) -> Server {
        let mut server = self.spawn();
        server.wait_until_ready();
        server
    }

    /// Of a server that has ended: each row is in one file, and each file of the catalog is in the store. Returns what else is.
    pub fn orphans(&self, stream: &str, rows: usize) -> Vec<String> {
        let place = CatalogPlace::Embedded(self.dir.path().join("data/catalog.sqlite"));
        let stream = stream.parse().expect("an id");
        let read = async move {
            let catalog = Catalog::open(&place, PgFigures::default()).await.expect("the catalog");
            catalog.files_in(stream, 0, i64::MAX).await.expect("files")
        };
        // The caller may be on a runtime of its own.
        let catalog = std::thread::spawn(move || block_on(read)).join().expect("read");
        let mut next = 1;
        for file in &catalog {
            assert_eq!(file.first_sequence, next, "{catalog:?}");
            next = file.last_sequence + 1;
            let state = self.store.state();
            let object = state.objects.get(&file.key).expect("it is in the store");
            assert_eq!((object.content.len() as u64, crc32c::crc32c(&object.content)), (file.bytes, file.checksum));
            assert!(FileName::parse(&file.key).is_some_and(|name| name.first_sequence == file.first_sequence));
        }
        assert_eq!(next, rows as i64 + 1);
        assert!(!self.dir.path().join("data/objects").exists(), "no file lies in a directory");
        let known: BTreeSet<_> = catalog.into_iter().map(|file| file.key).collect();
        // What says which files there are is no file.
        let beside = |key: &String| key.ends_with("/manifest.json") || key.ends_with("/checkpoint.json");
        self.store.keys().into_iter().filter(|key| !known.contains(key) && !beside(key)).collect()
    }

    /// The same, and there is nothing else.
    pub fn check_files(&self, stream: &str, rows: usize) {
        assert_eq!(self.orphans(stream, rows), Vec::<String>::new());
    }

    /// Whoever reads the log learns no secret.
    pub fn check_log(&self) {
        let log = fs::read_to_string(self.dir.path().join("server.log")).expect("a log");
        for secret in ["X-Amz-", "x-amz-signature", s3::SECRET_KEY] {
            assert!(!log.contains(secret), "the log holds {secret}");
        }
    }
}

/// The last of the stream's rows that is in a committed file.
pub fn flushed_through(server: &Server, stream: &str) -> Option<i64> {
    let (status, body) = rest::call(&server.http, "GET", &format!("/api/v1/streams/{stream}"), "");
    (status == 200).then(|| body["statistics"]["flushed_through"].as_i64().expect("a number"))
}

/// Waits until every acked row is in a committed file.
pub fn wait_until_flushed(server: &Server, stream: &str, producer: &Producer) {
    let all = producer.acked.len() as i64;
    wait_for("the last flush", || flushed_through(server, stream).filter(|&through| through == all));
}
