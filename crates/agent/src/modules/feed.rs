//! How a payload gets to an update module: through named pipes that it reads, one for each file, or,
//! if it reads none, into the folder `files`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use volary_artifact::{PayloadFile, Reader};
use volary_host::{Cmd, CmdError, FileError, NewFile, Output, Stop, create_dir, remove_if_exists};

use super::ModuleError;

/// How often it is looked whether the module opened a pipe, or ended.
const LOOK: Duration = Duration::from_millis(10);

/// What is passed on at once.
const BUFFER: usize = 256 << 10;

/// A module that runs in `Download`.
struct Running {
    ends: Receiver<Result<Output, CmdError>>,
    ended: Option<Result<Output, CmdError>>,
    stop: Stop,
}

impl Running {
    fn start(command: Cmd) -> Result<Self, ModuleError> {
        let stop = Stop::default();
        let command = command.stop(&stop);
        let (tell, ends) = channel();
        let started = std::thread::Builder::new().name("module".to_owned()).spawn(move || {
            // Nobody listens any more after an error of the line.
            let _ = tell.send(command.run());
        });
        started.map_err(|error| ModuleError::Failed(format!("no thread for the update module: {error}")))?;
        Ok(Self { ends, ended: None, stop })
    }

    fn has_ended(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = match self.ends.try_recv() {
                Ok(ended) => Some(ended),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => Some(Err(lost())),
            };
        }
        self.ended.is_some()
    }

    fn end(mut self) -> Result<Output, CmdError> {
        match self.ended.take() {
            Some(ended) => ended,
            None => self.ends.recv().unwrap_or_else(|_| Err(lost())),
        }
    }

    /// The writing end of a pipe, once the module opened it to read; `None` if it ended before.
    fn opened(&mut self, pipe: &Path) -> Result<Option<File>, FileError> {
        loop {
            let gone = self.has_ended();
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            match rustix::fs::open(pipe, flags, Mode::empty()) {
                Ok(fd) => {
                    rustix::fs::fcntl_setfl(&fd, OFlags::WRONLY)
                        .map_err(|error| FileError::at("open", pipe)(error.into()))?;
                    return Ok(Some(fd.into()));
                }
                Err(rustix::io::Errno::NXIO) if gone => return Ok(None),
                Err(rustix::io::Errno::NXIO) => std::thread::sleep(LOOK),
                Err(error) => return Err(FileError::at("open", pipe)(error.into())),
            }
        }
    }
}

fn lost() -> CmdError {
    CmdError::Start { program: "the update module".into(), source: io::Error::other("its thread ended") }
}

/// Runs `Download` (or `DownloadWithFileSizes`, if `sizes`) and hands the files of the payload over.
/// What the module said is returned with how it ended.
///
/// # Errors
/// [`ModuleError`]; nothing of the payload may be used then.
pub fn download<R: Read>(
    command: Cmd,
    tree: &Path,
    reader: &mut Reader<R>,
    sizes: bool,
) -> Result<Output, ModuleError> {
    let next = tree.join("stream-next");
    let streams = tree.join("streams");
    create_dir(&streams)?;
    pipe(&next)?;
    let mut running = Running::start(command)?;
    let fed = feed(&mut running, &next, &streams, reader, sizes);
    if fed.is_err() {
        running.stop.ask();
    }
    let ended = running.end();
    let kept = match (fed?, &ended) {
        // It read nothing and is content: it wants files.
        (false, Ok(output)) if output.status.success() => keep(tree, reader),
        _ => Ok(()),
    };
    std::fs::remove_dir_all(&streams).map_err(FileError::at("remove", &streams))?;
    remove_if_exists(&next)?;
    kept?;
    Ok(ended?)
}

/// True if the module read streams.
fn feed<R: Read>(
    running: &mut Running,
    next: &Path,
    streams: &Path,
    reader: &mut Reader<R>,
    sizes: bool,
) -> Result<bool, ModuleError> {
    let mut any = false;
    loop {
        let Some(mut question) = running.opened(next)? else {
            // Whoever began to read has to read all of it.
            if any && reader.next_file()?.is_some() {
                return Err(ModuleError::Failed(
                    "the update module ended before it had read all files of the payload".to_owned(),
                ));
            }
            return Ok(any);
        };
        any = true;
        // Closed without a word: there are no more.
        let Some(file) = reader.next_file()? else { return Ok(true) };
        let (name, size) = (file.name().to_owned(), file.size());
        let path = streams.join(&name);
        pipe(&path)?;
        let line = if sizes { format!("streams/{name} {size}\n") } else { format!("streams/{name}\n") };
        let asked = question.write_all(line.as_bytes());
        drop(question);
        asked.map_err(FileError::at("write to", next))?;
        let Some(mut stream) = running.opened(&path)? else {
            return Err(ModuleError::Failed(format!("the update module ended without reading {name}")));
        };
        copy(file, &path, &mut stream)?;
        drop(stream);
        remove_if_exists(&path)?;
    }
}

/// Puts what is left of the payload into the folder `files`.
fn keep<R: Read>(tree: &Path, reader: &mut Reader<R>) -> Result<(), ModuleError> {
    let folder = tree.join("files");
    create_dir(&folder)?;
    while let Some(file) = reader.next_file()? {
        // A name of a payload file has no folders in it.
        let path = folder.join(file.name());
        let mut new = NewFile::create(&path, 0o600)?;
        copy(file, &path, new.file())?;
        new.keep()?;
    }
    Ok(())
}

fn copy<R: Read>(mut file: PayloadFile<'_, R>, path: &Path, to: &mut File) -> Result<(), ModuleError> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(volary_artifact::Error::from(error).into()),
        };
        to.write_all(&buffer[..count]).map_err(FileError::at("write to", path))?;
    }
}

fn pipe(path: &PathBuf) -> Result<(), FileError> {
    remove_if_exists(path)?;
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .map_err(|error| FileError::at("make", path)(error.into()))
}
