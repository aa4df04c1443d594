//! Ranges of an object: those that lie near each other are fetched as one, and several at a time.

use std::{
    io,
    ops::Range,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::{self, ThreadId},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::runtime::Handle;
use ttdust_shards::parquet::source::{FileSource, RangeRead};

use super::{
    S3Objects,
    request::{Call, Operation},
};
use crate::{objects::ObjectError, traces};

/// Bytes between two ranges that cost less than another request.
const GAP_BYTES: u64 = 256 << 10;
/// Ranges are not put together beyond this.
const TOGETHER_BYTES: u64 = 8 << 20;
/// Requests of one read at a time.
const AT_ONCE: usize = 6;
/// What waiting for a free connection may add to a read.
const QUEUE_PATIENCE: Duration = Duration::from_secs(30);

/// The requests that cover `ranges`, in order; no empty ones.
fn fetches(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<_> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut fetches: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match fetches.last_mut() {
            Some(last)
                if range.end <= last.end
                    || (range.start <= last.end.saturating_add(GAP_BYTES)
                        && range.end - last.start <= TOGETHER_BYTES) =>
            {
                last.end = last.end.max(range.end);
            }
            _ => fetches.push(range),
        }
    }
    fetches
}

/// What `wanted` is of what was fetched.
fn cut(wanted: &Range<u64>, fetched: &[(Range<u64>, Bytes)]) -> Bytes {
    if wanted.is_empty() {
        return Bytes::new();
    }
    let holds = |range: &Range<u64>| range.start <= wanted.start && wanted.end <= range.end;
    let (range, bytes) = fetched.iter().find(|(range, _)| holds(range)).expect("every range is covered");
    let start = usize::try_from(wanted.start - range.start).expect("within what is in memory");
    let length = usize::try_from(wanted.end - wanted.start).expect("within what is in memory");
    bytes.slice(start..start + length)
}

impl S3Objects {
    /// See [`crate::objects::Objects::read_ranges`].
    pub(in crate::objects) async fn read_ranges(
        &self,
        key: &str,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, ObjectError> {
        let fetch = |range: Range<u64>| async move {
            let bytes = self.read_range(key, range.clone()).await?;
            Ok::<_, ObjectError>((range, bytes))
        };
        let fetched: Vec<_> = stream::iter(fetches(ranges)).map(fetch).buffer_unordered(AT_ONCE).try_collect().await?;
        Ok(ranges.iter().map(|range| cut(range, &fetched)).collect())
    }

    /// Exactly this range, which is not empty.
    pub(super) async fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, ObjectError> {
        let length = range.end - range.start;
        let mut call = Call::new(Operation::Get, key);
        call.headers.push(("range", format!("bytes={}-{}", range.start, range.end - 1)));
        call.limit = length;
        let answer = self.requests().call(&call).await?;
        let got = answer.body.len() as u64;
        match answer.status.as_u16() {
            404 => Err(ObjectError::NotFound { key: key.to_owned() }),
            416 => Err(ObjectError::TooShort { key: key.to_owned() }),
            206 if got == length => Ok(answer.body),
            // Cut at the object's end.
            206 if got < length => Err(ObjectError::TooShort { key: key.to_owned() }),
            // All of the object, as some stores answer when that is what the range is.
            200 if range.start == 0 && got == length => Ok(answer.body),
            200 if got < range.end => Err(ObjectError::TooShort { key: key.to_owned() }),
            status => Err(call.denied(format!("{status} and {got} bytes in answer to a range of {length}"))),
        }
    }

    /// See [`crate::objects::Objects::source`].
    pub(in crate::objects) fn source(&self, key: &str, bytes: u64) -> FileSource {
        let reader = ObjectReader {
            objects: self.clone(),
            key: key.to_owned(),
            runtime: self.runtime().clone(),
            runtime_thread: self.runtime_thread(),
        };
        FileSource::Object { key: PathBuf::from(self.name_of(key)), bytes, ranges: Arc::new(reader) }
    }
}

/// Reads an object on a thread that may block: the control runtime does the work meanwhile.
#[derive(Debug)]
struct ObjectReader {
    objects: S3Objects,
    key: String,
    runtime: Handle,
    runtime_thread: ThreadId,
}

impl RangeRead for ObjectReader {
    fn read_ranges(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
        assert_ne!(thread::current().id(), self.runtime_thread, "the runtime would wait for itself");
        let (objects, key, wanted) = (self.objects.clone(), self.key.clone(), ranges.to_vec());
        let bytes = ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum();
        let patience = self.objects.requests().patience(bytes) + QUEUE_PATIENCE;
        let (answer, wait) = mpsc::sync_channel(1);
        let work = self.runtime.spawn(traces::carried(async move {
            // Whoever waited may have given up.
            let _ = answer.send(objects.read_ranges(&key, &wanted).await);
        }));
        match wait.recv_timeout(patience) {
            Ok(outcome) => outcome.map_err(io::Error::from),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                work.abort();
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer from the object store in {patience:?}")))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(io::Error::new(io::ErrorKind::BrokenPipe, "the server is ending"))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one range is meant")]
mod tests {
    use super::*;

    #[test]
    fn near_ranges_are_one_fetch_and_far_ones_are_not() {
        const MIB: u64 = 1 << 20;
        assert_eq!(fetches(&[]), []);
        assert_eq!(fetches(&[5..5]), []);
        assert_eq!(fetches(&[10..20, 0..5]), [0..20]);
        assert_eq!(fetches(&[0..10, 2..4, 5..30]), [0..30]);
        assert_eq!(fetches(&[0..10, 10 + GAP_BYTES..20 + GAP_BYTES]), [0..20 + GAP_BYTES]);
        assert_eq!(fetches(&[0..10, 11 + GAP_BYTES..12 + GAP_BYTES]).len(), 2);
        assert_eq!(fetches(&[0..6 * MIB, 6 * MIB..10 * MIB]), [0..6 * MIB, 6 * MIB..10 * MIB]);
        assert_eq!(fetches(&[0..20 * MIB, MIB..2 * MIB]), [0..20 * MIB]);
    }

    #[test]
    fn what_is_wanted_is_cut_out() {
        let content = Bytes::from_iter(0..100_u8);
        let fetched = [(10..40, content.slice(10..40)), (60..100, content.slice(60..100))];
        for wanted in [10..40, 11..12, 60..61, 99..100] {
            assert_eq!(cut(&wanted, &fetched), content.slice(wanted.start as usize..wanted.end as usize));
        }
        assert_eq!(cut(&(3..3), &fetched), Bytes::new());
    }
}
