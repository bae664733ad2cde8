//! The start of the whole server, in order, and its end.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use volary_host::{Lock, LockError};
use volary_store::{Series, Store};

use crate::app::{App, Current, RunningBuilds};
use crate::config::Config;
use crate::depot::Depot;
use crate::export::Keeper;
use crate::fleet_view::FleetView;
use crate::http::auth::Tokens;
use crate::http::mender::Mender;
use crate::images::Images;
use crate::mirrors::Mirrors;
use crate::nudge::{Nudges, Outcomes};
use crate::oidc::Oidc;
use crate::registry::Registry;
use crate::tls::authority::{self, Authority};
use crate::tls::listener::{self, CurrentCertificate};
use crate::uploads::Uploads;
use crate::{Layout, ServerError, feeds, http, init, reconcile};

/// How many connections wait until they are taken; the kernel may allow fewer (`net.core.somaxconn`). Who does not fit
/// tries again after a second, then two, four and so on: with 128, a busy moment of a large fleet took 20 s for some.
const WAITING: u32 = 4096;

/// How many packs for devices are made at once.
const PACKS: usize = 4;

/// How many passwords are looked at at once.
const HASHING: usize = 2;

/// How long what still runs may take at the end; a build goes on only after the next start.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How to run a server.
#[derive(Debug, Clone, Default)]
pub struct ServeOptions {
    /// Where to listen, instead of the configured address and port. Port 0 takes a free one.
    pub listen: Option<SocketAddr>,
}

/// A server that runs. It goes on until [`Running::stop`], or until [`Running::wait`] sees a
/// signal.
#[derive(Debug)]
pub struct Running {
    runtime: Option<Runtime>,
    stop: watch::Sender<bool>,
    serving: Option<JoinHandle<()>>,
    address: SocketAddr,
    url: String,
    store: Store,
    series: Series,
    _lock: Lock,
}

/// Starts the server in `dir` and returns once it answers.
///
/// # Errors
/// [`ServerError`]: not a server's folder, one that runs already, the port in use, a configuration
/// that is not valid.
pub fn serve(dir: &Path, options: &ServeOptions) -> Result<Running, ServerError> {
    let layout = Layout::new(dir);
    if !layout.config().is_file() {
        return Err(ServerError::NotInitialised(layout.root().to_owned()));
    }
    let config = Config::read(&layout.config())?;
    let lock = Lock::acquire(&layout.lock(), Duration::ZERO).map_err(|error| match error {
        LockError::Held(_) => ServerError::AlreadyRunning(layout.root().to_owned()),
        LockError::Io { path, source } => {
            ServerError::File(volary_host::FileError { operation: "lock", path, source })
        }
    })?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(ServerError::Start)?;
    let (stop, stopping) = watch::channel(false);
    let started = runtime.block_on(start(layout, config, options, stopping))?;
    tracing::info!(address = %started.address, url = %started.url, "the server answers");
    Ok(Running {
        serving: Some(started.serving),
        address: started.address,
        url: started.url,
        store: started.store,
        series: started.series,
        runtime: Some(runtime),
        stop,
        _lock: lock,
    })
}

struct Started {
    serving: JoinHandle<()>,
    address: SocketAddr,
    url: String,
    store: Store,
    series: Series,
}

