//! Whether the server can listen where it is to, and its certificates.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use super::{Check, Subject};
use crate::{
    calendar::{now_unix_micros, rfc3339},
    config::TlsFiles,
    tls,
};

const HTTP: &str = "http_port";
const GRPC: &str = "grpc_port";
const TLS: &str = "tls";

pub(super) fn check(subject: &Subject) -> Vec<Check> {
    let settings = &subject.loaded.settings;
    let runs = subject.holder.is_some();
    let mut checks = vec![
        port(HTTP, "bind_address", settings.bind_address, runs),
        port(GRPC, "grpc_address", settings.grpc_address, runs),
    ];
    checks.extend(subject.config.as_ref().map(|config| certificates(config.tls.as_ref())));
    checks
}

fn port(name: &'static str, key: &str, address: SocketAddr, server_runs: bool) -> Check {
    match TcpListener::bind(address) {
        Ok(_) if address.port() == 0 => Check::ok(name, format!("{key} = {address}: any free port")),
        Ok(_) => Check::ok(name, format!("{key} = {address} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && server_runs => {
            Check::ok(name, format!("{key} = {address} is taken, as it should be while the server runs"))
        }
        Err(error) => {
            let remedy = match error.kind() {
                io::ErrorKind::AddrInUse => format!("end whoever listens there (ss -ltnp), or set another {key}"),
                io::ErrorKind::PermissionDenied => {
                    format!("set {key} to a port from 1024 on, or grant CAP_NET_BIND_SERVICE")
                }
                _ => format!("set {key} to an address of this machine"),
            };
            Check::failed(name, format!("cannot listen on {key} = {address}: {error}"), remedy)
        }
    }
}

fn certificates(files: Option<&TlsFiles>) -> Check {
    let Some(files) = files else { return Check::ok(TLS, "off") };
    match tls::load(files, now_unix_micros()) {
        Ok(identity) if identity.warnings.is_empty() => {
            Check::ok(TLS, format!("the certificate is valid until {}", rfc3339(identity.not_after_unix_micros)))
        }
        Ok(identity) => {
            Check::warning(TLS, identity.warnings.join("; "), "do as it says; SIGHUP reads the files again")
        }
        Err(error) => {
            Check::failed(TLS, error.to_string(), "put tls.cert_path, tls.key_path and tls.client_ca_path right")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_taken_port_is_a_running_server_s_or_a_fault() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("an address");
        assert_eq!(port(HTTP, "bind_address", address, true).verdict, Verdict::Ok);
        let check = port(HTTP, "bind_address", address, false);
        assert!(check.verdict == Verdict::Failed && check.remedy.expect("one").contains("bind_address"));
        let elsewhere = "192.0.2.1:0".parse().expect("an address");
        assert_eq!(port(GRPC, "grpc_address", elsewhere, true).verdict, Verdict::Failed);
        assert_eq!(port(GRPC, "grpc_address", ([127, 0, 0, 1], 0).into(), false).verdict, Verdict::Ok);
    }
}
