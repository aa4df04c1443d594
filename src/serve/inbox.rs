//! What the shards send to control, each message on a task of its own, so that a slow flush holds up no query.

use std::sync::Arc;

use tokio::sync::mpsc;
use ttdust_shards::{
    access::Principal,
    ids::ShardId,
    message::{AdminRequest, QueryFailure, ReplyTo, ToControl, ToShard},
    query::{Cancel, Query},
    rate::Category,
    trace::{SpanContext, TraceId},
};

use crate::{
    archive::ArchiveQueue,
    control::{Actor, Control},
    flush::{Flush, Flusher},
    link::ShardLink,
    query::Queries,
    traces::Traces,
};

/// Each shard reports its end once.
const ENDS: usize = 1024;

/// A shard that ended, and how.
pub(super) type ShardEnd = (ShardId, Result<(), String>);

/// Hands messages out.
pub(super) struct Inbox {
    link: ShardLink,
    flusher: Flusher,
    queries: Arc<Queries>,
    control: Arc<Control>,
    archive: Option<ArchiveQueue>,
    traces: Traces,
    ended: mpsc::Sender<ShardEnd>,
}

impl Inbox {
    /// With the line on which it reports shards that ended.
    pub(super) fn new(
        link: ShardLink,
        flusher: Flusher,
        queries: Arc<Queries>,
        control: Arc<Control>,
        (archive, traces): (Option<ArchiveQueue>, Traces),
    ) -> (Self, mpsc::Receiver<ShardEnd>) {
        let (ended, reports) = mpsc::channel(ENDS);
        (Self { link, flusher, queries, control, archive, traces, ended }, reports)
    }

    /// Runs until the last shard lets go of its end.
    pub(super) async fn run(self, mut messages: mpsc::Receiver<ToControl>) {
        while let Some(message) = messages.recv().await {
            match message {
                ToControl::FilesReady { shard, stream, files, through, dead, written } => {
                    let (flusher, link) = (self.flusher.clone(), self.link.clone());
                    let flush = Flush { shard, stream, files, through, dead, written };
                    tokio::spawn(async move { flusher.flush(&link, flush).await });
                }
                ToControl::Query { client, query, cancel, trace, reply } => {
                    self.answer(client, (query, cancel), trace, reply);
                }
                ToControl::OpenTail { client, trace, reply } => {
                    let (control, link) = (Arc::clone(&self.control), self.link.clone());
                    let span = self.traces.continued(trace, "control");
                    tokio::spawn(async move {
                        let admitted = span.scope(control.admit(Category::Query, &client)).await;
                        drop(span);
                        let answer = admitted.map(|_| ()).map_err(QueryFailure::RateLimited);
                        // With its shard, the call is gone too.
                        let _ = link.deliver(reply.shard, ToShard::TailOpened(reply.token, answer)).await;
                    });
                }
                ToControl::TailPage { ask, reply } => {
                    let (queries, link) = (Arc::clone(&self.queries), self.link.clone());
                    tokio::spawn(async move {
                        let page = ToShard::TailPage(reply.token, queries.tail_page(ask).await);
                        // With its shard, the call is gone too.
                        let _ = link.deliver(reply.shard, page).await;
                    });
                }
                ToControl::Leases(shard, asks) => {
                    let (control, link) = (Arc::clone(&self.control), self.link.clone());
                    tokio::spawn(async move {
                        let grants = ToShard::Leases(control.lease(asks).await);
                        // A shard that has ended lets nobody in.
                        let _ = link.deliver(shard, grants).await;
                    });
                }
                ToControl::Admin { caller, request, trace, reply } => self.administer(caller, request, trace, reply),
                ToControl::Sealed(segment) => {
                    if let Some(archive) = &self.archive {
                        archive.give(segment);
                    }
                }
                ToControl::ShardEnded(shard, outcome) => {
                    match &outcome {
                        Ok(()) => tracing::info!(%shard, "shard drained"),
                        Err(reason) => tracing::error!(%shard, %reason, "shard failed"),
                    }
                    self.link.mark_ended(shard);
                    // Nobody listens any more only when the server is at its end.
                    let _ = self.ended.send((shard, outcome)).await;
                }
            }
        }
        // Reports must not end while the server may wait for one: the line stays open with this task.
        std::future::pending::<()>().await;
    }

    fn answer(&self, client: Arc<str>, (query, cancel): (Query, Cancel), trace: Option<SpanContext>, reply: ReplyTo) {
        let (queries, link) = (Arc::clone(&self.queries), self.link.clone());
        let control = Arc::clone(&self.control);
        let span = self.traces.continued(trace, "control");
        tokio::spawn(async move {
            let answering = span.scope(async {
                match control.admit(Category::Query, &client).await {
                    Ok(_) => queries.run(query, cancel).await,
                    Err(over) => Err(QueryFailure::RateLimited(over)),
                }
            });
            let answer = answering.await;
            drop(span);
            let answer = ToShard::Answer(reply.token, answer);
            // With its shard, the call is gone too.
            let _ = link.deliver(reply.shard, answer).await;
        });
    }

    fn administer(&self, caller: Principal, request: AdminRequest, trace: Option<SpanContext>, reply: ReplyTo) {
        let (control, link) = (Arc::clone(&self.control), self.link.clone());
        let trace_id = trace.as_ref().map_or_else(TraceId::generate, |trace| trace.trace).to_string();
        let span = self.traces.continued(trace, "control");
        tokio::spawn(async move {
            let actor = Actor { caller, trace_id };
            let answer = Box::pin(span.scope(control.administer(actor, request))).await;
            drop(span);
            let answer = ToShard::Admin(reply.token, Box::new(answer));
            // With its shard, the call is gone too.
            let _ = link.deliver(reply.shard, answer).await;
        });
    }
}
