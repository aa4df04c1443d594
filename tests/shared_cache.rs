//! Parts of files in Redis: what one run of a server asked the store for, the next one finds there; and a Redis that hangs, is
//! gone, is full or holds something else costs an answer nothing but a moment.

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/process.rs"]
mod process;
#[path = "server/producer.rs"]
mod producer;
#[path = "server/redis.rs"]
mod redis_server;
#[path = "server/rest.rs"]
mod rest;
#[path = "server/s3.rs"]
mod s3;
#[path = "server/site.rs"]
mod site;

use std::time::{Duration, Instant};

use bytes::Bytes;
use process::{Server, wait_for};
use producer::{Producer, block_on};
use redis_server::Redis;
use serde_json::json;
use site::{Site, wait_until_flushed};

/// A site whose server keeps nothing in its own memory, and its Redis.
fn site(redis: &Redis, more: &[(&'static str, &'static str)]) -> Site {
    let own = [("query.cache_bytes", "0"), ("log.level", "info"), ("redis.timeout_ms", "200")];
    let mut site = Site::new(&[&own[..], more].concat());
    site.settings.push(("redis.url", redis.url()));
    site
}

fn batch(from: usize) -> Vec<Bytes> {
    let record = |n| json!({"id": format!("id-{n}"), "filler": "x".repeat(n % 300)}).to_string().into();
    (from..from + 100).map(record).collect()
}

fn create(server: &Server) -> String {
    rest::create_stream_with(&server.http, "clicks", &json!({"type": "object"}), &["id"])
}

async fn fill(server: &Server, stream: &str, producer: &mut Producer, flushes: usize) {
    for _ in 0..flushes {
        producer.append(batch(producer.acked.len())).await.expect("acked");
        wait_until_flushed(server, stream, producer);
    }
}

async fn check_read(producer: &mut Producer) {
    let read = producer.read_all().await;
    producer.check(&read);
}

/// What of `hits` and `misses` this level has counted.
fn counted(server: &Server, what: &str) -> u64 {
    let (_, text) = rest::call(&server.http, "GET", "/metrics", "");
    let line = format!("ttdust_query_cache_{what}_total{{cache_level=\"redis\"}} ");
    let text = text.as_str().expect("text");
    text.lines().find_map(|l| l.strip_prefix(&line)).expect("a metric").parse().expect("a number")
}

fn keys(connection: &mut redis::Connection) -> Vec<String> {
    redis::cmd("KEYS").arg("ttdust:part:*").query(connection).expect("keys")
}

fn connect(redis: &Redis) -> redis::Connection {
    redis::Client::open(redis.url()).and_then(|client| client.get_connection()).expect("connected")
}

/// Waits until what is asked for is kept: from then on the store is not asked for it.
async fn warm(site: &Site, producer: &mut Producer) {
    let end = Instant::now() + process::DEADLINE;
    loop {
        let before = site.store.count("get");
        check_read(producer).await;
        if site.store.count("get") == before {
            return;
        }
        assert!(Instant::now() < end, "the store is asked again and again");
    }
}

#[test]
fn what_was_read_once_is_read_from_redis_by_the_next_run_too() {
    let redis = Redis::start();
    let site = site(&redis, &[]);
    let server = site.start();
    let stream = create(&server);
    let acked = block_on(async {
        let mut producer = Producer::connect(&server.grpc, &stream).await;
        fill(&server, &stream, &mut producer, 4).await;
        check_read(&mut producer).await;
        assert!(counted(&server, "misses") > 0);
        warm(&site, &mut producer).await;
        assert!(counted(&server, "hits") > 0);
        producer.acked
    });
    server.kill();
    let mut connection = connect(&redis);
    for key in keys(&mut connection) {
        let ttl: i64 = redis::cmd("TTL").arg(&key).query(&mut connection).expect("a time");
        let bytes: u64 = redis::cmd("STRLEN").arg(&key).query(&mut connection).expect("a length");
        assert!((1..=3600).contains(&ttl) && bytes <= (1 << 20) + 4, "{key}: {ttl} s, {bytes} bytes");
        assert!(key.contains(&stream), "{key}");
    }

    let server = site.start();
    block_on(async {
        let mut producer = Producer::reconnect(&server.grpc, &stream, acked).await;
        let before = site.store.count("get");
        check_read(&mut producer).await;
        let records = format!("/api/v1/streams/{stream}/records?key_field=id&key_value=");
        for (key, found) in [("id-7", true), ("id-399", true), ("id-400", false)] {
            let (status, answer) = rest::call(&server.http, "GET", &format!("{records}{key}"), "");
            assert_eq!((status, &answer["found"]), (200, &json!(found)), "{answer}");
        }
        assert!(site.store.count("get") > before, "the keys were asked for the first time");
        // Without the store, what is known is answered.
        warm(&site, &mut producer).await;
        site.store.set_up(false);
        check_read(&mut producer).await;
        let (status, answer) = rest::call(&server.http, "GET", &format!("{records}id-7"), "");
        assert_eq!((status, &answer["found"]), (200, &json!(true)), "{answer}");
        site.store.set_up(true);
    });
    assert!(server.stop().success());
}

