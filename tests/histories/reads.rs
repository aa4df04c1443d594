//! Each kind of query, asked of the server and compared with the model.

use std::{collections::BTreeMap, time::Instant};

use ttdust_proto::{
    path,
    query::{
        KeyLookupRequest, KeyLookupResponse, Order, Record, StreamingReadRequest, StreamingReadResponse, TimeField,
        TimeRangeQueryRequest, TimeRangeQueryResponse,
    },
};

use super::{
    STREAM,
    client::{Call, Client, Ended},
    model::{Model, Random, Row},
    process::DEADLINE,
    rest,
};

/// Fields that records are looked up by.
pub const KEY_FIELDS: [&str; 4] = ["key", "n", "/deep/id", "flag"];
/// A field's keys are of so many.
pub const KEYS: usize = 24;

/// A key as records have it, by number.
pub fn key_of(field: &str, number: usize) -> String {
    match field {
        "flag" => number.is_multiple_of(2).to_string(),
        "n" => (number as i64 - 7).to_string(),
        // What has to be escaped in JSON, and what is no ASCII.
        _ if number.is_multiple_of(5) => format!("ключ \"{number}\"\n"),
        _ => format!("key-{number}"),
    }
}

/// A time range.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub start: i64,
    pub end: i64,
    pub field: TimeField,
}

impl Times {
    /// Of ingestion.
    pub const ALL: Self = Self { start: 0, end: i64::MAX, field: TimeField::Ingest };
}

/// A reader of the stream.
pub struct Reader {
    client: Client,
    http: String,
    /// Whether the store may be away for a moment: then the same query is asked again.
    patient: bool,
}

fn row_of(record: Record) -> (String, Row) {
    let metadata: BTreeMap<_, _> = record.metadata.into_iter().collect();
    let (sequence, time) = (record.sequence_number, record.timestamp_unix_micros);
    (record.record_id, Row { sequence, time, payload: record.payload, metadata })
}

impl Reader {
    pub async fn connect(grpc: &str, http: &str, patient: bool) -> Self {
        let client = Client::connect(grpc.parse().expect("an address")).await;
        Self { client, http: http.to_owned(), patient }
    }

    /// Whether to ask again.
    fn bears(&self, ended: &Ended, since: Instant) -> bool {
        let away = self.patient && ended.code == 14 && ended.reason == "OBJECTS_UNAVAILABLE";
        away && ended.retry_after.is_some() && since.elapsed() < DEADLINE
    }

    async fn ask<A>(&mut self, path: &str, request: &impl prost::Message) -> A
    where
        A: prost::Message + Default + std::fmt::Debug,
    {
        let since = Instant::now();
        loop {
            match tokio::time::timeout(DEADLINE, self.client.unary(path, request)).await.expect("an answer in time") {
                Ok(answer) => return answer,
                Err(ended) => assert!(self.bears(&ended, since), "{ended:?}"),
            }
            tokio::task::yield_now().await;
        }
    }

    /// One page of a time range.
    pub async fn page(
        &mut self,
        times: Times,
        limit: usize,
        order: Order,
        cursor: Option<String>,
    ) -> (Vec<Row>, Option<String>) {
        let request = TimeRangeQueryRequest {
            stream_id: STREAM.to_owned(),
            start_time_unix_micros: times.start,
            end_time_unix_micros: times.end,
            limit: Some(limit as i32),
            cursor,
            order: Some(order.into()),
            time_field: Some(times.field.into()),
        };
        let answer: TimeRangeQueryResponse = self.ask(path::QUERY_TIME_RANGE, &request).await;
        assert!(answer.records.len() <= limit, "{} records of {limit}", answer.records.len());
        assert!(!answer.records.is_empty() || answer.next_cursor.is_none(), "a page with nothing leads nowhere");
        (answer.records.into_iter().map(|record| row_of(record).1).collect(), answer.next_cursor)
    }

    /// The rest of a time range, page by page.
    pub async fn pages(&mut self, times: Times, limit: usize, order: Order, mut cursor: Option<String>) -> Vec<Row> {
        let mut rows = Vec::new();
        loop {
            let (page, next) = self.page(times, limit, order, cursor).await;
            rows.extend(page);
            match next {
                Some(next) => cursor = Some(next),
                None => return rows,
            }
        }
    }

