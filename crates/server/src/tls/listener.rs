//! Accepts connections, shakes hands, and hands requests with the peer's key to the router.
//!
//! A client that says nothing, stops in the middle or never reads cannot hold a place for long:
//! each phase has its own limit.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::{CipherSuite, RootCertStore};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower_service::Service;
use volary_model::Digest;

use crate::tls::authority::{CertificateAndKey, fingerprint_of_certificate};
use crate::tls::patient::Patient;

/// How long a handshake may take: three round trips over a bad link.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// How long the head of a request may take, idle time of a kept connection included.
const HEAD: Duration = Duration::from_secs(60);

/// The same for a device that has shown its certificate: more than two of the usual polls, so that
/// one connection serves them all and none of them begins with a handshake, which costs several
/// times the bytes of a poll. Longer than devices keep it themselves: if the server closed first, a
/// question might just be on its way.
const HEAD_OF_DEVICE: Duration = Duration::from_secs(160);

/// After so much silence the kernel asks whether the peer is still there: more than between two of
/// the usual polls, each of which shows it already.
const SILENT: Duration = Duration::from_secs(75);

/// How long unacknowledged data may stand before the kernel gives the connection up; it also
/// ends a peer that never reads.
const STALLED: Duration = Duration::from_secs(60);

/// How long running requests may take after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(10);

/// A connection that has been silent for so long may go where places are rare: what a device asks and sends in one
/// go follows within less, and its next poll is a minute away, so it hears of the end before it asks again.
const QUIET: Duration = Duration::from_secs(5);

/// While all places are taken, it is looked so often whether one may go.
const FULL: Duration = Duration::from_millis(20);

/// What a request's extensions say of its peer.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// SHA-256 of the public key of its client certificate, which our authority signed.
    pub(crate) key: Option<Digest>,
    /// Where it connects from.
    pub(crate) address: IpAddr,
}

/// The certificate in use; it can be exchanged while the server runs.
#[derive(Debug)]
pub(crate) struct CurrentCertificate(std::sync::RwLock<Arc<rustls::sign::CertifiedKey>>);

impl CurrentCertificate {
    pub(crate) fn new(pair: CertificateAndKey) -> Result<Self, rustls::Error> {
        Ok(Self(std::sync::RwLock::new(Arc::new(certified(pair)?))))
    }

    pub(crate) fn replace(&self, pair: CertificateAndKey) -> Result<(), rustls::Error> {
        let key = Arc::new(certified(pair)?);
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = key;
        Ok(())
    }
}

fn certified((chain, key): CertificateAndKey) -> Result<rustls::sign::CertifiedKey, rustls::Error> {
    let provider = rustls::crypto::ring::default_provider();
    rustls::sign::CertifiedKey::from_der(chain, key, &provider)
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone())
    }
}

/// TLS with client certificates of our authority, for those who have one.
pub(crate) fn tls_config(
    authority: &str,
    certificate: Arc<CurrentCertificate>,
) -> Result<rustls::ServerConfig, rustls::Error> {
    let mut provider = rustls::crypto::ring::default_provider();
    // Processors have instructions for SHA-256 and none for SHA-384, of which a handshake does much.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() == CipherSuite::TLS13_AES_256_GCM_SHA384);
    let provider = Arc::new(provider);
    let mut roots = RootCertStore::empty();
    for root in rustls_pemfile::certs(&mut authority.as_bytes()).flatten() {
        roots.add(root)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.ignore_client_order = true;
    // Each device comes back each minute: a ticket saves both sides most of the handshake.
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    // One is enough for one connection after the other. Each further one has some 160 bytes, more for a
    // device, whose certificate is in it; and apt keeps none.
    config.send_tls13_tickets = 1;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Open files that are for no connection.
const OTHER_FILES: u64 = 1000;

/// Serves until `stop` becomes true, then lets running requests end.
pub(crate) async fn run(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    router: Router,
    connections: u32,
    mut stop: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let connections = within_files(connections);
    let places = Arc::new(Semaphore::new(connections as usize));
    let silent = Arc::new(Silent::default());
    let mut number = 0;
    loop {
        let own = Places { all: places.clone(), total: connections as usize };
        if own.are_rare() {
            silent.dismiss(Instant::now());
        }
        let place = tokio::select! {
            () = asked_to_stop(&mut stop) => break,
            place = places.clone().acquire_owned() => place.expect("the semaphore is never closed"),
            // Somebody has been silent for long enough by then.
            () = tokio::time::sleep(FULL) => continue,
        };
        let (stream, address) = tokio::select! {
            () = asked_to_stop(&mut stop) => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: others must end first.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
        number += 1;
        let silence = Silence { all: silent.clone(), number, end: Arc::default(), since: Mutex::default() };
        let client = Client { stream, address, places: own, silence };
        tokio::spawn(async move {
            connection(client, acceptor, router, stop).await;
            drop(place);
        });
    }
    drop(listener);
    let all = places.acquire_many(connections);
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        tracing::warn!("some requests did not end in time and are cut off");
    }
}

/// At most so many connections that files are left for the records, git and programs: each connection is an open file, and
/// a server whose files are all gone answers nobody. The limit is raised as far as this machine lets it.
fn within_files(connections: u32) -> u32 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let wanted = u64::from(connections) + OTHER_FILES;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|files| files < wanted) {
        limit.current = Some(limit.maximum.map_or(wanted, |most| most.min(wanted)));
        if setrlimit(Resource::Nofile, limit).is_err() {
            limit = getrlimit(Resource::Nofile);
        }
    }
    let files = limit.current.unwrap_or(u64::MAX);
    let most = u32::try_from(files.saturating_sub(OTHER_FILES).max(files / 2)).unwrap_or(u32::MAX);
    if connections > most {
        tracing::warn!(
            "{most} connections are served at once, not {connections}: only {files} files may be open, see LimitNOFILE= of the \
             unit"
        );
    }
    connections.min(most)
}

