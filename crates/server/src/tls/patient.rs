//! A request's body that is read to its end even if nobody wants it any more.
//!
//! A server that answers "no" and closes while the client still sends resets the connection, and
//! the client never sees why it was refused. So the rest is read and thrown away, within limits.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::runtime::Handle;

/// How much is thrown away for a client that goes on sending.
const MOST: u64 = 256 << 20;

/// For how long.
const LONGEST: Duration = Duration::from_secs(30);

/// A body whose rest is thrown away when it is dropped.
pub(crate) struct Patient(Option<Body>);

impl Patient {
    /// Wraps a body.
    pub(crate) fn new(body: Body) -> Self {
        Self(Some(body))
    }
}

impl hyper::body::Body for Patient {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut self.0 {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(hyper::body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(SizeHint::default, hyper::body::Body::size_hint)
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        let Some(body) = self.0.take() else { return };
        if !hyper::body::Body::is_end_stream(&body)
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(tokio::time::timeout(LONGEST, throw_away(body)));
        }
    }
}

async fn throw_away(mut body: Body) {
    let mut left = MOST;
    while let Some(Ok(frame)) = body.frame().await {
        let size = frame.data_ref().map_or(0, Bytes::len) as u64;
        match left.checked_sub(size) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
