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
                    let control = Arc::clone(&self.control);
                    let span = self.traces.continued(trace, "control");
                    self.reply(reply.shard, async move {
                        let admitted = span.scope(control.admit(Category::Query, &client)).await;
                        let answer = admitted.map(|_| ()).map_err(QueryFailure::RateLimited);
                        ToShard::TailOpened(reply.token, answer)
                    });
                }
                ToControl::TailPage { ask, reply } => {
                    let queries = Arc::clone(&self.queries);
                    let answering = async move { ToShard::TailPage(reply.token, queries.tail_page(ask).await) };
                    self.reply(reply.shard, answering);
                }
                ToControl::Leases(shard, asks) => {
                    let control = Arc::clone(&self.control);
                    self.reply(shard, async move { ToShard::Leases(control.lease(asks).await) });
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

    /// Answers a shard once that is done. Of one that has ended the calls are gone too, and it lets nobody in.
    fn reply(&self, shard: ShardId, answering: impl Future<Output = ToShard> + Send + 'static) {
        let link = self.link.clone();
        tokio::spawn(async move {
            let answer = answering.await;
            let _ = link.deliver(shard, answer).await;
        });
    }

    fn answer(&self, client: Arc<str>, (query, cancel): (Query, Cancel), trace: Option<SpanContext>, reply: ReplyTo) {
        let (queries, control) = (Arc::clone(&self.queries), Arc::clone(&self.control));
        let span = self.traces.continued(trace, "control");
        self.reply(reply.shard, async move {
            let answering = span.scope(async {
                match control.admit(Category::Query, &client).await {
                    Ok(_) => queries.run(query, cancel).await,
                    Err(over) => Err(QueryFailure::RateLimited(over)),
                }
            });
            ToShard::Answer(reply.token, answering.await)
        });
    }

    fn administer(&self, caller: Principal, request: AdminRequest, trace: Option<SpanContext>, reply: ReplyTo) {
        let control = Arc::clone(&self.control);
        let trace_id = trace.as_ref().map_or_else(TraceId::generate, |trace| trace.trace).to_string();
        let span = self.traces.continued(trace, "control");
        self.reply(reply.shard, async move {
            let actor = Actor { caller, trace_id };
            let answer = Box::pin(span.scope(control.administer(actor, request))).await;
            ToShard::Admin(reply.token, Box::new(answer))
        });
    }
}
