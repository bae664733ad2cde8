//! Files that come as a tar archive, unpacked while they arrive. Not here: what they are.

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

/// How many files one request may have: a large source package has some hundred.
const MOST_FILES: usize = 4096;

/// How long a sender may pause.
const STALLED: Duration = Duration::from_secs(60);

/// How many pieces of a request wait to be written.
const PIECES: usize = 8;

/// Unpacks a request into a folder. Whatever is no plain file with a plain name is refused; what
/// was unpacked before is left for the caller to remove.
pub(super) async fn unpack(mut body: Body, dir: PathBuf) -> Result<(), Refusal> {
    let (send, receive) = mpsc::channel::<io::Result<Bytes>>(PIECES);
    let unpacking = tokio::spawn(blocking(move || unpack_files(Pieces::new(receive), &dir)));
    let mut trouble = None;
    loop {
        let Some(piece) = next_piece(&mut body).await.transpose() else { break };
        let piece = piece.map_err(|refusal| {
            trouble = Some(refusal);
            io::ErrorKind::UnexpectedEof.into()
        });
        // Whoever unpacks has refused it if it takes no more, and says why.
        if send.send(piece).await.is_err() || trouble.is_some() {
            break;
        }
    }
    drop(send);
    let unpacked = unpacking.await.map_err(|error| Refusal::broken(error.to_string()))?;
    trouble.map_or(unpacked.and_then(|unpacked| unpacked), Err)
}

/// The next bytes of a request, if it has more of them. Says if the sender is gone or stands still.
pub(super) async fn next_piece(body: &mut Body) -> Result<Option<Bytes>, Refusal> {
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

/// What arrived, as something to read. Blocks.
struct Pieces {
    receive: mpsc::Receiver<io::Result<Bytes>>,
    now: Bytes,
}

impl Pieces {
    fn new(receive: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { receive, now: Bytes::new() }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            match self.receive.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.now = piece?,
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
pub(super) fn unwritable(name: impl Display, error: &io::Error) -> Refusal {
    if error.kind() == io::ErrorKind::StorageFull {
        return Refusal::new(StatusCode::INSUFFICIENT_STORAGE, "the server's disk is full");
    }
    Refusal::broken(format!("cannot write {name}: {error}"))
}
