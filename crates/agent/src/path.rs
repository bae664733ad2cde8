//! The management path: can the device reach its server? Resolve its name, connect, begin TLS.
//!
//! The question is whether the *device* can still be managed, so the server's own faults prove
//! the path: an expired certificate, a connection that it resets. A connection that is refused, a
//! certificate of somebody else, or silence deny it. Nothing is kept between two tries.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};

/// How long each part of a try may take: resolving, all connections together, TLS.
const LIMIT: Duration = Duration::from_secs(5);

/// What a try said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// The server can be reached.
    Works {
        /// By what.
        how: How,
    },
    /// It cannot.
    Broken {
        /// Why, in half a sentence.
        reason: String,
    },
}

/// By what the path is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// TLS with the server's own certificate.
    Tls,
    /// The same, but the certificate's time is over or has not come: the server's fault, unless
    /// the device's clock was moved.
    OutOfDate,
    /// The connection stood and the server ended it.
    Ended,
    /// It did not work before the change, so it is not judged.
    Unjudged,
}

impl Proof {
    /// True if it works.
    pub const fn works(&self) -> bool {
        matches!(self, Self::Works { .. })
    }
}

/// Tries the way to `server` (`https://host:port`), whose authority is `ca` (PEM). Ends within a
/// quarter of a minute.
pub fn probe(server: &str, ca: &str) -> Proof {
    try_probe(server, ca).unwrap_or_else(|reason| Proof::Broken { reason })
}

/// Tries it up to `times` times, with a pause between, until it works: the last word on a change
/// is not left to one lost packet.
pub fn probe_again(server: &str, ca: &str, times: u32, pause: Duration) -> Proof {
    let mut proof = probe(server, ca);
    for _ in 1..times {
        if proof.works() {
            break;
        }
        std::thread::sleep(pause);
        proof = probe(server, ca);
    }
    proof
}

fn try_probe(server: &str, ca: &str) -> Result<Proof, String> {
    let (host, port) =
        host_and_port(server).ok_or_else(|| format!("{server:?} is no address of a server"))?;
    let addresses = resolve(&host, port)?;
    let stream = connect(&addresses)?;
    begin_tls(stream, &host, ca)
}

/// The host and port of a URL.
fn host_and_port(server: &str) -> Option<(String, u16)> {
    let rest = server.strip_prefix("https://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']')?;
            (host, after.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().ok()?,
        None => 443,
    };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// By the system's resolver, which knows no time limit: a thread of its own that may be left
/// behind.
fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let (sender, receiver) = mpsc::channel();
    let name = host.to_owned();
    std::thread::spawn(move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        // Nobody listens any more if it took too long.
        let _ = sender.send(found);
    });
    match receiver.recv_timeout(LIMIT) {
        Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
        Ok(Ok(_)) => Err(format!("the name {host} has no address")),
        Ok(Err(error)) => Err(format!("the name {host} cannot be resolved: {error}")),
        Err(_) => Err(format!("the name {host} was not resolved within {} s", LIMIT.as_secs())),
    }
}

fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let begun = Instant::now();
    let mut last = String::new();
    for (index, address) in addresses.iter().enumerate() {
        let left = LIMIT.saturating_sub(begun.elapsed());
        let others = u32::try_from(addresses.len() - index).unwrap_or(1);
        // Each address gets its share, so that one that is dead does not hide the others.
        let share = left / others;
        if share.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(address, share) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("cannot connect to {address}: {error}"),
        }
    }
    Err(last)
}

fn begin_tls(mut stream: TcpStream, host: &str, ca: &str) -> Result<Proof, String> {
    let name =
        ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no name of a server"))?;
    let out_of_date = Arc::new(AtomicBool::new(false));
    let config = config(ca, &out_of_date)?;
    let mut tls = ClientConnection::new(config, name).map_err(|error| error.to_string())?;
    let begun = Instant::now();
    while tls.is_handshaking() {
        let left = LIMIT.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(format!("{host} did not answer within {} s", LIMIT.as_secs()));
        }
        let limits = stream.set_read_timeout(Some(left)).and_then(|()| stream.set_write_timeout(Some(left)));
        limits.map_err(|error| error.to_string())?;
        if let Err(error) = tls.complete_io(&mut stream) {
            return judge(host, &error);
        }
    }
    let how = if out_of_date.load(Ordering::Relaxed) { How::OutOfDate } else { How::Tls };
    Ok(Proof::Works { how })
}

/// Whose fault it is that TLS did not come about.
fn judge(host: &str, error: &io::Error) -> Result<Proof, String> {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match (tls, error.kind()) {
        // It was judged already that only its time is over.
        (Some(Error::InvalidCertificate(fault)), _) => {
            Err(format!("{host} shows a certificate that is not its own: {fault:?}"))
        }
        (Some(Error::AlertReceived(_) | Error::PeerIncompatible(_)), _) => {
            Ok(Proof::Works { how: How::Ended })
        }
        (Some(other), _) => Err(format!("{host} does not speak TLS: {other}")),
        (
            None,
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof,
        ) => Ok(Proof::Works { how: How::Ended }),
        (None, ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Err(format!("{host} did not answer within {} s", LIMIT.as_secs()))
        }
        (None, _) => Err(format!("the connection to {host} broke: {error}")),
    }
}

fn config(ca: &str, out_of_date: &Arc<AtomicBool>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("the authority's certificate: {error:?}"))?;
        roots.add(certificate).map_err(|error| format!("the authority's certificate: {error}"))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| format!("the authority's certificate: {error}"))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        // It believes no more than the usual one, but for the date of a certificate that was valid.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OfAnyTime { inner, out_of_date: Arc::clone(out_of_date) }))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Believes a certificate of the right authority and name whose time is over or has not come. That
/// is the server's fault; nothing is sent over such a connection.
#[derive(Debug)]
struct OfAnyTime {
    inner: Arc<WebPkiServerVerifier>,
    out_of_date: Arc<AtomicBool>,
}

impl ServerCertVerifier for OfAnyTime {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let at = |time| self.inner.verify_server_cert(end_entity, intermediates, name, ocsp, time);
        let then = match at(now) {
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => not_after,
            Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
                not_before
            }
            verified => return verified,
        };
        self.out_of_date.store(true, Ordering::Relaxed);
        at(then)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
