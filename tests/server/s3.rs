//! An S3 store of a test's own, in this process, on a port of its own: objects in memory, signatures checked, conditional PUTs
//! atomic, uploads in parts, and faults on demand.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

#[path = "s3/answers.rs"]
mod answers;
#[path = "s3/signature.rs"]
mod signature;

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body_util::{BodyExt as _, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use ttdust::config::{S3Credentials, S3Options, Secret};

use answers::{Asked, Reply, answer, reply_error};

pub const ACCESS_KEY: &str = "AKTEST";
pub const SECRET_KEY: &str = "s3cret/of+tests=";
pub const BUCKET: &str = "ttdust-data";

/// What goes wrong with one request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It is not done, and answered with this status and code.
    Refuse(u16, &'static str),
    /// It is done, and answered with this status and code.
    DoThenRefuse(u16, &'static str),
    /// It is done, and the connection ends without an answer.
    DoThenDrop,
    /// It is not done, and the connection ends without an answer.
    Drop,
    /// It is done, and half of the answer's body arrives.
    Cut,
    /// It is not done, and no answer ever comes.
    Hang,
    /// It is done, and no answer ever comes.
    DoThenHang,
    /// It is done so much later.
    Late(Duration),
    /// It is done, and what is stored is damaged.
    Damage,
}

/// What goes wrong with the next `times` requests of an operation on keys with `part` in them.
struct Planned {
    operation: &'static str,
    part: &'static str,
    times: usize,
    fault: Fault,
}

/// An object.
pub struct Object {
    pub content: Bytes,
    pub modified: i64,
}

/// What the store holds and how it behaves.
pub struct State {
    /// By key in the bucket.
    pub objects: BTreeMap<String, Object>,
    /// Parts by upload and number.
    pub uploads: HashMap<String, (String, BTreeMap<u32, Bytes>)>,
    pub secret_key: String,
    /// Whether it honours `If-None-Match: *`; otherwise it ignores it, as some do.
    pub conditional: bool,
    /// Whether it keeps CRC32C.
    pub checksums: bool,
    faults: Vec<Planned>,
    /// Operations and keys, in the order in which they came.
    pub asked: Vec<(&'static str, String)>,
    made: u64,
}

/// The store.
pub struct Store {
    state: Arc<Mutex<State>>,
    up: watch::Sender<bool>,
    port: u16,
    tls: bool,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// A store that is up and empty.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// The same behind TLS.
    pub fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let state = Arc::new(Mutex::new(State {
            objects: BTreeMap::new(),
            uploads: HashMap::new(),
            secret_key: SECRET_KEY.into(),
            conditional: true,
            checksums: true,
            faults: Vec::new(),
            asked: Vec::new(),
            made: 0,
        }));
        let (up, changes) = watch::channel(true);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let store = Self { state: Arc::clone(&state), up, port: address.port(), tls: tls.is_some() };
        // Ends when the store is dropped.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                stand(listener, address, state, tls, changes).await;
            });
        });
        store
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The next `times` requests of this operation go wrong so.
    pub fn fault(&self, operation: &'static str, times: usize, fault: Fault) {
        self.fault_at(operation, "", times, fault);
    }

    /// The same, of those on a key with `part` in it.
    pub fn fault_at(&self, operation: &'static str, part: &'static str, times: usize, fault: Fault) {
        self.state().faults.push(Planned { operation, part, times, fault });
    }

    /// Nothing goes wrong any more.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// How many faults are still to come.
    pub fn faults_left(&self) -> usize {
        self.state().faults.iter().map(|planned| planned.times).sum()
    }

    /// Up, or as if nobody had ever been there: connections are cut and refused.
    pub fn set_up(&self, up: bool) {
        self.up.send_replace(up);
    }

    /// How often this was asked.
    pub fn count(&self, operation: &str) -> usize {
        self.state().asked.iter().filter(|(asked, _)| *asked == operation).count()
    }

    /// All keys but those of probes.
    pub fn keys(&self) -> Vec<String> {
        self.state().objects.keys().filter(|key| !key.contains(".probe/")).cloned().collect()
    }

    pub fn endpoint(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// How a client in this process gets there.
    pub fn options(&self) -> S3Options {
        S3Options {
            endpoint: self.endpoint(),
            bucket: BUCKET.into(),
            region: "us-east-1".into(),
            credentials: S3Credentials::Keys { access_key: ACCESS_KEY.into(), secret_key: secret(SECRET_KEY) },
            prefix: String::new(),
            path_style: true,
            ca_path: None,
            timeout: Duration::from_secs(5),
            multipart_bytes: 5 << 20,
        }
    }

    /// How a server is told to get there.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("s3.endpoint", self.endpoint()),
            ("s3.access_key", ACCESS_KEY.into()),
            ("s3.secret_key", SECRET_KEY.into()),
            ("s3.timeout_ms", "2000".into()),
        ]
    }
}

