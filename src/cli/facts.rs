//! What a running server tells of itself, for `ttdust debug bundle`. Nothing of it is a record or a secret.

use serde_json::{Value, value::RawValue};

use super::{
    api::{Api, segment},
    failure::Failure,
    session::{Options, Session},
};
use crate::config::ClientEnvironment;

/// Streams and jobs past these are left out.
const LISTED_MAX: usize = 1000;
const STREAMS: &str = "/api/v1/streams";

/// A file's name, and its text or why there is none.
pub type Fact = (&'static str, Result<String, String>);

/// Asks the server that `options` name. One that is not there is asked once.
pub async fn facts(options: Options) -> Vec<Fact> {
    let session = match Session::open(options, &ClientEnvironment::of_process()) {
        Ok(session) => session,
        Err(failure) => return vec![("server", Err(failure.told()))],
    };
    let api = &session.api;
    let ready = api.health().await.and_then(|answer| answer.text().map(str::to_owned));
    if let Err(failure @ Failure::Unreachable { .. }) = &ready {
        return vec![("server", Err(failure.told()))];
    }
    let told = [
        ("server/ready.json", ready),
        ("server/metrics.txt", text(api, "/metrics").await),
        ("server/config.json", text(api, "/api/v1/config").await),
        ("server/streams.jsonl", streams(api).await),
        (
            "server/jobs.jsonl",
            api.list("/api/v1/jobs", &[], "jobs", LISTED_MAX).await.map(|jobs| without_values(&jobs)),
        ),
    ];
    told.into_iter().map(|(name, told)| (name, told.map_err(|failure| failure.told()))).collect()
}

async fn text(api: &Api, path: &str) -> Result<String, Failure> {
    Ok(api.get(path, &[]).await?.text()?.to_owned())
}

/// Each stream by itself: lists come without statistics.
async fn streams(api: &Api) -> Result<String, Failure> {
    let mut text = String::new();
    for listed in api.list(STREAMS, &[], "streams", LISTED_MAX).await? {
        let id = serde_json::from_str::<Value>(listed.get()).ok().and_then(|s| Some(s["id"].as_str()?.to_owned()));
        let whole = match &id {
            Some(id) => api.get(&format!("{STREAMS}/{}", segment(id)), &[]).await.ok(),
            None => None,
        };
        // One that is deleted meanwhile is as it was listed.
        text.push_str(whole.as_ref().and_then(|answer| answer.text().ok()).unwrap_or(listed.get()).trim());
        text.push('\n');
    }
    Ok(text)
}

/// Jobs, a line each. What is wrong with a row may be told with a value of it: where it is must do.
fn without_values(jobs: &[Box<RawValue>]) -> String {
    let mut text = String::new();
    for job in jobs {
        let mut job: Value = serde_json::from_str(job.get()).unwrap_or_default();
        let faults = job.get_mut("errors").and_then(Value::as_array_mut).into_iter().flatten();
        faults.filter_map(Value::as_object_mut).for_each(|fault| drop(fault.remove("message")));
        text.push_str(&format!("{job}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_shown_without_the_values_of_its_rows() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).expect("JSON");
        let bad = r#"{"id":"job_1","errors":[{"line_number":7,"message":"\"s3cret\" is no integer","field":"/n"}]}"#;
        let text = without_values(&[raw(bad), raw(r#"{"id":"job_2"}"#)]);
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines[0]["errors"][0], serde_json::json!({"line_number": 7, "field": "/n"}));
        assert_eq!((lines.len(), &lines[1]["id"]), (2, &Value::from("job_2")));
    }
}