#[test]
fn what_redis_holds_is_looked_at_before_it_is_used() {
    let redis = Redis::start();
    let site = site(&redis, &[]);
    let server = site.start();
    let stream = create(&server);
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, &stream).await;
        fill(&server, &stream, &mut producer, 4).await;
        warm(&site, &mut producer).await;
        let mut connection = connect(&redis);
        let keys = keys(&mut connection);
        assert!(keys.len() > 4, "{keys:?}");
        let value = |connection: &mut redis::Connection, key: &str| -> Vec<u8> {
            redis::cmd("GET").arg(key).query(connection).expect("a value")
        };
        let values: Vec<_> = keys.iter().map(|key| value(&mut connection, key)).collect();
        // Each with another's value, shortened, with a bit of it turned, and empty.
        for (at, key) in keys.iter().enumerate() {
            let mut damaged = match at % 4 {
                0 => values[(at + 1) % values.len()].clone(),
                1 => values[at][..values[at].len() / 2].to_vec(),
                2 => values[at].clone(),
                _ => Vec::new(),
            };
            if at % 4 == 2 {
                let middle = damaged.len() / 2;
                damaged[middle] ^= 0x10;
            }
            redis::cmd("SET").arg(key).arg(damaged).arg("KEEPTTL").exec(&mut connection).expect("set");
        }
        let before = site.store.count("get");
        check_read(&mut producer).await;
        assert!(site.store.count("get") > before, "the store is asked again");
        warm(&site, &mut producer).await;
        // A value of another type is none.
        for key in &keys {
            redis::pipe().del(key).lpush(key, "x").exec(&mut connection).expect("set");
        }
        check_read(&mut producer).await;
    });
    assert!(server.stop().success());
}

#[test]
fn a_redis_that_hangs_or_is_gone_or_full_costs_a_query_a_moment_at_most() {
    let mut redis = Redis::start();
    let site = site(&redis, &[]);
    let server = site.start();
    let stream = create(&server);
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, &stream).await;
        fill(&server, &stream, &mut producer, 4).await;
        warm(&site, &mut producer).await;

        redis.stop();
        let start = Instant::now();
        for _ in 0..5 {
            check_read(&mut producer).await;
        }
        // One time limit, of one ask, is waited for; not one an ask. The rest is the machine's.
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        wait_for("word of it", || server.log().contains("queries ask the object store alone").then_some(()));
        redis.go_on();
        let hits = counted(&server, "hits");
        wait_for("Redis again", || {
            let (_, answer) = rest::call(&server.http, "GET", &format!("/api/v1/streams/{stream}/records"), "");
            assert_eq!(answer["records"].as_array().map(Vec::len), Some(producer.acked.len()), "{answer}");
            (counted(&server, "hits") > hits).then_some(())
        });

        let again = redis.kill();
        check_read(&mut producer).await;
        redis = again();
        wait_for("another Redis", || {
            rest::call(&server.http, "GET", &format!("/api/v1/streams/{stream}/records"), "");
            let mut connection = connect(&redis);
            (!keys(&mut connection).is_empty()).then_some(())
        });
        // Full: it refuses what is new, and what it has is read all the same.
        warm(&site, &mut producer).await;
        let mut connection = connect(&redis);
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").exec(&mut connection).expect("set");
        fill(&server, &stream, &mut producer, 2).await;
        let hits = counted(&server, "hits");
        for _ in 0..3 {
            check_read(&mut producer).await;
        }
        assert!(counted(&server, "hits") > hits, "what it has is read");
    });
    assert!(server.stop().success());
}

#[test]
fn nothing_is_read_of_what_was_merged_or_removed() {
    let redis = Redis::start();
    let upkeep = [
        ("upkeep.interval_ms", "10"),
        ("compaction.min_age_ms", "0"),
        ("compaction.min_files", "4"),
        ("compaction.grace_ms", "0"),
        ("retention.interval_ms", "10"),
    ];
    let site = site(&redis, &upkeep);
    let server = site.start();
    let stream = create(&server);
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, &stream).await;
        for _ in 0..10 {
            fill(&server, &stream, &mut producer, 2).await;
            check_read(&mut producer).await;
        }
        wait_for("merges", || site.store.keys().iter().any(|key| key.contains(".m1-")).then_some(()));
        warm(&site, &mut producer).await;
    });
    // All of it goes, and the stream with it; another of the same name has nothing of it.
    let (status, answer) = rest::call(&server.http, "DELETE", &format!("/api/v1/streams/{stream}"), "");
    assert_eq!(status, 202, "{answer}");
    wait_for("the end of its objects", || site.store.keys().is_empty().then_some(()));
    let records = format!("/api/v1/streams/{stream}/records");
    wait_for("its end", || (rest::call(&server.http, "GET", &records, "").0 == 404).then_some(()));
    assert!(!keys(&mut connect(&redis)).is_empty(), "Redis has them still");
    let other = create_again(&server);
    let (status, answer) = rest::call(&server.http, "GET", &format!("/api/v1/streams/{other}/records"), "");
    assert_eq!((status, answer["records"].as_array().map(Vec::len)), (200, Some(0)), "{answer}");
    assert!(server.stop().success());
}

/// A stream of the name that another one had.
fn create_again(server: &Server) -> String {
    let (_, schemas) = rest::call(&server.http, "GET", "/api/v1/schemas", "");
    let stream = json!({"name": "clicks", "schema_id": schemas["schemas"][0]["id"]});
    let (status, stream) = rest::call(&server.http, "POST", "/api/v1/streams", &stream.to_string());
    assert_eq!(status, 201, "{stream}");
    stream["id"].as_str().expect("an id").to_owned()
}
