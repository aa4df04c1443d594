//! What a caller says of its trace, by the W3C's Trace Context: the headers `traceparent` and `tracestate`, in HTTP and as gRPC
//! metadata. A `traceparent` that is not as it should be is ignored, and `tracestate` with it; a `tracestate` that is not,
//! alone.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use super::{SpanContext, SpanId, TraceId};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// What must be handed on at least; longer ones are not.
const STATE_BYTES_MAX: usize = 512;
const STATE_MEMBERS_MAX: usize = 32;
/// Version, trace, span and flags, with the dashes between.
const PARENT_BYTES: usize = 55;

/// What a request says of whether it is to be traced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Nothing: this program decides.
    Undecided,
    /// It is in a trace of which nothing is kept.
    Unsampled(TraceId),
    /// It is in a trace that is kept, under the caller's span.
    Sampled(SpanContext),
}

impl Incoming {
    /// What the headers of a request say.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let (Some(parent), None) = (parents.next(), parents.next()) else { return Self::Undecided };
        match traceparent(parent.as_bytes()) {
            None => Self::Undecided,
            Some((trace, _, false)) => Self::Unsampled(trace),
            Some((trace, span, true)) => Self::Sampled(SpanContext { trace, span, state: tracestate(headers) }),
        }
    }

    /// The trace that it names.
    #[must_use]
    pub fn trace(&self) -> Option<TraceId> {
        match self {
            Self::Undecided => None,
            Self::Unsampled(trace) => Some(*trace),
            Self::Sampled(context) => Some(context.trace),
        }
    }
}

/// Trace, span, and whether it is sampled.
fn traceparent(text: &[u8]) -> Option<(TraceId, SpanId, bool)> {
    if text.len() < PARENT_BYTES || [2, 35, 52].iter().any(|&at| text[at] != b'-') {
        return None;
    }
    let version = hex(&text[..2])?;
    // Later versions may say more, after another dash.
    let fits = match version {
        0xff => false,
        0 => text.len() == PARENT_BYTES,
        _ => text.len() == PARENT_BYTES || text[PARENT_BYTES] == b'-',
    };
    let (trace, span, flags) = (hex(&text[3..35])?, hex(&text[36..52])?, hex(&text[53..55])?);
    (fits && trace != 0 && span != 0).then_some((TraceId(trace), SpanId(span as u64), flags & 1 == 1))
}

/// Small hexadecimal digits, 32 at most.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// The members of all `tracestate` headers, in order; `None`: there are none, or they cannot be handed on.
fn tracestate(headers: &HeaderMap) -> Option<Arc<str>> {
    let mut keys: Vec<&str> = Vec::new();
    let mut state = String::new();
    for header in headers.get_all(TRACESTATE) {
        let text = header.to_str().ok()?;
        for member in text.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty())
        {
            let (key, value) = member.split_once('=')?;
            if !is_key(key) || !is_value(value) || keys.contains(&key) || keys.len() == STATE_MEMBERS_MAX {
                return None;
            }
            keys.push(key);
            state.extend([if state.is_empty() { "" } else { "," }, member]);
        }
    }
    (!state.is_empty() && state.len() <= STATE_BYTES_MAX).then(|| state.into())
}

/// `vendor` or `tenant@vendor`.
fn is_key(key: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'*' | b'/');
    let part = |text: &str, digit_first: bool, most: usize| {
        let first = |b: &u8| b.is_ascii_lowercase() || digit_first && b.is_ascii_digit();
        text.len() <= most && text.as_bytes().first().is_some_and(first) && text.bytes().all(inner)
    };
    match key.split_once('@') {
        None => part(key, true, 256),
        Some((tenant, vendor)) => part(tenant, true, 241) && part(vendor, false, 14),
    }
}

fn is_value(value: &str) -> bool {
    let byte = |b: u8| (b' '..=b'~').contains(&b) && b != b',' && b != b'=';
    !value.is_empty() && value.len() <= 256 && value.bytes().all(byte)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
    const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;
    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    fn sampled(state: Option<&str>) -> Incoming {
        Incoming::Sampled(SpanContext { trace: TraceId(TRACE), span: SpanId(SPAN), state: state.map(Into::into) })
    }

    #[test]
    fn a_good_parent_decides() {
        assert_eq!(Incoming::of(&headers(&[("traceparent", GOOD)])), sampled(None));
        let unsampled = GOOD.replace("-01", "-00");
        assert_eq!(Incoming::of(&headers(&[("traceparent", &unsampled)])), Incoming::Unsampled(TraceId(TRACE)));
        // Flags that are not known say nothing of the one that is.
        assert_eq!(Incoming::of(&headers(&[("traceparent", &GOOD.replace("-01", "-ff"))])), sampled(None));
        let later = format!("{}-what-comes-later", GOOD.replacen("00", "cc", 1));
        assert_eq!(Incoming::of(&headers(&[("traceparent", &later)])), sampled(None));
        assert_eq!(Incoming::of(&headers(&[])), Incoming::Undecided);
    }

    #[test]
    fn a_bad_parent_is_ignored() {
        let long = format!("{GOOD}-x");
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &long,
            &GOOD.replacen("00", "ff", 1),
            &GOOD.to_uppercase(),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.replace("-01", "-0g"),
            &GOOD.replace('-', "_"),
            &format!("{}x", GOOD.replacen("00", "01", 1)),
        ] {
            assert_eq!(Incoming::of(&headers(&[("traceparent", bad)])), Incoming::Undecided, "{bad}");
        }
        let two = headers(&[("traceparent", GOOD), ("traceparent", GOOD)]);
        assert_eq!(Incoming::of(&two), Incoming::Undecided);
    }

    #[test]
    fn a_state_is_handed_on_whole_or_not_at_all() {
        let with = |states: &[&str]| {
            let all: Vec<_> = states.iter().map(|state| ("tracestate", *state)).collect();
            Incoming::of(&headers(&[&[("traceparent", GOOD)], all.as_slice()].concat()))
        };
        assert_eq!(with(&["congo=t61rcWkgMzE"]), sampled(Some("congo=t61rcWkgMzE")));
        assert_eq!(with(&["a=1 , b@c=2,,", "0_-*/=x y"]), sampled(Some("a=1,b@c=2,0_-*/=x y")));
        let many: Vec<_> = (0..33).map(|n| format!("k{n}=1")).collect();
        for bad in ["a", "=1", "A=1", "a=", "a=1=2", "a=1,a=2", "a@=1", "a@0=1", &many.join(","), &"a=1,".repeat(200)] {
            assert_eq!(with(&[bad]), sampled(None), "{bad}");
        }
        assert_eq!(with(&[&many[1..].join(",")]), sampled(Some(&many[1..].join(","))));
    }
}
