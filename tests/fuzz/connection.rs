//! A connection to a real engine: whatever a client sends, the connection comes to an end when the client hangs up, and the shard
//! goes on.

use std::{
    cell::{Cell, OnceCell},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    runtime::Runtime,
};
use ttdust_proto::path;
use ttdust_shards::config::IoChoice;

use super::control::{Fixture, config};
use frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, call, put,
    put_message,
};

#[path = "../../bench/src/flood/frames.rs"]
mod frames;

/// A client that hung up is let go within this.
const PATIENCE: Duration = Duration::from_secs(20);

const PATHS: [&str; 12] = [
    path::APPEND,
    path::INGEST_STREAM,
    path::INGEST,
    path::QUERY_TIME_RANGE,
    path::LOOKUP_BY_KEY,
    path::STREAMING_READ,
    path::CREATE_STREAM,
    path::GET_STREAM,
    path::HEALTH_CHECK,
    path::HEALTH_WATCH,
    path::REFLECTION,
    "/nothing",
];

struct Served {
    fixture: Fixture,
    runtime: Runtime,
    _dir: TempDir,
}

thread_local! {
    static SERVED: OnceCell<Served> = const { OnceCell::new() };
    static TURN: Cell<u32> = const { Cell::new(0) };
}

fn serve() -> Served {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path(), 1, IoChoice::Epoll);
    config.limits.stall_seconds = 1;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    Served { fixture: Fixture::start(config), runtime, _dir: dir }
}

/// The first byte chooses: raw bytes after a preface, raw bytes alone, or frames that are well made but for what they hold.
pub fn grpc_connection(input: &[u8]) {
    let Some((&form, rest)) = input.split_first() else { return };
    let sent = match form % 3 {
        0 => [PREFACE, &[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0], rest].concat(),
        1 => rest.to_vec(),
        _ => framed(rest),
    };
    SERVED.with(|served| {
        let Served { fixture, runtime, .. } = served.get_or_init(serve);
        runtime.block_on(exchange(fixture.engine.grpc_address(), &sent));
        assert!(fixture.store.ended.lock().expect("not poisoned").is_empty(), "the shard goes on");
    });
}

/// Each piece of the input is a frame: four bytes that say which, and what it holds.
fn framed(mut rest: &[u8]) -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    put(&mut out, SETTINGS, 0, 0, b"");
    while let Some((&[kind, flags, stream, length], after)) = rest.split_first_chunk() {
        let (payload, after) = after.split_at(usize::from(length).min(after.len()));
        rest = after;
        let stream = u32::from(stream);
        match kind % 9 {
            0 => {
                let path = PATHS[usize::from(payload.first().copied().unwrap_or(0)) % PATHS.len()];
                put(&mut out, HEADERS, END_HEADERS | (flags & END_STREAM), stream | 1, &call(path));
            }
            1 => put_message(&mut out, stream | 1, payload),
            2 => put(&mut out, DATA, flags, stream, payload),
            3 => put(&mut out, RST_STREAM, flags, stream, payload),
            4 => put(&mut out, WINDOW_UPDATE, flags, stream, payload),
            5 => put(&mut out, SETTINGS, flags, stream, payload),
            6 => put(&mut out, HEADERS, flags, stream, payload),
            7 => put(&mut out, CONTINUATION, flags, stream, payload),
            _ => put(&mut out, flags, length, stream, payload),
        }
    }
    out
}

/// From an address of this machine's own that changes, so that ports do not run out.
fn socket() -> TcpSocket {
    let turn = TURN.with(|turn| turn.replace(turn.get().wrapping_add(1)));
    let address = Ipv4Addr::new(127, (turn >> 13) as u8 % 250 + 1, (turn >> 5) as u8 % 250 + 1, 1);
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((address, 0))).expect("an address");
    socket
}

async fn exchange(address: SocketAddr, sent: &[u8]) {
    let done = tokio::time::timeout(PATIENCE, async {
        let stream = socket().connect(address).await.expect("the server listens");
        let (mut from, mut to) = stream.into_split();
        let write = async {
            // The server may have closed before it took all.
            let _ = to.write_all(sent).await;
            let _ = to.shutdown().await;
        };
        let read = async {
            let mut taken = vec![0; 16 << 10];
            while from.read(&mut taken).await.is_ok_and(|taken| taken > 0) {}
        };
        tokio::join!(write, read);
    });
    done.await.expect("the connection ends");
}
