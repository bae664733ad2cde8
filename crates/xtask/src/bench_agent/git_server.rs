//! The peer's server: the same bare repository over TLS by git's own `http-backend`, with as few
//! bytes around it as a web server can do.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, ensure};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use volary_host::Cmd;

/// A server that ends with the process.
pub struct GitServer {
    port: u16,
    certificate: String,
    requests: Arc<AtomicU64>,
}

type Stream = BufReader<StreamOwned<ServerConnection, TcpStream>>;

struct Request {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl GitServer {
    /// Serves the bare repositories in `folder` on a free port of `address`.
    pub fn start(address: Ipv4Addr, folder: &Path) -> anyhow::Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(vec![address.to_string()])?.self_signed(&key)?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)?;
        let (config, requests) = (Arc::new(config), Arc::new(AtomicU64::new(0)));
        let listener = TcpListener::bind((address, 0)).context("cannot listen for the peer")?;
        let port = listener.local_addr()?.port();
        let (folder, count) = (folder.to_owned(), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, folder, count) = (Arc::clone(&config), folder.clone(), Arc::clone(&count));
                std::thread::spawn(move || {
                    // A client that goes away is none of our trouble.
                    let _ = serve(stream, config, &folder, &count);
                });
            }
        });
        Ok(Self { port, certificate: certificate.pem(), requests })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its certificate, PEM, which is its own authority.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// How many requests came since the last call.
    pub fn take_requests(&self) -> u64 {
        self.requests.swap(0, Ordering::SeqCst)
    }
}

fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    folder: &Path,
    count: &AtomicU64,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(StreamOwned::new(ServerConnection::new(config)?, stream));
    while let Some(request) = read(&mut stream)? {
        count.fetch_add(1, Ordering::SeqCst);
        let answer = answer(folder.to_owned(), request)?;
        stream.get_mut().write_all(&answer)?;
        stream.get_mut().flush()?;
    }
    Ok(())
}

fn read(stream: &mut Stream) -> anyhow::Result<Option<Request>> {
    let mut first = String::new();
    if stream.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = header(&headers, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    ensure!(length < 1 << 20, "git sent {length} bytes; a poll needs less");
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let mut words = first.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Some(Request { method, path: path.to_owned(), query: query.to_owned(), headers, body }))
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// One run of `git http-backend`, by the rules of CGI.
fn answer(folder: PathBuf, request: Request) -> anyhow::Result<Vec<u8>> {
    let named = |name| header(&request.headers, name).unwrap_or_default().to_owned();
    let ended = Cmd::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", folder)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("PATH_INFO", &request.path)
        .env("QUERY_STRING", &request.query)
        .env("REQUEST_METHOD", &request.method)
        .env("CONTENT_TYPE", named("content-type"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", named("content-encoding"))
        .env("GIT_PROTOCOL", named("git-protocol"))
        .stdin(request.body.clone())
        .check()?;
    let said = ended.stdout;
    let end = said.windows(4).position(|four| four == b"\r\n\r\n").context("git printed no header")?;
    let (head, body) = (String::from_utf8_lossy(&said[..end]), &said[end + 4..]);
    let (status, others): (Vec<_>, Vec<_>) = head.lines().partition(|line| line.starts_with("Status: "));
    let status = status.first().map_or("200 OK", |line| line.trim_start_matches("Status: "));
    let mut answer = format!("HTTP/1.1 {status}\r\n");
    for line in others {
        answer.push_str(line);
        answer.push_str("\r\n");
    }
    answer.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    let mut answer = answer.into_bytes();
    answer.extend_from_slice(body);
    Ok(answer)
}