/// A secret as the configuration gives it.
pub fn secret(text: &str) -> Secret {
    let flags = vec![("s3.secret_key".to_owned(), text.to_owned())];
    let loaded = ttdust::config::load(&ttdust::config::Sources { flags, ..Default::default() }).expect("settings");
    loaded.settings.s3.secret_key
}

/// A file of credentials.
pub fn credentials_file(path: &std::path::Path, access_key: &str, secret_key: &str) -> PathBuf {
    std::fs::write(path, format!("{access_key}\n{secret_key}\n")).expect("a file");
    path.to_owned()
}

async fn stand(
    first: TcpListener,
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    tls: Option<TlsAcceptor>,
    mut up: watch::Receiver<bool>,
) {
    let mut listener = Some(first);
    loop {
        let taken = async {
            match &listener {
                Some(listener) => listener.accept().await.ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            taken = taken => {
                if let Some((client, _)) = taken {
                    tokio::spawn(serve(client, Arc::clone(&state), tls.clone(), up.clone()));
                }
            }
            changed = up.changed() => {
                if changed.is_err() {
                    return;
                }
                let wanted = *up.borrow_and_update();
                listener = match listener.take() {
                    _ if !wanted => None,
                    Some(listener) => Some(listener),
                    None => Some(TcpListener::bind(address).await.expect("the same port again")),
                };
            }
        }
    }
}

/// One connection, until it ends or the store goes down.
async fn serve(client: TcpStream, state: Arc<Mutex<State>>, tls: Option<TlsAcceptor>, mut up: watch::Receiver<bool>) {
    let service = service_fn(move |request| {
        // A task of its own: what is begun is done, whether the client waits for it or not.
        let done = tokio::spawn(handle(Arc::clone(&state), request));
        async move { done.await.unwrap_or(Err(Broken)) }
    });
    let connection = async {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new());
        match tls {
            None => http.serve_connection(TokioIo::new(client), service).await.ok(),
            Some(tls) => http.serve_connection(TokioIo::new(tls.accept(client).await.ok()?), service).await.ok(),
        }
    };
    tokio::select! {
        _ = connection => {}
        // No store any more: as good as one that is down.
        _ = up.wait_for(|up| !up) => {}
    }
}

type Body = BoxBody<Bytes, Broken>;

/// Ends a connection in the middle.
#[derive(Debug, thiserror::Error)]
#[error("on purpose")]
pub struct Broken;

impl From<Infallible> for Broken {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

async fn handle(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Response<Body>, Broken> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
    let asked = Asked::new(&parts);
    let fault = {
        let mut state = lock(&state);
        state.asked.push((asked.operation, asked.key.clone()));
        take_fault(&mut state, &asked)
    };
    if let Some(Fault::Late(delay)) = fault {
        tokio::time::sleep(delay).await;
    }
    // By itself, so that nobody else waits for the store while this one waits for ever.
    let outcome = done(&mut lock(&state), &parts, &asked, body, fault);
    match outcome {
        Some(answer) => answer,
        None => std::future::pending().await,
    }
}

/// Does it, or not, as the fault has it; `None`: no answer ever comes.
fn done(
    state: &mut State,
    parts: &Parts,
    asked: &Asked,
    body: Bytes,
    fault: Option<Fault>,
) -> Option<Result<Response<Body>, Broken>> {
    let reply = match &fault {
        Some(Fault::Drop) => return Some(Err(Broken)),
        Some(Fault::Hang) => return None,
        Some(Fault::Refuse(status, code)) => reply_error(*status, code),
        _ => match signature::check(parts, ACCESS_KEY, &state.secret_key) {
            Err(code) => reply_error(403, code),
            Ok(()) => answer(state, asked, &parts.headers, body),
        },
    };
    let response = match fault {
        Some(Fault::DoThenDrop) => return Some(Err(Broken)),
        Some(Fault::DoThenHang) => return None,
        Some(Fault::DoThenRefuse(status, code)) => reply_error(status, code).into_response(asked, false),
        Some(Fault::Damage) => {
            if let Some(object) = state.objects.get_mut(&asked.key) {
                object.content = vec![0; object.content.len()].into();
            }
            reply.into_response(asked, false)
        }
        fault => Reply::into_response(reply, asked, matches!(fault, Some(Fault::Cut))),
    };
    Some(Ok(response))
}

fn take_fault(state: &mut State, asked: &Asked) -> Option<Fault> {
    if asked.key.contains(".probe/") {
        return None;
    }
    let fits = |planned: &Planned| planned.operation == asked.operation && asked.key.contains(planned.part);
    let at = state.faults.iter().position(fits)?;
    let fault = state.faults[at].fault.clone();
    state.faults[at].times -= 1;
    state.faults.retain(|planned| planned.times > 0);
    Some(fault)
}
