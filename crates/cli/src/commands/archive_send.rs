//! Sending the files of an upload: large ones each in a request of its own, small ones many at
//! once, because a request costs more than a small file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, anyhow};
use volary_api::client::Client;

use super::encode;
use crate::failure::Failure;

/// How many requests are sent at once: enough to fill a line that is far away.
const SENDERS: usize = 4;

/// So many files are sent in one request at most.
const BATCH_FILES: usize = 256;

/// A batch is full from so many bytes on.
const BATCH_BYTES: u64 = 16 << 20;

/// Sends files under an upload's id.
pub fn send(client: &Client, upload: &str, files: &BTreeSet<PathBuf>) -> Result<(), Failure> {
    let batches = batches(files)?;
    let next = AtomicUsize::new(0);
    let send = || -> Result<(), Failure> {
        while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
            match &batch[..] {
                [one] => {
                    let content = open(one.path)?;
                    client.put(&format!("/api/v1/uploads/{upload}/{}", encode(one.name)), content)?;
                }
                several => {
                    let named = several.iter().map(|file| file.name).collect::<Vec<_>>();
                    client
                        .put_reader(&format!("/api/v1/uploads/{upload}"), &mut Tar::of(several))
                        .with_context(|| format!("cannot send {} to {}", named[0], named[named.len() - 1]))?;
                }
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS.min(batches.len())).map(|_| scope.spawn(send)).collect();
        let ends = senders.into_iter().map(|sender| sender.join().expect("a sender has no reason to panic"));
        // All of them, so that the first failure is told and none is left.
        ends.fold(Ok(()), Result::and)
    })
}

/// A file to send.
#[derive(Debug, PartialEq, Eq)]
struct ToSend<'a> {
    path: &'a Path,
    name: &'a str,
    size: u64,
}

fn open(path: &Path) -> Result<File, Failure> {
    Ok(File::open(path).with_context(|| format!("cannot read {}", path.display()))?)
}

/// The files in batches, each of which is one request.
fn batches(files: &BTreeSet<PathBuf>) -> Result<Vec<Vec<ToSend<'_>>>, Failure> {
    let mut all: Vec<Vec<ToSend<'_>>> = Vec::new();
    let mut small = Vec::new();
    let mut bytes = 0;
    for path in files {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| anyhow!("{} has no file name that can be sent: rename it", path.display()))?;
        let size = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
        let file = ToSend { path, name, size };
        if size >= BATCH_BYTES {
            all.push(vec![file]);
            continue;
        }
        bytes += size;
        small.push(file);
        if small.len() >= BATCH_FILES || bytes >= BATCH_BYTES {
            all.push(std::mem::take(&mut small));
            bytes = 0;
        }
    }
    if !small.is_empty() {
        all.push(small);
    }
    Ok(all)
}

/// Files as a tar archive, which is made while it is read.
struct Tar<'a> {
    rest: std::slice::Iter<'a, ToSend<'a>>,
    now: Box<dyn Read + 'a>,
    is_over: bool,
}

/// Tar archives consist of blocks of so many bytes.
const BLOCK: u64 = 512;

impl<'a> Tar<'a> {
    fn of(files: &'a [ToSend<'a>]) -> Self {
        Self { rest: files.iter(), now: Box::new(std::io::empty()), is_over: false }
    }

    /// A file's header, its bytes, and what fills its last block.
    fn member(file: &ToSend<'_>) -> std::io::Result<Box<dyn Read>> {
        let mut header = tar::Header::new_gnu();
        header.set_size(file.size);
        header.set_mode(0o644);
        // Without content it writes the header alone, a long name in front of it if need be.
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_data(&mut header, file.name, std::io::empty())?;
        let mut head = builder.into_inner()?;
        head.truncate(head.len() - 2 * BLOCK as usize);
        let content = File::open(file.path)?.take(file.size);
        let padding = std::io::repeat(0).take((BLOCK - file.size % BLOCK) % BLOCK);
        Ok(Box::new(Cursor::new(head).chain(content).chain(padding)))
    }
}

impl Read for Tar<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let count = self.now.read(buffer)?;
            if count > 0 || buffer.is_empty() || self.is_over {
                return Ok(count);
            }
            self.now = match self.rest.next() {
                Some(file) => Self::member(file)?,
                None => {
                    self.is_over = true;
                    Box::new(std::io::repeat(0).take(2 * BLOCK))
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_is_made_of_files_while_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let long = format!("{}_1_all.deb", "n".repeat(150));
        let sizes = [("a.deb", 0usize), ("b.deb", 511), ("c.deb", 512), ("d.deb", 70_000), (&long, 3)];
        let files: BTreeSet<PathBuf> = sizes
            .iter()
            .map(|(name, size)| {
                let path = folder.path().join(name);
                volary_host::write_atomic(&path, &vec![b'x'; *size], 0o644).unwrap();
                path
            })
            .collect();
        let batches = batches(&files).unwrap();
        assert_eq!(batches.len(), 1);
        let mut archive = tar::Archive::new(Tar::of(&batches[0]));
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            assert!(content.iter().all(|byte| *byte == b'x'));
            found.push((entry.path().unwrap().to_str().unwrap().to_owned(), content.len()));
        }
        let expected: Vec<(String, usize)> =
            sizes.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_large_file_goes_alone_and_small_ones_together() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = BTreeSet::new();
        for number in 0..600 {
            let path = folder.path().join(format!("{number:03}.deb"));
            File::create(&path).unwrap();
            files.insert(path);
        }
        let large = folder.path().join("large.deb");
        File::create(&large).unwrap().set_len(BATCH_BYTES).unwrap();
        files.insert(large);
        let counts: Vec<usize> = batches(&files).unwrap().iter().map(Vec::len).collect();
        assert_eq!(counts, [256, 256, 1, 88]);
        files.insert(folder.path().join("missing.deb"));
        let error = batches(&files).unwrap_err();
        assert!(format!("{error:?}").contains("missing.deb"), "{error:?}");
    }
}
