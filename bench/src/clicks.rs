//! Click events, made up: what loads are measured with, here and, by `bench/peers`, against other servers.

/// A click of 318 bytes, for the schema in `tests/data/clicks.schema.json`; each `number` gives another.
#[must_use]
pub fn click(number: u64) -> String {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!(
        concat!(
            r#"{{"event_id":"018f4e3c-5b7a-7c21-9d3e-{:012x}","timestamp":"2024-05-06T07:{:02}:{:02}.{:03}Z","#,
            r#""event_type":"click","user_id":"u_{:08}","session_id":"s_{:016x}","url":"/products/{:04}?color=green","#,
            r#""referrer":null,"duration_ms":{},"device":{{"type":"mobile","os":"Android 14","screen_width":1080}},"#,
            r#""score":0.{:04}}}"#
        ),
        mixed & 0xffff_ffff_ffff,
        mixed % 60,
        mixed / 60 % 60,
        mixed % 1000,
        mixed % 100_000_000,
        mixed,
        mixed % 10_000,
        1000 + mixed % 9000,
        mixed % 10_000,
    )
}