    async fn find(&mut self, field: &str, key: &str) -> Option<(String, Row)> {
        let request = KeyLookupRequest { stream_id: STREAM.into(), key_field: field.into(), key_value: key.into() };
        let answer: KeyLookupResponse = self.ask(path::LOOKUP_BY_KEY, &request).await;
        assert_eq!(answer.found, answer.record.is_some());
        answer.record.map(row_of)
    }

    /// A time range between two moments at which something came in, or about all.
    pub async fn check_range(&mut self, model: &Model, random: &mut Random) {
        let mut moment = |otherwise: i64| match model.rows.len() {
            rows if rows > 0 && !random.one_in(4) => random.pick(&model.rows).time + random.below(3) as i64 - 1,
            _ => otherwise,
        };
        let (one, other) = (moment(0), moment(i64::MAX));
        let (start, end) = (one.min(other), one.max(other).max(one.min(other) + 1));
        let limit = [1, 7, 50, 1000][random.below(4)].max(model.rows.len() / 20);
        let times = Times { start, end, field: TimeField::Ingest };
        let mut wanted = model.range(start, end);
        assert_same(&self.pages(times, limit, Order::Asc, None).await, &wanted, "oldest first");
        wanted.reverse();
        assert_same(&self.pages(times, limit, Order::Desc, None).await, &wanted, "newest first");
    }

    /// A time range between two events, or about all, by gRPC and REST; where nothing tells when events were, none.
    pub async fn check_events(&mut self, model: &Model, random: &mut Random) {
        let Some(field) = model.event_field else { return self.check_no_events().await };
        let mut moment = |otherwise: i64| {
            let row = (!model.rows.is_empty() && !random.one_in(4)).then(|| random.pick(&model.rows));
            row.and_then(|row| row.event(field)).map_or(otherwise, |time| time + random.below(3) as i64 - 1)
        };
        let (one, other) = (moment(i64::MIN), moment(i64::MAX));
        let (start, end) = (one.min(other), one.max(other).max(one.min(other) + 1));
        let limit = [1, 7, 50, 1000][random.below(4)].max(model.rows.len() / 20);
        let times = Times { start, end, field: TimeField::Event };
        let mut wanted = model.events(field, start, end);
        let what = format!("events by {field} in {start}..{end}");
        assert_same(&self.pages(times, limit, Order::Asc, None).await, &wanted, &what);
        let sequences: Vec<i64> = wanted.iter().map(|row| row.sequence).collect();
        assert_eq!(self.sequences_over_rest(times, limit), sequences, "{what}, over REST");
        wanted.reverse();
        assert_same(&self.pages(times, limit, Order::Desc, None).await, &wanted, &what);
    }

    async fn check_no_events(&mut self) {
        let request = TimeRangeQueryRequest {
            stream_id: STREAM.to_owned(),
            end_time_unix_micros: i64::MAX,
            time_field: Some(TimeField::Event.into()),
            ..TimeRangeQueryRequest::default()
        };
        let since = Instant::now();
        let ended = loop {
            let refused = self.client.unary::<TimeRangeQueryResponse>(path::QUERY_TIME_RANGE, &request).await;
            let ended = refused.expect_err("refused");
            if !self.bears(&ended, since) {
                break ended;
            }
        };
        assert_eq!((ended.code, ended.reason.as_str()), (3, "NO_EVENT_TIME"), "{ended:?}");
    }

