//! The wire contract of TTDust: messages generated from `proto/`, and the paths of the gRPC methods; and from `otlp/` the messages
//! that traces are exported with. Nothing else.

#![allow(missing_docs, reason = "generated code carries the comments of the .proto files")]

/// The encoded `google.protobuf.FileDescriptorSet` of every file in `proto/`, as the reflection service sends it.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

pub mod ingestion {
    include!(concat!(env!("OUT_DIR"), "/ttdust.ingestion.v1.rs"));
}

pub mod query {
    include!(concat!(env!("OUT_DIR"), "/ttdust.query.v1.rs"));
}

pub mod admin {
    include!(concat!(env!("OUT_DIR"), "/ttdust.admin.v1.rs"));
}

pub mod rpc {
    include!(concat!(env!("OUT_DIR"), "/google.rpc.rs"));
}

pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}

/// `grpc.reflection.v1`; `v1alpha` has the same messages, so both are served with these.
pub mod reflection {
    include!(concat!(env!("OUT_DIR"), "/grpc.reflection.v1.rs"));
}

pub mod otlp {
    include!(concat!(env!("OUT_DIR"), "/otlp.rs"));
}

/// The `:path` of each gRPC method.
pub mod path {
    pub const INGEST_STREAM: &str = "/ttdust.ingestion.v1.IngestionService/IngestStream";
    pub const INGEST: &str = "/ttdust.ingestion.v1.IngestionService/Ingest";
    pub const APPEND: &str = "/ttdust.ingestion.v1.IngestionService/Append";
    pub const INGEST_BATCH: &str = "/ttdust.ingestion.v1.IngestionService/IngestBatch";
    pub const GET_BATCH_JOB: &str = "/ttdust.ingestion.v1.IngestionService/GetBatchJob";
    pub const QUERY_TIME_RANGE: &str = "/ttdust.query.v1.QueryService/QueryTimeRange";
    pub const LOOKUP_BY_KEY: &str = "/ttdust.query.v1.QueryService/LookupByKey";
    pub const STREAMING_READ: &str = "/ttdust.query.v1.QueryService/StreamingRead";
    pub const CREATE_STREAM: &str = "/ttdust.admin.v1.AdminService/CreateStream";
    pub const UPDATE_STREAM: &str = "/ttdust.admin.v1.AdminService/UpdateStream";
    pub const DELETE_STREAM: &str = "/ttdust.admin.v1.AdminService/DeleteStream";
    pub const LIST_STREAMS: &str = "/ttdust.admin.v1.AdminService/ListStreams";
    pub const GET_STREAM: &str = "/ttdust.admin.v1.AdminService/GetStream";
    pub const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
    pub const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
    pub const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    pub const REFLECTION_ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
}
