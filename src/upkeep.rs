//! What keeps the files in order, one thing after the other and again and again: merges, retention, removals, manifests, orphans.
//!
//! All of it is left to another pass when the catalog or the store is away, and none of it is waited for by anyone.

use std::{sync::Arc, time::Duration};

use tokio::time::{self, Instant};

use crate::{
    catalog::{Catalog, StoredFile},
    compaction::{Compactor, Policy},
    config::Config,
    file_lists::FileLists,
    manifests::ManifestWriter,
    metrics::ControlMetrics,
    objects::Objects,
    orphans,
    retention::{self, Reaper},
    traces::Traces,
    workers::Workers,
};

/// Between the start of the server and the first pass at most.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// The upkeep of one server.
#[derive(Debug)]
pub struct Upkeep {
    catalog: Catalog,
    objects: Objects,
    lists: Arc<FileLists>,
    metrics: Arc<ControlMetrics>,
    compactor: Option<Compactor>,
    reaper: Reaper,
    manifests: ManifestWriter,
    pause: Duration,
    retention_pause: Duration,
    orphan_pause: Duration,
    orphan_grace: Duration,
}

impl Upkeep {
    /// As the configuration says.
    ///
    /// # Errors
    /// Its thread cannot be started.
    pub fn new(
        config: &Config,
        catalog: Catalog,
        objects: Objects,
        lists: Arc<FileLists>,
        (metrics, traces): (Arc<ControlMetrics>, Traces),
    ) -> std::io::Result<Self> {
        let settings = config.settings();
        let policy = Policy {
            target_bytes: settings.upkeep.compaction_target_bytes,
            files_min: settings.upkeep.compaction_files_min,
            age_min: settings.upkeep.compaction_age_min,
        };
        let compactor = if settings.upkeep.compaction_enabled {
            let thread = Workers::start("merge", 1, 1, &config.control_cores)?;
            let dir = config.engine.staging_dir.clone();
            let (catalog, objects, metrics) = (catalog.clone(), objects.clone(), Arc::clone(&metrics));
            Some(Compactor::new(catalog, objects, Arc::clone(&lists), metrics, policy, dir, (thread, traces)))
        } else {
            None
        };
        let reaper = Reaper {
            catalog: catalog.clone(),
            objects: objects.clone(),
            metrics: Arc::clone(&metrics),
            grace: settings.upkeep.compaction_grace,
        };
        let manifests =
            ManifestWriter { catalog: catalog.clone(), objects: objects.clone(), metrics: Arc::clone(&metrics) };
        Ok(Self {
            catalog,
            objects,
            lists,
            metrics,
            compactor,
            reaper,
            manifests,
            pause: settings.upkeep.interval,
            retention_pause: settings.upkeep.retention_interval,
            orphan_pause: settings.upkeep.orphans_interval,
            orphan_grace: settings.upkeep.orphans_grace,
        })
    }

    /// Goes on for as long as the server runs.
    pub async fn run(mut self) {
        let mut retention_due = Instant::now();
        // Not at every start: a server that is started again and again would do nothing else.
        let mut orphans_due = Instant::now() + self.orphan_pause;
        time::sleep(self.pause.min(FIRST_PAUSE)).await;
        loop {
            let mut more = self.compact().await;
            if Instant::now() >= retention_due {
                let done = retention::pass(&self.catalog, &self.lists, &self.metrics).await;
                self.look_at("retention", done.map(|()| false));
                retention_due = Instant::now() + self.retention_pause;
            }
            let removed = self.reaper.pass().await;
            more |= self.look_at("removal", removed);
            let written = self.manifests.pass().await;
            more |= self.look_at("manifests", written);
            if Instant::now() >= orphans_due {
                self.look_for_orphans().await;
                orphans_due = Instant::now() + self.orphan_pause;
            }
            if !more {
                time::sleep(self.pause).await;
            }
        }
    }

    async fn compact(&mut self) -> bool {
        let Some(compactor) = &mut self.compactor else { return false };
        let passed = compactor.pass().await;
        self.look_at("compaction", passed)
    }

    async fn look_for_orphans(&self) {
        let log = |file: &StoredFile| tracing::info!(key = %file.key, "an orphan is given up");
        let found = orphans::pass(&self.catalog, &self.objects, self.orphan_grace, true, log).await;
        if let Ok(found) = &found {
            self.metrics.upkeep().orphans(found.orphans);
            if found.unknown > 0 {
                tracing::warn!(
                    objects = found.unknown,
                    "objects of streams that the catalog does not know are left alone"
                );
            }
        }
        self.look_at("orphans", found.map(|_| false));
    }

    /// Whether there is more to do at once. What failed waits for the next pass.
    fn look_at<E: std::fmt::Display>(&self, job: &'static str, passed: Result<bool, E>) -> bool {
        passed.unwrap_or_else(|error| {
            tracing::warn!(job, %error, "upkeep is put off");
            self.metrics.upkeep().failed(job);
            false
        })
    }
}
