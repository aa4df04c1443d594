//! A machine, its clients and its accidents.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use ttdust_shards::{
    config::WalConfig,
    ids::StreamId,
    io::{
        BLOCK_BYTES, Clock, Disk,
        sim::{Crash, SimClock, SimDisk, SimRng},
    },
    wal::{
        WriteOp,
        batch::RowBatch,
        inspect,
        recovery::RecoveryError,
        segment::{self, PreparedSegment, ReleasedSegment, SegmentRequest},
    },
};

use crate::model::{Model, key};

const STREAMS: u64 = 3;
const EVENTS: usize = 400;

/// A submission that is on stable storage.
#[derive(Debug)]
pub struct Ack {
    /// Which.
    pub token: u64,
    /// The sequence number of its first record.
    pub first_sequence: i64,
}

/// A subject after its start.
#[derive(Debug)]
pub struct Recovery<S> {
    /// It.
    pub subject: S,
    /// All that it found.
    pub batches: Vec<RowBatch>,
    /// Whether it cut something off.
    pub torn: bool,
}

/// What is simulated: the owner of a log. The world does the I/O that it asks for.
pub trait Subject: Sized {
    /// Starts on what `dir` holds.
    fn recover(
        disk: &dyn Disk,
        dir: &Path,
        config: WalConfig,
        salt: u32,
        flushed: &BTreeMap<StreamId, i64>,
    ) -> Result<Recovery<Self>, RecoveryError>;
    /// Takes records, to be acknowledged under `token`; `false`: refused.
    fn submit(&mut self, token: u64, stream: StreamId, now: i64, payloads: &[Bytes], keys: &[Bytes]) -> bool;
    /// The next write, if none is under way.
    fn next_write(&mut self) -> Option<WriteOp>;
    /// How it ended; `None`: the subject cannot go on.
    fn written(&mut self, op: &WriteOp, result: io::Result<()>) -> Option<Vec<Ack>>;
    /// A segment that it wants.
    fn wants_segment(&mut self) -> Option<SegmentRequest>;
    /// The segment that it wanted, or `None` if there is none.
    fn offer_segment(&mut self, segment: Option<PreparedSegment>);
    /// Segments that it is done with.
    fn release(&mut self) -> Vec<ReleasedSegment>;
    /// The rows in its buffer.
    fn rows(&mut self) -> &mut [RowBatch];
    /// Rows of a stream are in committed files.
    fn flush(&mut self, stream: StreamId, through: i64);
}

/// What happened, counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Submissions acknowledged.
    pub acks: u64,
    /// The power went.
    pub power_cuts: u64,
    /// The process was killed.
    pub kills: u64,
    /// Recoveries that came to their end.
    pub recoveries: u64,
    /// Recoveries that a crash or fault cut short.
    pub cut_recoveries: u64,
    /// Recoveries that found a torn tail.
    pub torn: u64,
    /// Calls that failed.
    pub faults: u64,
    /// Segments recycled.
    pub recycled: u64,
    /// Writes that came to the disk after their process was gone.
    pub late: u64,
    /// Stands for the whole run.
    pub trace: u64,
}

impl Tally {
    /// Adds another run.
    pub fn add(&mut self, other: &Self) {
        self.acks += other.acks;
        self.power_cuts += other.power_cuts;
        self.kills += other.kills;
        self.recoveries += other.recoveries;
        self.cut_recoveries += other.cut_recoveries;
        self.torn += other.torn;
        self.faults += other.faults;
        self.recycled += other.recycled;
        self.late += other.late;
        self.trace = self.trace.rotate_left(7) ^ other.trace;
    }
}

/// What the thread that prepares segments has to do.
#[derive(Debug)]
enum Work {
    Prepare(SegmentRequest),
    Remove(ReleasedSegment),
}

/// A write that a killed process had asked for and the kernel has not done yet.
#[derive(Debug)]
struct LateWrite {
    node: usize,
    op: WriteOp,
}

/// See the file's comment.
#[derive(Debug)]
pub struct World<S> {
    rng: SimRng,
    disk: SimDisk,
    clock: SimClock,
    dir: PathBuf,
    config: WalConfig,
    model: Model,
    subject: S,
    write: Option<WriteOp>,
    late: Option<LateWrite>,
    work: VecDeque<Work>,
    tally: Tally,
}