async fn start(
    layout: Layout,
    config: Config,
    options: &ServeOptions,
    stopping: watch::Receiver<bool>,
) -> Result<Started, ServerError> {
    // The port first: if it is taken, nothing has been touched yet.
    let listener = bind(&config, options)?;
    let address = listener.local_addr().map_err(ServerError::Start)?;
    let url = config.url_at(address.port());
    let authority = Authority::load(&layout)?;
    authority.renew_server(&layout, &config.hosts)?;
    let unusable = |error: rustls::Error| ServerError::Certificate {
        operation: "use",
        path: layout.tls_certificate(),
        detail: error.to_string(),
    };
    let certificate =
        Arc::new(CurrentCertificate::new(authority::server_certificate(&layout)?).map_err(unusable)?);
    let tls = listener::tls_config(authority.certificate(), certificate.clone()).map_err(unusable)?;
    let archive = Arc::new(Depot::open(&layout.archive(), config.signers())?);
    archive.configure(&url, &config)?;
    let images = Images::open(&layout.images(), config.images.read_keys(layout.root())?)?;
    let store = Store::open(&layout.database()).await?;
    let series = Series::open(&layout.metrics(), config.metrics.options()).await?;
    // The program may be at another place than when the server was made.
    init::install_hook(&layout.fleet())?;
    let connections = config.connections;
    let mender = match &config.mender {
        Some(_) => Some(Mender::load(&store).await?),
        None => None,
    };
    let app = Arc::new(App {
        mender,
        url: url.clone(),
        rolling: Current::new(archive.rolling_digest()?),
        view: Current::new(FleetView::default()),
        rollouts: Current::default(),
        promotions: Current::default(),
        rolling_out: tokio::sync::Mutex::new(()),
        judged: Current::default(),
        looking_at_devices: tokio::sync::Mutex::default(),
        compared: Arc::default(),
        watched: Current::default(),
        leak_rules: Current::default(),
        news: Notify::new(),
        started_at: volary_host::now(),
        stop: stopping.clone(),
        registry: Registry::default(),
        known: tokio::sync::Mutex::default(),
        tokens: Tokens::default(),
        throttle: Mutex::default(),
        oidc: config.oidc.as_ref().map(|oidc| Arc::new(Oidc::new(oidc, layout.root(), &url))),
        hashing: Semaphore::new(HASHING),
        nudges: Nudges::default(),
        outcomes: Outcomes::default(),
        asked_to_poll: Mutex::default(),
        looking: Mutex::default(),
        reading_stages: tokio::sync::Mutex::default(),
        publishing: tokio::sync::Mutex::default(),
        gate_runs: Mutex::default(),
        running: RunningBuilds::default(),
        exports: Keeper::default(),
        packs: Semaphore::new(PACKS),
        uploads: Uploads::default(),
        images: Arc::new(images),
        changing_images: tokio::sync::Mutex::default(),
        packer: volary_fleet::Packer::default(),
        mirrors: Mirrors::new(layout.archive_mirrors()),
        store: store.clone(),
        series: series.clone(),
        standings: Current::default(),
        remote_writes: feeds::RemoteWrites::default(),
        layout,
        config,
        archive,
        authority,
        certificate,
    });
    app.registry.load(&app.store).await?;
    app.tokens.load(&app.store).await?;
    reconcile::recover(&app).await?;
    if let Err(problem) = reconcile::stages(app.clone()).await {
        tracing::warn!(%problem, "the fleet repository cannot be read yet");
    }
    let router = http::router(app.clone());
    let mut reconcilers = reconcile::start(&app, &stopping);
    let serving = tokio::spawn(async move {
        listener::run(listener, tls, router, connections, stopping).await;
        if tokio::time::timeout(LAST_WORDS, async { while reconcilers.join_next().await.is_some() {} })
            .await
            .is_err()
        {
            tracing::info!("a build is cut off; it is queued again at the next start");
        }
        // The last signs of life; that they are lost would cost nothing but a few seconds.
        let _ = app.registry.flush(&app.store).await;
    });
    Ok(Started { serving, address, url, store, series })
}

fn bind(config: &Config, options: &ServeOptions) -> Result<TcpListener, ServerError> {
    let wanted = options.listen.unwrap_or(SocketAddr::new(config.listen, config.port));
    let bound = match listen(wanted) {
        // A machine without IPv6 has no "all addresses" of it.
        Err(error)
            if wanted.ip().is_unspecified()
                && wanted.is_ipv6()
                && error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) =>
        {
            listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, wanted.port())))
        }
        bound => bound,
    };
    bound.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => ServerError::PortInUse { port: wanted.port() },
        _ => ServerError::Listen { address: wanted.to_string(), source },
    })
}

fn listen(wanted: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if wanted.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    socket.set_reuseaddr(true)?;
    socket.bind(wanted)?;
    socket.listen(WAITING)
}

/// Uploads whose sender never came back are of no use after a day.
pub(crate) fn sweep_uploads(layout: &Layout) {
    const OLD: Duration = Duration::from_secs(86_400);
    for entry in std::fs::read_dir(layout.uploads()).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
        if age.is_ok_and(|age| age.is_ok_and(|age| age > OLD))
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::warn!(%error, path = %entry.path().display(), "cannot remove an old upload");
        }
    }
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address that it gives out, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Waits for SIGTERM or Ctrl-C, then stops.
    ///
    /// # Errors
    /// [`ServerError::Start`] if signals cannot be waited for.
    pub fn wait(self) -> Result<(), ServerError> {
        let runtime = self.runtime.as_ref().expect("it is there until the end");
        runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate()).map_err(ServerError::Start)?;
            let mut interrupt = signal(SignalKind::interrupt()).map_err(ServerError::Start)?;
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            Ok::<(), ServerError>(())
        })?;
        tracing::info!("stopping");
        self.stop();
        Ok(())
    }

    /// Stops: no new connections, running requests end, records are closed.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let _ = self.stop.send(true);
        if let Some(serving) = self.serving.take() {
            runtime.block_on(async {
                let _ = serving.await;
                // A build that still runs may hold a connection; the file is safe either way.
                let _ = tokio::time::timeout(LAST_WORDS, self.store.close()).await;
                let _ = tokio::time::timeout(LAST_WORDS, self.series.close()).await;
            });
        }
        runtime.shutdown_background();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
