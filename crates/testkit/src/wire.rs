//! What goes over the wire, counted at the socket: a TCP proxy in front of a server, and a plain
//! web server for the folders of archives. Both end with their owner.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use volary_host::FileError;

use crate::LabError;

/// How long a connection may say nothing.
const IDLE: Duration = Duration::from_secs(60);

/// What common web servers say in each answer; without it ours would look lighter than they are.
const USUAL: &str =
    "Server: nginx/1.22.1\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT\r\nConnection: keep-alive\r\n";

/// Bytes that went through a [`Proxy`]. Those of TCP and IP themselves are not among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the client to the server.
    pub up: u64,
    /// From the server to the client.
    pub down: u64,
    /// How often the client spoke after the server, or first: the round trips, which are the
    /// requests on a connection that stands already.
    pub turns: u64,
    /// Connections that were made.
    pub connections: u64,
}

impl std::ops::Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            up: self.up + other.up,
            down: self.down + other.down,
            turns: self.turns + other.turns,
            connections: self.connections + other.connections,
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    up: AtomicU64,
    down: AtomicU64,
    turns: AtomicU64,
    connections: AtomicU64,
    /// Of the next connection; unlike the count it is never taken back.
    serial: AtomicU64,
    /// Both sides of the connections that stand.
    open: Mutex<BTreeMap<u64, [TcpStream; 2]>>,
}

impl Counters {
    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, [TcpStream; 2]>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands connections on to a server and counts what goes through.
#[derive(Debug)]
pub struct Proxy {
    listening: Listening,
    counters: Arc<Counters>,
}

impl Proxy {
    /// A proxy on a free port of `address` in front of `to`.
    ///
    /// # Errors
    /// That no port can be had.
    pub fn start(address: Ipv4Addr, to: SocketAddr) -> Result<Self, LabError> {
        let counters = Arc::new(Counters::default());
        let seen = Arc::clone(&counters);
        let listening = Listening::start(address, move |client| {
            let Ok(server) = TcpStream::connect(to) else { return };
            seen.connections.fetch_add(1, Ordering::SeqCst);
            let serial = seen.serial.fetch_add(1, Ordering::SeqCst);
            if let (Ok(client), Ok(server)) = (client.try_clone(), server.try_clone()) {
                seen.open().insert(serial, [client, server]);
            }
            let _ = hand_on(&client, &server, &seen);
            seen.open().remove(&serial);
        })?;
        Ok(Self { listening, counters })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.listening.port
    }

    /// What went through since the last call.
    pub fn take(&self) -> Traffic {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::SeqCst);
        Traffic {
            up: take(&self.counters.up),
            down: take(&self.counters.down),
            turns: take(&self.counters.turns),
            connections: take(&self.counters.connections),
        }
    }

    /// Ends all connections that stand, as a router that forgot them does.
    pub fn cut(&self) {
        for stream in std::mem::take(&mut *self.counters.open()).into_values().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Both directions, until both sides have ended.
fn hand_on(client: &TcpStream, server: &TcpStream, seen: &Counters) -> io::Result<()> {
    for stream in [client, server] {
        stream.set_nodelay(true)?;
    }
    let server_spoke = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            copy(client, server, |length| {
                seen.up.fetch_add(length, Ordering::SeqCst);
                if server_spoke.swap(false, Ordering::SeqCst) {
                    seen.turns.fetch_add(1, Ordering::SeqCst);
                }
            });
        });
        copy(server, client, |length| {
            seen.down.fetch_add(length, Ordering::SeqCst);
            server_spoke.store(true, Ordering::SeqCst);
        });
    });
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, count: impl Fn(u64)) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(length) => {
                // Before it is handed on: whoever saw the answer finds it counted.
                count(length as u64);
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

/// A web server for one folder, as simple as a mirror's: `GET`, `If-Modified-Since`, connections
/// that stay open.
#[derive(Debug)]
pub struct WebFolder {
    listening: Listening,
}

impl WebFolder {
    /// Serves `dir` on a free port of `address`.
    ///
    /// # Errors
    /// That no port can be had.
    pub fn start(address: Ipv4Addr, dir: &Path) -> Result<Self, LabError> {
        let dir = dir.to_owned();
        let listening = Listening::start(address, move |stream| {
            // A client that goes away is none of our trouble.
            let _ = serve(&stream, &dir);
        })?;
        Ok(Self { listening })
    }

    /// Its address and port.
    pub fn address(&self) -> SocketAddr {
        self.listening.address
    }
}

fn serve(stream: &TcpStream, dir: &Path) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    let mut lines = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if lines.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut since = None;
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let Some((name, value)) = line.split_once(':') else { break };
            if name.eq_ignore_ascii_case("if-modified-since") {
                since = Some(value.trim().to_owned());
            }
        }
        let path = request.split(' ').nth(1).unwrap_or("/");
        answer(stream, &below(dir, path), since.as_deref())?;
    }
}

