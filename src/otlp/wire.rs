//! Spans as the protocol's messages.

use bytes::Bytes;
use prost::Message as _;
use ttdust_proto::otlp::{
    AnyValue, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource as WireResource, ResourceSpans,
    ScopeSpans, Span as WireSpan, Status, any_value, span, status,
};
use ttdust_shards::trace::{Span, SpanKind, Value};

/// The version of OpenTelemetry's conventions that names and attributes follow.
const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.33.0";
/// Of `traceparent`: the trace is kept.
const SAMPLED: u32 = 1;
/// It is known whether the parent is another program's.
const HAS_IS_REMOTE: u32 = 0x100;
/// The parent is another program's.
const IS_REMOTE: u32 = 0x200;

/// Who tells of the spans.
#[derive(Debug)]
pub(super) struct Resource(Vec<KeyValue>);

impl Resource {
    /// This process, under that name.
    pub(super) fn of_process(service_name: &str) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let pairs = [
            ("service.name", service_name.to_owned()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id", uuid::Uuid::new_v4().to_string()),
            ("host.name", host),
        ];
        let mut all: Vec<_> = pairs.into_iter().map(|(key, value)| pair(key, value.into())).collect();
        all.push(pair("process.pid", std::process::id().into()));
        Self(all)
    }
}

/// One request of these spans.
pub(super) fn encode(resource: &Resource, spans: Vec<Span>) -> Vec<u8> {
    let scope = InstrumentationScope { name: "ttdust".into(), version: env!("CARGO_PKG_VERSION").into() };
    let spans = spans.into_iter().map(wire).collect();
    let resource_spans = ResourceSpans {
        resource: Some(WireResource { attributes: resource.0.clone() }),
        scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
        schema_url: SCHEMA_URL.into(),
    };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec()
}

fn wire(span: Span) -> WireSpan {
    let kind = match span.kind {
        SpanKind::Internal => span::SpanKind::Internal,
        SpanKind::Server => span::SpanKind::Server,
        SpanKind::Client => span::SpanKind::Client,
    };
    let id = |id: u64| Bytes::copy_from_slice(&id.to_be_bytes());
    let status = span.failure.map(|why| Status { message: why.into_owned(), code: status::StatusCode::Error.into() });
    WireSpan {
        trace_id: Bytes::copy_from_slice(&span.trace.0.to_be_bytes()),
        span_id: id(span.id.0),
        trace_state: span.state.map(|state| state.to_string()).unwrap_or_default(),
        parent_span_id: span.parent.map(|parent| id(parent.0)).unwrap_or_default(),
        name: span.name.into_owned(),
        kind: kind.into(),
        start_time_unix_nano: span.start,
        end_time_unix_nano: span.end,
        attributes: span.attributes.into_iter().map(|(key, value)| pair(key, value)).collect(),
        status,
        flags: SAMPLED | HAS_IS_REMOTE | if span.parent_is_remote { IS_REMOTE } else { 0 },
    }
}

fn pair(key: &str, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => any_value::Value::StringValue(text.into_owned()),
        Value::Number(number) => any_value::Value::IntValue(number),
        Value::Flag(flag) => any_value::Value::BoolValue(flag),
    };
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

#[cfg(test)]
mod tests {
    use ttdust_shards::trace::{SpanId, TraceId};

    use super::*;

    #[test]
    fn a_span_has_its_ids_as_big_endian_bytes_and_says_whose_its_parent_is() {
        let span = Span {
            trace: TraceId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            id: SpanId(0x1112_1314_1516_1718),
            parent: Some(SpanId(1)),
            parent_is_remote: true,
            state: Some("a=1".into()),
            name: "n".into(),
            kind: SpanKind::Client,
            start: 5,
            end: 6,
            attributes: vec![("flag", true.into()), ("number", 7u32.into()), ("text", "t".into())],
            failure: Some("why".into()),
        };
        let told = wire(span.clone());
        assert_eq!(&told.trace_id[..], (1..=16).collect::<Vec<u8>>());
        assert_eq!(
            (&told.span_id[..], &told.parent_span_id[..]),
            (&(0x11..=0x18).collect::<Vec<u8>>()[..], &[0, 0, 0, 0, 0, 0, 0, 1][..])
        );
        assert_eq!((told.flags, told.kind, told.trace_state.as_str()), (0x301, 3, "a=1"));
        let status = told.status.expect("it failed");
        assert_eq!((status.message.as_str(), status.code), ("why", 2));
        let root = wire(Span { parent: None, parent_is_remote: false, failure: None, ..span });
        assert_eq!((root.flags, root.parent_span_id.len(), root.status), (0x101, 0, None));
    }

    #[test]
    fn a_request_is_told_of_by_this_process() {
        let body = encode(&Resource::of_process("dust"), Vec::new());
        let request = ExportTraceServiceRequest::decode(&body[..]).expect("our own");
        let attributes = &request.resource_spans[0].resource.as_ref().expect("there").attributes;
        let keys: Vec<_> = attributes.iter().map(|pair| pair.key.as_str()).collect();
        let wanted = ["service.name", "service.version", "service.instance.id", "host.name", "process.pid"];
        assert_eq!(keys, wanted);
    }
}