/// The places for connections.
#[derive(Clone)]
struct Places {
    all: Arc<Semaphore>,
    total: usize,
}

impl Places {
    /// True if the last quarter of them is in use, the one that is held for whoever comes next among them. Then
    /// those that are silent go.
    fn are_rare(&self) -> bool {
        self.all.available_permits() * 4 < self.total
    }

    /// True if the last sixteenth of them is in use. Then each connection ends with its answer: those whose clients
    /// ask often enough would never be silent, and must not keep others out.
    fn are_few(&self) -> bool {
        self.all.available_permits() * 16 < self.total
    }
}

/// The connections whose clients say nothing, by since when, and how to end them.
#[derive(Default)]
struct Silent(Mutex<BTreeMap<(Instant, u64), Arc<Notify>>>);

impl Silent {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Instant, u64), Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends two connections that have been silent for long enough, more than the one that comes for them, so that
    /// there are fewer after a crowd. Those go that fell silent last: devices ask in turn, so the one that has been
    /// silent longest asks next, and would need another connection at once.
    fn dismiss(&self, now: Instant) {
        let Some(quiet) = now.checked_sub(QUIET) else { return };
        let mut all = self.lock();
        for _ in 0..2 {
            let Some(place) = all.range(..=(quiet, u64::MAX)).next_back().map(|(place, _)| *place) else {
                return;
            };
            if let Some(end) = all.remove(&place) {
                end.notify_one();
            }
        }
    }
}

/// One connection, which is among those that are silent whenever its client says nothing.
struct Silence {
    all: Arc<Silent>,
    number: u64,
    end: Arc<Notify>,
    since: Mutex<Option<Instant>>,
}

impl Silence {
    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on its client says nothing.
    fn begin(&self) {
        let now = Instant::now();
        *self.lock() = Some(now);
        self.all.lock().insert((now, self.number), self.end.clone());
    }

    /// Its client asks something, or is gone.
    fn end(&self) {
        if let Some(since) = self.lock().take() {
            self.all.lock().remove(&(since, self.number));
        }
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whoever connected.
struct Client {
    stream: TcpStream,
    address: SocketAddr,
    places: Places,
    silence: Silence,
}

async fn connection(client: Client, acceptor: TlsAcceptor, router: Router, mut stop: watch::Receiver<bool>) {
    let Client { stream, address, places, silence } = client;
    prepare(&stream);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "the handshake failed"),
        Err(_) => return tracing::debug!(%address, "the handshake took too long"),
    };
    let key = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(|certificate| fingerprint_of_certificate(certificate));
    let patience = if key.is_some() { HEAD_OF_DEVICE } else { HEAD };
    let peer = Peer { key, address: address.ip() };
    let end = silence.end.clone();
    silence.begin();
    let silence = Arc::new(silence);
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(|body| Body::new(Patient::new(Body::new(body))));
        request.extensions_mut().insert(peer.clone());
        // A router is always ready.
        let answer = router.clone().call(request);
        let (places, silence) = (places.clone(), silence.clone());
        silence.end();
        async move {
            let mut answer = answer.await?;
            silence.begin();
            if places.are_few() {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let asked_to_end = async {
        tokio::select! {
            () = asked_to_stop(&mut stop) => {}
            () = end.notified() => {}
        }
    };
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        // An answer that is on its way is sent to its end.
        () = asked_to_end => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "the connection broke");
    }
}

/// Ends when the server should. The guard that `wait_for` returns must not live longer.
pub(crate) async fn asked_to_stop(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn prepare(stream: &TcpStream) {
    use rustix::net::sockopt;
    // Without these the connection works too, only less well.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, SILENT);
    let _ = sockopt::set_tcp_user_timeout(stream, STALLED.as_millis() as u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fell_silent_last_goes_first_and_only_after_a_while() {
        let all = Arc::new(Silent::default());
        let silences: Vec<Silence> = (0..4)
            .map(|number| Silence { all: all.clone(), number, end: Arc::default(), since: Mutex::default() })
            .collect();
        silences.iter().for_each(Silence::begin);
        silences[0].end();
        let check = |now: Instant, expected: [usize; 2]| {
            all.dismiss(now);
            assert_eq!([all.lock().len(), told(&silences)], expected);
        };
        let now = Instant::now();
        check(now, [3, 0]);
        check(now + QUIET, [1, 2]);
        assert!(all.lock().keys().all(|(_, number)| *number == 1));
        drop(silences);
        assert!(all.lock().is_empty());
    }

    /// How many were told to end since the last time.
    fn told(silences: &[Silence]) -> usize {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let is_told =
            |silence: &&Silence| std::pin::pin!(silence.end.notified()).poll(&mut context).is_ready();
        silences.iter().filter(is_told).count()
    }
}
