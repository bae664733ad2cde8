//! Uploads, read while they arrive: a file that comes alone, or several as a tar archive. Not here:
//! what they are.

use std::fmt::Display;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use super::archive::{CHANGES_LIMIT, FILE_LIMIT, plain_name};
use super::input::{blocking, too_large};
use super::refusal::Refusal;
use crate::uploads::Writing;

/// How many files one request may have: a large source package has some hundred.
const MOST_FILES: usize = 4096;

/// How long a sender may pause.
const STALLED: Duration = Duration::from_secs(60);

/// How many pieces of a request wait to be written.
const PIECES: usize = 8;

/// Unpacks a request into a folder. Whatever is no plain file with a plain name is refused; what
/// was unpacked before is left for the caller to remove.
pub(super) async fn unpack(body: Body, dir: PathBuf, writing: Writing) -> Result<(), Refusal> {
    receive(body, move |pieces| {
        let unpacked = unpack_files(pieces, &dir);
        drop(writing);
        unpacked
    })
    .await
}

/// Writes a request to a file; what cannot be written to its end is removed.
pub(super) async fn save(body: Body, path: PathBuf, limit: u64, writing: Writing) -> Result<(), Refusal> {
    receive(body, move |pieces| {
        let saved = save_file(pieces, &path, limit);
        if saved.is_err() {
            volary_host::remove_if_exists(&path)?;
        }
        drop(writing);
        saved
    })
    .await
}

/// Reads a request while `write`, which may block, does something with what has come.
pub(super) async fn receive<T: Send + 'static>(
    mut body: Body,
    write: impl FnOnce(Pieces) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let (send, receive) = mpsc::channel::<io::Result<Piece>>(PIECES);
    let written = tokio::spawn(blocking(move || write(Pieces::new(receive))));
    let mut trouble = None;
    loop {
        let piece = match next_piece(&mut body).await {
            Ok(Some(bytes)) => Ok(Piece::Some(bytes)),
            Ok(None) => Ok(Piece::End),
            Err(refusal) => {
                trouble = Some(refusal);
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        };
        let is_last = !matches!(piece, Ok(Piece::Some(_)));
        // Whoever writes has refused it if it takes no more, and says why.
        if send.send(piece).await.is_err() || is_last {
            break;
        }
    }
    let written = written.await.map_err(|error| Refusal::broken(error.to_string()))?;
    trouble.map_or(written.and_then(|written| written), Err)
}

/// The next bytes of a request, if it has more of them. Says if the sender is gone or stands still.
async fn next_piece(body: &mut Body) -> Result<Option<Bytes>, Refusal> {
    loop {
        let frame = tokio::time::timeout(STALLED, body.frame())
            .await
            .map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the upload stood still for too long"))?;
        match frame {
            None => return Ok(None),
            Some(Err(_)) => return Err(Refusal::invalid("the upload broke off")),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// A part of a request. That no more of them come is not its end: then the sender is gone.
enum Piece {
    Some(Bytes),
    End,
}

/// What arrived, as something to read. Blocks.
pub(super) struct Pieces {
    receive: mpsc::Receiver<io::Result<Piece>>,
    now: Bytes,
    is_over: bool,
}

impl Pieces {
    fn new(receive: mpsc::Receiver<io::Result<Piece>>) -> Self {
        Self { receive, now: Bytes::new(), is_over: false }
    }

    /// What arrived next; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.is_over {
            return Ok(None);
        }
        match self.receive.blocking_recv() {
            Some(Ok(Piece::Some(bytes))) => Ok(Some(bytes)),
            Some(Ok(Piece::End)) => {
                self.is_over = true;
                Ok(None)
            }
            Some(Err(error)) => Err(error),
            None => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            match self.next()? {
                Some(bytes) => self.now = bytes,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.now.len());
        buffer[..count].copy_from_slice(&self.now.split_to(count));
        Ok(count)
    }
}

fn unpack_files(tar: impl Read, dir: &Path) -> Result<(), Refusal> {
    let unreadable = |error: io::Error| Refusal::invalid(format!("the .tar cannot be read: {error}"));
    let mut archive = tar::Archive::new(tar);
    for (count, entry) in archive.entries().map_err(unreadable)?.enumerate() {
        let mut entry = entry.map_err(unreadable)?;
        let path = entry.path().map_err(unreadable)?.to_string_lossy().into_owned();
        let name = path.strip_prefix("./").unwrap_or(&path);
        if entry.header().entry_type().is_dir() && name.is_empty() {
            continue;
        }
        if !entry.header().entry_type().is_file() {
            return Err(Refusal::invalid(format!(
                "the .tar has {path:?}, which is no plain file at its top"
            )));
        }
        if count >= MOST_FILES {
            return Err(Refusal::invalid(format!("the .tar has more than {MOST_FILES} files")));
        }
        plain_name(name)?;
        let limit = if name.ends_with(".changes") { CHANGES_LIMIT } else { FILE_LIMIT };
        if entry.size() > limit {
            return Err(too_large(limit));
        }
        let mut file = std::fs::File::create_new(dir.join(name)).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Refusal::invalid(format!("the file {name:?} is in this upload twice"))
            }
            _ => unwritable(name, &error),
        })?;
        copy(&mut entry, &mut file, name)?;
    }
    Ok(())
}

fn save_file(mut pieces: Pieces, path: &Path, limit: u64) -> Result<(), Refusal> {
    let failed = |error: io::Error| unwritable(path.display(), &error);
    let mut file = std::fs::File::create(path).map_err(failed)?;
    let mut size = 0;
    let broken = |error: io::Error| Refusal::invalid(format!("the upload broke off: {error}"));
    while let Some(bytes) = pieces.next().map_err(broken)? {
        size += bytes.len() as u64;
        if size > limit {
            return Err(too_large(limit));
        }
        io::Write::write_all(&mut file, &bytes).map_err(failed)?;
    }
    Ok(())
}

/// Tells trouble with the sender from trouble with our disk.
fn copy(from: &mut impl Read, to: &mut std::fs::File, name: &str) -> Result<(), Refusal> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) => return Err(Refusal::invalid(format!("the .tar cannot be read: {error}"))),
        };
        io::Write::write_all(to, &buffer[..count]).map_err(|error| unwritable(name, &error))?;
    }
}

/// Our trouble, not the sender's: a file cannot be written.
fn unwritable(name: impl Display, error: &io::Error) -> Refusal {
    if error.kind() == io::ErrorKind::StorageFull {
        return Refusal::new(StatusCode::INSUFFICIENT_STORAGE, "the server's disk is full");
    }
    Refusal::broken(format!("cannot write {name}: {error}"))
}
