//! Tokens signed here by keys of the tests, good ones and each kind of bad one.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    rsa::PublicKeyComponents,
    signature::{RSA_PKCS1_SHA256, RsaKeyPair},
};
use serde_json::{Value, json};
use ttdust_shards::ids::StreamId;

use super::*;
use crate::config::{Sources, load};

/// Two RSA keys of 2048 bits and one of 1024, PKCS#8, made for these tests alone.
const KEYS: [&[u8]; 2] = [include_bytes!("test_key_a.pk8"), include_bytes!("test_key_b.pk8")];

fn pair(which: usize) -> RsaKeyPair {
    RsaKeyPair::from_pkcs8(KEYS[which]).expect("a key of the tests")
}

fn jwk(which: usize, kid: &str) -> Value {
    let public = PublicKeyComponents::<Vec<u8>>::from(pair(which).public());
    json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid,
           "n": URL_SAFE_NO_PAD.encode(public.n), "e": URL_SAFE_NO_PAD.encode(public.e)})
}

fn settings(dir: &Path, keys: &Value) -> Settings {
    let path = dir.join("jwks.json");
    fs::write(&path, keys.to_string()).expect("a file");
    let flags = [("jwt.jwks_path", path.to_str().expect("UTF-8")), ("jwt.issuer", "https://id.example")];
    let flags = flags.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
    load(&Sources { flags, ..Sources::default() }).expect("valid").settings
}

fn signed(which: usize, header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let pair = pair(which);
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).expect("signed");
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn header(kid: &str) -> Value {
    json!({"alg": "RS256", "typ": "JWT", "kid": kid})
}

fn claims(change: &[(&str, Value)]) -> Value {
    let now = crate::calendar::now_unix_micros() / 1_000_000;
    let mut claims =
        json!({"iss": "https://id.example", "aud": "ttdust", "sub": "ana", "exp": now + 600, "role": "admin"});
    for (name, value) in change {
        match value {
            Value::Null => drop(claims.as_object_mut().expect("an object").remove(*name)),
            value => claims[*name] = value.clone(),
        }
    }
    claims
}

#[test]
fn a_good_token_says_who_calls() {
    let dir = tempfile::tempdir().expect("a directory");
    let tokens = Tokens::load(&settings(dir.path(), &json!({"keys": [jwk(0, "a")]}))).expect("keys").expect("some");
    let caller = tokens.check(&signed(0, &header("a"), &claims(&[]))).expect("let in");
    assert_eq!((&*caller.id, caller.role), ("jwt:ana", Role::Admin));
    let writer = [("role", json!("writer")), ("streams", json!(["web.*"])), ("aud", json!(["x", "ttdust"]))];
    let caller = tokens.check(&signed(0, &header("a"), &claims(&writer))).expect("let in");
    assert!(caller.sees(StreamId::generate(), "web.clicks") && !caller.sees(StreamId::generate(), "orders"));
}

#[test]
fn what_is_not_right_in_every_part_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let tokens = Tokens::load(&settings(dir.path(), &json!({"keys": [jwk(0, "a")]}))).expect("keys").expect("some");
    let now = crate::calendar::now_unix_micros() / 1_000_000;
    for change in [
        ("exp", json!(now - 120)),
        ("exp", Value::Null),
        ("exp", json!("tomorrow")),
        ("nbf", json!(now + 600)),
        ("nbf", json!("never")),
        ("iss", json!("https://other.example")),
        ("iss", Value::Null),
        ("aud", json!("other")),
        ("aud", Value::Null),
        ("sub", Value::Null),
        ("sub", json!("")),
        ("role", json!("root")),
        ("role", Value::Null),
    ] {
        let token = signed(0, &header("a"), &claims(std::slice::from_ref(&change)));
        assert!(tokens.check(&token).is_err(), "{change:?}");
    }
    let good = signed(0, &header("a"), &claims(&[]));
    assert!(tokens.check(&good).is_ok(), "the rest is refused for its own reason");
    let parts: Vec<_> = good.split('.').collect();
    let none = URL_SAFE_NO_PAD.encode(json!({"alg": "none", "kid": "a"}).to_string());
    let other_claims = URL_SAFE_NO_PAD.encode(claims(&[("sub", json!("eve"))]).to_string());
    for token in [
        signed(1, &header("a"), &claims(&[])),
        signed(0, &header("b"), &claims(&[])),
        signed(0, &json!({"alg": "RS512", "kid": "a"}), &claims(&[])),
        signed(0, &json!({"alg": "HS256", "kid": "a"}), &claims(&[])),
        signed(0, &json!({"alg": "RS256", "kid": "a", "crit": ["exp"]}), &claims(&[])),
        format!("{none}.{}.", parts[1]),
        format!("{}.{other_claims}.{}", parts[0], parts[2]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        "a.b.c".to_owned(),
        String::new(),
        format!("{good}{}", "x".repeat(TOKEN_BYTES_MAX)),
    ] {
        assert!(tokens.check(&token).is_err(), "{token:.80}");
    }
}

#[test]
fn a_header_cannot_bring_its_own_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let tokens = Tokens::load(&settings(dir.path(), &json!({"keys": [jwk(0, "a")]}))).expect("keys").expect("some");
    let header =
        json!({"alg": "RS256", "jwk": jwk(1, "a"), "jku": "https://evil.example/keys", "x5u": "https://evil.example"});
    assert!(tokens.check(&signed(1, &header, &claims(&[]))).is_err());
}

#[test]
fn old_and_new_keys_are_good_side_by_side() {
    let dir = tempfile::tempdir().expect("a directory");
    let both = json!({"keys": [jwk(0, "old"), jwk(1, "new"), {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]});
    let tokens = Tokens::load(&settings(dir.path(), &both)).expect("keys").expect("some");
    assert!(tokens.check(&signed(0, &header("old"), &claims(&[]))).is_ok());
    assert!(tokens.check(&signed(1, &header("new"), &claims(&[]))).is_ok());
    assert!(tokens.check(&signed(1, &json!({"alg": "RS256"}), &claims(&[]))).is_ok(), "no kid: any key");
    assert!(tokens.check(&signed(0, &header("new"), &claims(&[]))).is_err());
}

#[test]
fn files_that_hold_no_usable_key_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut short = jwk(0, "a");
    short["n"] = json!(URL_SAFE_NO_PAD.encode([0xff; 128]));
    for keys in [json!({"keys": []}), json!([]), json!({"keys": [short]}), json!({"keys": [{"kty": "oct", "k": "AA"}]})]
    {
        assert!(Tokens::load(&settings(dir.path(), &keys)).is_err(), "{keys}");
    }
    let mut missing = settings(dir.path(), &json!({}));
    missing.jwt_jwks_path = Some(dir.path().join("nothing"));
    assert!(Tokens::load(&missing).is_err());
    missing.jwt_jwks_path = None;
    assert!(Tokens::load(&missing).expect("nothing to read").is_none());
}

#[test]
fn a_public_key_in_pem_is_taken_and_a_private_one_is_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut settings = settings(dir.path(), &json!({"keys": [jwk(1, "b")]}));
    settings.jwt_public_key_path =
        Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/access/tokens/test_key_a.pub.pem"));
    let tokens = Tokens::load(&settings).expect("keys").expect("some");
    assert!(tokens.check(&signed(0, &json!({"alg": "RS256"}), &claims(&[]))).is_ok());
    let private = dir.path().join("private.pem");
    fs::write(&private, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").expect("a file");
    settings.jwt_public_key_path = Some(private);
    let error = Tokens::load(&settings).expect_err("refused").to_string();
    assert!(error.contains("public one"), "{error}");
}