    /// The sequence numbers of all pages, oldest first.
    fn sequences_over_rest(&self, times: Times, limit: usize) -> Vec<i64> {
        let Times { start, end, .. } = times;
        let (mut found, mut cursor, since) = (Vec::new(), String::new(), Instant::now());
        loop {
            let query = format!("time_field=event&start={start}&end={end}&limit={limit}{cursor}");
            let path = format!("/api/v1/streams/{STREAM}/records?{query}");
            let (status, page) = rest::call(&self.http, "GET", &path, "");
            if status == 503 && self.patient && since.elapsed() < DEADLINE {
                continue;
            }
            assert_eq!(status, 200, "{path}: {page}");
            let records = page["records"].as_array().expect("records");
            found.extend(records.iter().map(|record| record["sequence_number"].as_i64().expect("a number")));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return found,
            }
        }
    }

    /// A key that is there, or was, or never was.
    pub async fn check_key(&mut self, model: &Model, random: &mut Random) {
        let field = *random.pick(&KEY_FIELDS);
        let key = key_of(field, random.below(KEYS + 4));
        let found = self.find(field, &key).await;
        assert_eq!(found.as_ref().map(|(_, row)| row), model.latest(field, &key), "{field} = {key:?}");
        // By the id that it has.
        if let Some((id, row)) = found {
            assert_eq!(self.find("_record_id", &id).await, Some((id, row)));
        }
    }

    /// Records that are gone are not found by the ids that they had.
    pub async fn check_ids(&mut self, model: &Model, ids: &BTreeMap<i64, String>, random: &mut Random) {
        let Some((sequence, id)) = ids.iter().nth(random.below(ids.len().max(1))) else { return };
        let found = self.find("_record_id", id).await.map(|(_, row)| row);
        assert_eq!(found.as_ref(), model.at(*sequence), "{id}, record {sequence}");
    }

    /// A record of a stream that was deleted is found in no other.
    pub async fn check_gone(&mut self, id: &str) {
        assert_eq!(self.find("_record_id", id).await, None, "{id} is of a stream that was deleted");
    }

    /// The ids of some records, by sequence number.
    pub async fn ids(&mut self) -> BTreeMap<i64, String> {
        let request = TimeRangeQueryRequest {
            stream_id: STREAM.to_owned(),
            end_time_unix_micros: i64::MAX,
            limit: Some(10_000),
            ..TimeRangeQueryRequest::default()
        };
        let answer: TimeRangeQueryResponse = self.ask(path::QUERY_TIME_RANGE, &request).await;
        answer.records.into_iter().map(|record| (record.sequence_number, record.record_id)).collect()
    }

    /// A tail from somewhere to the end.
    pub async fn check_tail(&mut self, model: &Model, random: &mut Random) {
        let by_time = random.one_in(3) && !model.rows.is_empty();
        let (mut request, wanted) = if by_time {
            let start = random.pick(&model.rows).time;
            let request = StreamingReadRequest { start_time: Some(start), ..StreamingReadRequest::default() };
            (request, model.range(start, i64::MAX))
        } else {
            let start = 1 + random.below(model.last as usize + 1) as i64;
            let request = StreamingReadRequest { start_sequence: Some(start), ..StreamingReadRequest::default() };
            (request, model.rows.iter().filter(|row| row.sequence >= start).cloned().collect())
        };
        request.stream_id = STREAM.to_owned();
        let (mut read, since) = (Vec::new(), Instant::now());
        while read.len() < wanted.len() {
            let mut call = self.open_tail(&request).await;
            let ended = loop {
                match next_of(&mut call).await {
                    Ok(row) => read.push(row),
                    Err(ended) => break ended,
                }
                if read.len() == wanted.len() {
                    assert_same(&read, &wanted, "a tail");
                    return;
                }
            };
            assert!(self.bears(&ended, since), "{ended:?}");
            if let Some(last) = read.last() {
                (request.start_time, request.start_sequence) = (None, Some(last.sequence + 1));
            }
        }
    }

    /// A tail that waits for what comes.
    pub async fn open_tail(&mut self, request: &StreamingReadRequest) -> Call {
        let mut call = self.client.call(path::STREAMING_READ).await;
        call.send(request).await;
        call.finish();
        call.opened().await;
        call
    }
}

/// The next record of a tail.
pub async fn next_of(call: &mut Call) -> Result<Row, Ended> {
    let next = tokio::time::timeout(DEADLINE, call.receive::<StreamingReadResponse>()).await;
    let answer = next.expect("a record in time")?;
    Ok(row_of(answer.record.expect("a record")).1)
}

/// Records are the same; what differs first is shown, not all of them.
#[track_caller]
pub fn assert_same(found: &[Row], wanted: &[Row], what: &str) {
    if found == wanted {
        return;
    }
    let sequences = |rows: &[Row]| rows.iter().map(|row| row.sequence).collect::<Vec<_>>();
    assert_eq!(sequences(found), sequences(wanted), "{what}");
    let differs = found.iter().zip(wanted).find(|(found, wanted)| found != wanted);
    panic!("{what}: {differs:?}");
}