/// The path of what is asked for; one that cannot exist if it would lead out.
fn below(dir: &Path, asked: &str) -> PathBuf {
    let path = asked.split('?').next().unwrap_or("").trim_start_matches('/').replace("%2b", "+");
    let relative = Path::new(&path);
    match relative.components().all(|part| matches!(part, Component::Normal(_))) {
        true => dir.join(relative),
        false => dir.join("no\u{1}such"),
    }
}

fn answer(mut stream: &TcpStream, path: &Path, since: Option<&str>) -> io::Result<()> {
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
    let (facts, file) = match opened {
        Ok((facts, file)) if facts.is_file() => (facts, file),
        _ => return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
    };
    let seconds = facts.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let modified = http_date(seconds);
    // As most servers do: what is older than the client's copy counts as known, too.
    if since.and_then(seconds_of).is_some_and(|since| seconds <= since) {
        let head = format!("HTTP/1.1 304 Not Modified\r\n{USUAL}Last-Modified: {modified}\r\n\r\n");
        return stream.write_all(head.as_bytes());
    }
    let length = facts.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\n{USUAL}Content-Type: application/octet-stream\r\nLast-Modified: {modified}\r\n\
         ETag: \"{seconds:x}-{length:x}\"\r\nAccept-Ranges: bytes\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    io::copy(&mut file.take(length), &mut stream).map(drop)
}

fn http_date(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    let time = time.unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&time)
        .expect("years of files have four digits")
}

fn seconds_of(http_date: &str) -> Option<u64> {
    let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(http_date).ok()?;
    u64::try_from(time.as_second()).ok()
}

/// A listening port whose connections are served by threads, until it is dropped.
#[derive(Debug)]
struct Listening {
    address: SocketAddr,
    port: u16,
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Listening {
    fn start(address: Ipv4Addr, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Result<Self, LabError> {
        let failed = |error| FileError::at("listen on", Path::new(&address.to_string()))(error);
        let listener = TcpListener::bind((address, 0)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let ended = Arc::new(AtomicBool::new(false));
        let (end, serve) = (Arc::clone(&ended), Arc::new(serve));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(stream));
            }
        });
        Ok(Self { address, port: address.port(), ended, thread: Some(thread) })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // The thread waits for a connection: here it comes.
        if TcpStream::connect(self.address).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(port: u16, request: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn every_byte_of_an_answer_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        volary_host::write_atomic(&dir.path().join("file"), b"0123456789", 0o644).unwrap();
        let web = WebFolder::start(Ipv4Addr::LOCALHOST, dir.path()).unwrap();
        let proxy = Proxy::start(Ipv4Addr::LOCALHOST, web.address()).unwrap();
        let request = "GET /file HTTP/1.1\r\nHost: x\r\n\r\n";
        let text = ask(proxy.port(), request);
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("\r\n\r\n0123456789"), "{text}");
        let (up, down) = (request.len() as u64, text.len() as u64);
        assert_eq!(proxy.take(), Traffic { up, down, turns: 1, connections: 1 });
        assert_eq!(proxy.take(), Traffic::default());

        let date = text.lines().find_map(|line| line.strip_prefix("Last-Modified: ")).unwrap();
        let again = ask(proxy.port(), &format!("GET /file HTTP/1.1\r\nIf-Modified-Since: {date}\r\n\r\n"));
        assert!(again.starts_with("HTTP/1.1 304"), "{again}");
        for path in ["/../file", "/none", "/"] {
            assert!(ask(proxy.port(), &format!("GET {path} HTTP/1.1\r\n\r\n")).starts_with("HTTP/1.1 404"));
        }
    }

    #[test]
    fn turns_are_counted_and_connections_can_be_cut() {
        let dir = tempfile::tempdir().unwrap();
        let web = WebFolder::start(Ipv4Addr::LOCALHOST, dir.path()).unwrap();
        let proxy = Proxy::start(Ipv4Addr::LOCALHOST, web.address()).unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        for _ in 0..3 {
            stream.write_all(b"GET /none HTTP/1.1\r\n\r\n").unwrap();
            let mut answer = [0; 45];
            stream.read_exact(&mut answer).unwrap();
        }
        let seen = proxy.take();
        assert_eq!((seen.turns, seen.connections), (3, 1));
        proxy.cut();
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
}
