//! `ttdust-example ENDPOINT STREAM RECORDS.jsonl.gz`: sends the records by the member `event_id` and reads some of them back.
//! `TTDUST_API_KEY` is sent where it is set.

use std::{env, fs::File, io::Read as _};

use flate2::read::MultiGzDecoder;
use ttdust_example::{Client, Failure, Keyed};

fn records(path: &str) -> Result<Vec<Keyed>, Failure> {
    let mut text = String::new();
    MultiGzDecoder::new(File::open(path)?).read_to_string(&mut text)?;
    let record = |line: &str| -> Result<Keyed, Failure> {
        let parsed: serde_json::Value = serde_json::from_str(line)?;
        let key = parsed["event_id"].as_str().ok_or("a record without an event_id")?.to_owned();
        Ok(Keyed { key, payload: line.to_owned().into() })
    };
    text.lines().map(record).collect()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [endpoint, stream, path] = arguments.as_slice() else {
        return Err("want ENDPOINT STREAM RECORDS.jsonl.gz".into());
    };
    let key = env::var("TTDUST_API_KEY").ok();
    let mut client = Client::connect(endpoint.clone(), key.as_deref()).await?;
    let outcomes = client.send(stream, records(path)?).await?;
    println!("{outcomes:?}");
    let page = client.read(stream, 10).await?;
    let first = page.first().ok_or("the stream is empty")?.sequence_number;
    let followed = client.follow(stream, first, page.len()).await?;
    println!("read {}, followed {followed:?}", page.len());
    Ok(())
}