/// Why a run goes on no further: the model was violated, or the subject is gone and must start anew.
enum Stop {
    Violation(String),
    Dead,
}

impl From<String> for Stop {
    fn from(violation: String) -> Self {
        Self::Violation(violation)
    }
}

impl<S: Subject> World<S> {
    /// Runs a seed to its end.
    pub fn run(seed: u64, lies_about_sync: bool) -> Result<Tally, String> {
        let mut rng = SimRng::new(seed);
        let disk = SimDisk::new(rng.next_u64());
        disk.lie_about_sync(lies_about_sync);
        let segment_bytes = BLOCK_BYTES as u64 * [4, 6, 16][rng.below(3) as usize];
        let config = WalConfig {
            segment_bytes,
            quota_bytes: segment_bytes * (4 + rng.below(12)),
            frame_bytes: BLOCK_BYTES * (1 + rng.below(4) as usize),
            segments_ahead: 1 + rng.below(2) as usize,
            archive: false,
        };
        let dir = PathBuf::from("/wal/1");
        let model = Model::default();
        let start = S::recover(&disk, &dir, config, rng.next_u64() as u32, model.flushed())
            .map_err(|error| format!("an empty folder was refused: {error}"))?;
        let mut world = Self {
            rng,
            disk,
            clock: SimClock::new(1_700_000_000_000_000),
            dir,
            config,
            model,
            subject: start.subject,
            write: None,
            late: None,
            work: VecDeque::new(),
            tally: Tally::default(),
        };
        for _ in 0..EVENTS {
            world.event().or_else(|stop| world.stopped(stop))?;
        }
        world.disk.crash(Crash::Power);
        world.restart()?;
        world.tally.trace ^= world.disk.trace();
        Ok(world.tally)
    }

    fn event(&mut self) -> Result<(), Stop> {
        match self.rng.below(100) {
            0..34 => self.submit(),
            34..54 => self.begin_write(),
            54..74 => return self.finish_write(),
            74..80 => self.work.extend(self.subject.wants_segment().map(Work::Prepare)),
            80..88 => return self.serve(),
            88..90 => self.flush(),
            90..92 => self.work.extend(self.subject.release().into_iter().map(Work::Remove)),
            92..95 => return self.read(),
            95..97 => self.set_accident(),
            _ => {
                self.clock.advance(self.rng.below(1_000_000));
                if self.rng.one_in(10) {
                    let crash = if self.rng.one_in(2) { Crash::Power } else { Crash::Kill };
                    return self.crash(crash);
                }
            }
        }
        Ok(())
    }

    fn stopped(&mut self, stop: Stop) -> Result<(), String> {
        match stop {
            Stop::Violation(violation) => Err(violation),
            Stop::Dead => self.restart(),
        }
    }

    fn submit(&mut self) {
        let stream = StreamId::from_bytes([1 + self.rng.below(STREAMS) as u8; 16]);
        let (token, payloads) = self.model.submit(stream, &mut self.rng);
        let keys: Vec<_> = match token % 2 {
            0 => (0..payloads.len()).map(|index| key(token, index)).collect(),
            _ => Vec::new(),
        };
        self.clock.advance(self.rng.below(100));
        self.subject.submit(token, stream, self.clock.unix_micros(), &payloads, &keys);
    }

    fn begin_write(&mut self) {
        if self.write.is_none() {
            self.write = self.subject.next_write();
        }
    }

    fn finish_write(&mut self) -> Result<(), Stop> {
        let Some(op) = self.write.take() else { return Ok(()) };
        let result = op.segment.file.write_durable(&op.data, op.offset);
        if self.disk.is_down() {
            return Err(Stop::Dead);
        }
        self.tally.faults += u64::from(result.is_err());
        let Some(acks) = self.subject.written(&op, result) else { return self.crash(Crash::Kill) };
        for ack in acks {
            self.model.acked(ack.token, ack.first_sequence)?;
            self.tally.acks += 1;
            self.tally.trace = self.tally.trace.rotate_left(5) ^ ack.token;
        }
        // By now the kernel has finished what it will.
        self.land_late_write();
        Ok(())
    }

