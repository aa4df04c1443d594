//! One connection under load, as one task: keeps its requests in flight, reads answers, counts.

use std::{
    cell::{RefCell, RefMut},
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::{io::Interest, net::TcpStream};

use crate::{
    protocol::{Protocol, Shape},
    wire::Wire,
};

/// Room for one read.
const READ_BYTES: usize = 256 << 10;

/// What was counted over all connections.
#[derive(Debug)]
pub struct Stats {
    /// Records acked in the window.
    pub window_records: u64,
    /// Requests acked in the window.
    pub window_requests: u64,
    /// Of the requests that began in the window, in ns.
    pub latency: Histogram<u64>,
    /// Records acked in all.
    pub acked: u64,
    /// Requests sent in all.
    pub sent: u64,
    /// Requests without an answer.
    pub unanswered: u64,
}

/// When what happens, and what came of it.
#[derive(Debug)]
pub struct Course {
    began: Instant,
    /// When the window begins.
    pub from: Instant,
    /// When it ends, and the last request goes.
    pub to: Instant,
    last: Instant,
    stats: RefCell<Stats>,
}

impl Course {
    /// A run whose window is from `from` to `to`, and that ends `drain` later at the latest.
    ///
    /// # Panics
    /// Never: the bounds of the histogram are constants.
    #[must_use]
    pub fn new(began: Instant, from: Instant, to: Instant, drain: Duration) -> Self {
        let latency = Histogram::new_with_bounds(1000, 60_000_000_000, 3).expect("constant bounds");
        let stats = Stats { window_records: 0, window_requests: 0, latency, acked: 0, sent: 0, unanswered: 0 };
        Self { began, from, to, last: to + drain, stats: RefCell::new(stats) }
    }

    /// What was counted.
    pub fn stats(&self) -> RefMut<'_, Stats> {
        self.stats.borrow_mut()
    }

    fn now_ns(&self, now: Instant) -> u64 {
        now.duration_since(self.began).as_nanos() as u64
    }
}

/// See the module's comment.
pub struct Line {
    socket: TcpStream,
    protocol: Box<dyn Protocol>,
    shape: Rc<Shape>,
    /// When the request in each slot was sent, in ns since the run began.
    begun: Vec<u64>,
    free: Vec<u32>,
    first: usize,
    out: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    filled: usize,
    done: Vec<u32>,
}

impl Line {
    /// A connection with `in_flight` requests open at a time; each begins elsewhere among the records.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn new(
        wire: Wire,
        protocol: Box<dyn Protocol>,
        shape: Rc<Shape>,
        in_flight: u32,
        number: usize,
    ) -> io::Result<Self> {
        let (socket, held) = wire.into_parts()?;
        let first = number * shape.records.len() / usize::from(shape.connections);
        let mut input = held;
        let filled = input.len();
        input.resize(filled + READ_BYTES, 0);
        Ok(Self {
            socket: TcpStream::from_std(socket)?,
            protocol,
            shape,
            begun: vec![0; in_flight as usize],
            free: (0..in_flight).collect(),
            first,
            out: Vec::new(),
            written: 0,
            input,
            filled,
            done: Vec::new(),
        })
    }

    /// Sends until the window ends, and waits for what is open then.
    ///
    /// # Errors
    /// The connection broke, or the server refused something: the load on this connection ended there.
    pub async fn run(mut self, course: &Course) -> io::Result<()> {
        let result = self.work(course).await;
        course.stats().unanswered += (self.begun.len() - self.free.len()) as u64;
        result
    }

    async fn work(&mut self, course: &Course) -> io::Result<()> {
        loop {
            let now = Instant::now();
            if now < course.to {
                self.fill(course, now);
            } else if self.free.len() == self.begun.len() {
                return Ok(());
            }
            let wrote = self.write()?;
            let read = self.read(course)?;
            if wrote || read {
                // Others get their turn: answers of theirs may lie in the kernel.
                tokio::task::yield_now().await;
                continue;
            }
            let interest = if self.written < self.out.len() {
                Interest::READABLE | Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            let ready = tokio::time::timeout_at(course.last.into(), self.socket.ready(interest));
            ready.await.map_err(|_| io::Error::other("the server did not answer all in time"))??;
        }
    }

    fn fill(&mut self, course: &Course, now: Instant) {
        let now_ns = course.now_ns(now);
        let mut sent = 0;
        while let Some(slot) = self.free.pop() {
            self.protocol.request(&mut self.out, &self.shape, slot, self.first);
            self.first = (self.first + self.shape.batch as usize) % self.shape.records.len();
            self.begun[slot as usize] = now_ns;
            sent += 1;
        }
        course.stats().sent += sent;
    }

    /// Writes what the kernel takes. Whether it took anything.
    fn write(&mut self) -> io::Result<bool> {
        let before = self.written;
        while self.written < self.out.len() {
            match self.socket.try_write(&self.out[self.written..]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(self.written > before),
                Err(error) => return Err(error),
            }
        }
        let wrote = self.written > before;
        self.out.clear();
        self.written = 0;
        Ok(wrote)
    }

    /// Reads what is there, once. Whether anything was.
    fn read(&mut self, course: &Course) -> io::Result<bool> {
        if self.input.len() - self.filled < READ_BYTES / 2 {
            self.input.resize(self.input.len() * 2, 0);
        }
        match self.socket.try_read(&mut self.input[self.filled..]) {
            Ok(0) => return Err(io::Error::other("the server closed the connection")),
            Ok(n) => self.filled += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        let used = self.protocol.answers(&self.input[..self.filled], &mut self.out, &mut self.done)?;
        self.input.copy_within(used..self.filled, 0);
        self.filled -= used;
        self.count(course, Instant::now());
        Ok(true)
    }

    fn count(&mut self, course: &Course, now: Instant) {
        let (now_ns, from_ns) = (course.now_ns(now), course.now_ns(course.from));
        let stats = &mut *course.stats();
        let in_window = (course.from..course.to).contains(&now);
        for slot in self.done.drain(..) {
            let begun = self.begun[slot as usize];
            if begun >= from_ns {
                stats.latency.saturating_record(now_ns - begun);
            }
            if in_window {
                stats.window_records += u64::from(self.shape.batch);
                stats.window_requests += 1;
            }
            stats.acked += u64::from(self.shape.batch);
            self.free.push(slot);
        }
    }
}
