//! Signature Version 4 in a URL, checked by the words of its specification, with none of the server's code.

use http::request::Parts;
use ring::{digest, hmac};

/// Whether the request is signed by the holder of these keys; else the code of the refusal.
pub fn check(parts: &Parts, access_key: &str, secret_key: &str) -> Result<(), &'static str> {
    let mut query = Vec::new();
    let mut signature = String::new();
    for pair in parts.uri.query().unwrap_or("").split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name), decode(value));
        if name == "X-Amz-Signature" { signature = value } else { query.push((name, value)) }
    }
    let of = |wanted: &str| query.iter().find(|(name, _)| name == wanted).map_or("", |(_, value)| value.as_str());
    let credential: Vec<_> = of("X-Amz-Credential").split('/').collect();
    let [key, date, region, "s3", "aws4_request"] = credential[..] else { return Err("AccessDenied") };
    if key != access_key {
        return Err("InvalidAccessKeyId");
    }
    let signed: Vec<_> = of("X-Amz-SignedHeaders").split(';').collect();
    let must = |name: &str| name == "host" || name.starts_with("x-amz-");
    if parts.headers.keys().any(|name| must(name.as_str()) && !signed.contains(&name.as_str())) {
        return Err("AccessDenied");
    }
    let mut pairs: Vec<_> = query.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    pairs.sort_unstable();
    let value = |name: &&str| parts.headers.get(*name).and_then(|value| value.to_str().ok()).unwrap_or("").trim();
    let headers: String = signed.iter().map(|name| format!("{name}:{}\n", value(name))).collect();
    let request = format!(
        "{}\n{}\n{}\n{headers}\n{}\nUNSIGNED-PAYLOAD",
        parts.method,
        decode(parts.uri.path()).split('/').map(encode).collect::<Vec<_>>().join("/"),
        pairs.join("&"),
        signed.join(";"),
    );
    let scope = format!("{date}/{region}/s3/aws4_request");
    let hash = hex(digest::digest(&digest::SHA256, request.as_bytes()).as_ref());
    let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{hash}", of("X-Amz-Date"));
    let mut derived = format!("AWS4{secret_key}").into_bytes();
    for step in [date, region, "s3", "aws4_request"] {
        derived = mac(&derived, step);
    }
    if hex(&mac(&derived, &text)) == signature { Ok(()) } else { Err("SignatureDoesNotMatch") }
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Text without its percent signs.
pub fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'%').then(|| std::str::from_utf8(after.get(..2)?).ok()).flatten();
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}
