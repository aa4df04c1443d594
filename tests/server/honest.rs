//! An honest client beside whatever else goes on: it appends a record after the other, and each must be taken.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use serde_json::json;

use crate::{
    process::{Server, wait_for},
    producer::{Producer, block_on},
    rest,
};

/// A client that appends and checks its acks until it is told to stop, and then reads back what was acked.
pub struct Honest {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Honest {
    /// Begins, with a stream of its own.
    pub fn start(server: &Server) -> Self {
        rest::create_stream(&server.http, "honest", &json!({"type": "object", "required": ["n"]}));
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count, grpc) = (Arc::clone(&stop), Arc::clone(&acked), server.grpc.clone());
        let thread = std::thread::spawn(move || {
            block_on(async {
                let mut producer = Producer::connect(&grpc, "honest").await;
                while !stopped.load(Relaxed) {
                    let n = count.load(Relaxed);
                    producer.append(vec![format!(r#"{{"n":{n}}}"#).into()]).await.expect("taken");
                    count.store(n + 1, Relaxed);
                }
                let read = producer.read_all().await;
                producer.check(&read);
            });
        });
        Self { stop, acked, thread }
    }

    /// Waits for an ack of a record that was sent from now on.
    pub fn goes_on(&self, beside: &str) {
        let before = self.acked.load(Relaxed);
        wait_for(&format!("the honest client's ack beside {beside}"), || {
            assert!(!self.thread.is_finished(), "the honest client failed beside {beside}");
            (self.acked.load(Relaxed) >= before + 2).then_some(())
        });
    }

    /// Ends, and reads back what was acked.
    pub fn finish(self) {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("the honest client read back what was acked");
    }
}