    /// In the order in which the log gave it out, as its contract says.
    fn serve(&mut self) -> Result<(), Stop> {
        match self.work.pop_front() {
            None => {}
            Some(Work::Prepare(order)) => {
                let recycles = order.recycle.is_some();
                let made = segment::prepare(&self.disk, &self.dir, order);
                self.check_call(&made)?;
                self.tally.recycled += u64::from(recycles && made.is_ok());
                self.subject.offer_segment(made.ok());
            }
            Some(Work::Remove(released)) => {
                let removed = segment::remove(&self.disk, &released);
                self.check_call(&removed)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        let rows = self.subject.rows();
        if rows.is_empty() {
            return;
        }
        let header = *rows[self.rng.below(rows.len() as u64) as usize].header();
        self.model.flush(header.stream, header.last_sequence());
        self.subject.flush(header.stream, header.last_sequence());
    }

    /// Spills a batch and reads another.
    fn read(&mut self) -> Result<(), Stop> {
        let rows = self.subject.rows();
        if rows.is_empty() {
            return Ok(());
        }
        rows[self.rng.below(rows.len() as u64) as usize].spill();
        let batch = rows[self.rng.below(rows.len() as u64) as usize].clone();
        let checked = self.model.check_batch(&batch);
        if self.disk.is_down() {
            return Err(Stop::Dead);
        }
        match checked {
            Err(what) if what.contains("a simulated fault") => Ok(()),
            checked => Ok(checked.map(drop)?),
        }
    }

    fn set_accident(&mut self) {
        match self.rng.below(3) {
            0 => self.disk.crash_after(1 + self.rng.below(12), Crash::Power),
            1 => self.disk.crash_after(1 + self.rng.below(12), Crash::Kill),
            _ => {
                let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::Other];
                self.disk.fail_after(1 + self.rng.below(8), kinds[self.rng.below(2) as usize]);
            }
        }
    }

    fn check_call<T>(&mut self, result: &io::Result<T>) -> Result<(), Stop> {
        if self.disk.is_down() {
            return Err(Stop::Dead);
        }
        self.tally.faults += u64::from(result.is_err());
        Ok(())
    }

    fn crash(&mut self, crash: Crash) -> Result<(), Stop> {
        self.disk.crash(crash);
        Err(Stop::Dead)
    }

    fn land_late_write(&mut self) {
        if let Some(LateWrite { node, op }) = self.late.take() {
            self.tally.late += 1;
            self.disk.write_late(node, &op.data, op.offset);
        }
    }

    fn restart(&mut self) -> Result<(), String> {
        self.work.clear();
        self.late = None;
        let crash = self.disk.crash_kind().unwrap_or(Crash::Kill);
        if let Some(op) = self.write.take()
            && crash == Crash::Kill
            && self.rng.one_in(2)
        {
            self.late = self.disk.node(&op.segment.path).map(|node| LateWrite { node, op });
        }
        self.count_crash(crash);
        self.disk.restart();
        loop {
            if self.rng.one_in(4) {
                self.land_late_write();
            }
            match self.rng.below(6) {
                0 => self.disk.crash_after(1 + self.rng.below(30), Crash::Power),
                1 => self.disk.fail_after(1 + self.rng.below(30), io::ErrorKind::Other),
                _ => {}
            }
            let salt = self.rng.next_u64() as u32;
            match S::recover(&self.disk, &self.dir, self.config, salt, self.model.flushed()) {
                Ok(recovery) => {
                    self.disk.clear_accidents();
                    self.tally.recoveries += 1;
                    self.tally.torn += u64::from(recovery.torn);
                    self.model.check_recovered(&recovery.batches)?;
                    self.subject = recovery.subject;
                    return Ok(());
                }
                Err(RecoveryError::Io { .. }) => {
                    self.tally.cut_recoveries += 1;
                    if let Some(crash) = self.disk.crash_kind() {
                        // Nothing of a killed process is left after the power was gone.
                        self.late = None;
                        self.count_crash(crash);
                    }
                    self.disk.restart();
                }
                Err(error @ RecoveryError::Damaged { .. }) => {
                    self.disk.clear_accidents();
                    let mut frames = Vec::new();
                    let report = inspect::inspect(&self.disk, &self.dir, None, &mut |frame| frames.push(frame.clone()));
                    return Err(format!("nothing was damaged, but: {error}\n{frames:#?}\n{report:#?}"));
                }
            }
        }
    }

    fn count_crash(&mut self, crash: Crash) {
        match crash {
            Crash::Power => self.tally.power_cuts += 1,
            Crash::Kill => self.tally.kills += 1,
        }
    }
}
