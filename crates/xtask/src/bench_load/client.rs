//! The least client of HTTP/1.1 over TLS that does what devices and browsers do: kept connections, one request
//! after the other. An HTTP library would take more of the machine than the server that is measured.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use anyhow::{Context as _, bail, ensure};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The largest head of an answer.
const HEAD: usize = 16 << 10;

/// A connection.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    /// True if the handshake took up an older session.
    pub resumed: bool,
    /// True once the server has said that it closes.
    is_over: bool,
}

/// What a server answered.
pub struct Answer {
    pub status: u16,
    /// The entity tag, if it has one.
    pub etag: Option<String>,
    pub body: Vec<u8>,
}

impl Connection {
    /// Connects from an address of this machine.
    pub async fn open(
        tls: &Arc<rustls::ClientConfig>,
        from: SocketAddr,
        to: SocketAddr,
    ) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(from).with_context(|| format!("cannot bind {from}"))?;
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(to.ip().into());
        let stream = TlsConnector::from(tls.clone()).connect(name, stream).await?;
        let resumed = stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        Ok(Self { stream, resumed, is_over: false })
    }

    /// Itself, unless the server has closed, or has said that it does.
    pub fn open_still(mut self) -> Option<Self> {
        let (mut byte, mut context) = ([0], Context::from_waker(Waker::noop()));
        let mut buffer = ReadBuf::new(&mut byte);
        // Nothing is on its way between two requests but the end.
        let is_open =
            !self.is_over && Pin::new(&mut self.stream).poll_read(&mut context, &mut buffer).is_pending();
        is_open.then_some(self)
    }

    /// Asks, and waits for the whole answer. `headers` are lines, each with its end.
    pub async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> anyhow::Result<Answer> {
        let length =
            if method == "GET" { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nhost: volary\r\n{headers}{length}\r\n").into_bytes();
        request.extend_from_slice(body);
        self.stream.write_all(&request).await?;
        let mut buffer = Vec::with_capacity(1024);
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            ensure!(buffer.len() < HEAD, "the head of the answer does not end");
            ensure!(self.stream.read_buf(&mut buffer).await? > 0, "the server closed the connection");
        };
        let head = std::str::from_utf8(&buffer[..end])?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
        let field = |name: &str| {
            head.lines()
                .filter_map(|line| line.split_once(':'))
                .find_map(|(field, value)| field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned()))
        };
        self.is_over = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let (etag, length) = (field("etag"), field("content-length"));
        if field("transfer-encoding").is_some() {
            bail!("{path} came in chunks, which this client does not read");
        }
        let length: usize = length.map_or(Ok(0), |length| length.parse())?;
        let mut body = buffer.split_off(end);
        while body.len() < length {
            ensure!(self.stream.read_buf(&mut body).await? > 0, "the server closed in the middle of {path}");
        }
        Ok(Answer { status, etag, body })
    }
}
