//! Devices as bytes: reads, writes and flushes at a place, with nothing in between. A test can cut
//! the power at any write; then what was not flushed is there or not, sector by sector.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use volary_host::FileError;

/// A device, or a file that stands for one.
#[derive(Debug)]
pub struct Medium {
    file: File,
    path: PathBuf,
    #[cfg(test)]
    fuse: Option<std::sync::Arc<super::fuse::Fuse>>,
}

impl Medium {
    /// Opens what is there; nothing is made or cut short.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(path: &Path, write: bool) -> Result<Self, FileError> {
        let file = OpenOptions::new().read(true).write(write).open(path);
        let file = file.map_err(FileError::at("open", path))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            #[cfg(test)]
            fuse: super::fuse::current(),
        })
    }

    /// Its length in bytes.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn length(&self) -> Result<u64, FileError> {
        use std::io::Seek;
        // The length that a file system tells of a device is 0.
        let end = (&self.file).seek(io::SeekFrom::End(0));
        end.map_err(FileError::at("measure", &self.path))
    }

    /// Fills the buffer as far as there is something.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, FileError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(FileError::at("read", &self.path)(error)),
            }
        }
        Ok(filled)
    }

    /// Writes. What is written is on the disk after the next flush.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), FileError> {
        #[cfg(test)]
        if let Some(fuse) = &self.fuse {
            fuse.write(&self.path, &self.file, offset, bytes.len())
                .map_err(FileError::at("write", &self.path))?;
        }
        self.file.write_all_at(bytes, offset).map_err(FileError::at("write", &self.path))
    }

    /// Everything that was written is on the disk.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn flush(&self) -> Result<(), FileError> {
        #[cfg(test)]
        if let Some(fuse) = &self.fuse {
            fuse.flush(&self.path).map_err(FileError::at("flush", &self.path))?;
        }
        self.file.sync_data().map_err(FileError::at("flush", &self.path))
    }

    /// Forgets what the kernel keeps of it, so that the next read is from the disk. That it cannot
    /// (a file of a test) does not matter.
    pub fn forget_cache(&self) {
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
    }
}
