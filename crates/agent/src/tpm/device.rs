//! The way to the TPM: the kernel's device, or a socket that an emulator listens at.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::wire;

/// An emulator answers within this time; for the device the kernel has limits of its own.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a TPM that is busy is asked again, and after what time. Self-tests after a start take
/// a second or two.
const TRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(100);

/// An open TPM.
pub struct Device(Way);

enum Way {
    Kernel(File),
    Socket(UnixStream),
}

impl Device {
    /// Opens it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let way = if std::fs::metadata(path)?.file_type().is_socket() {
            let socket = UnixStream::connect(path)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
            Way::Socket(socket)
        } else {
            Way::Kernel(File::options().read(true).write(true).open(path)?)
        };
        Ok(Self(way))
    }

    /// Sends a command and gives the answer; asks again if the TPM says that it is busy.
    pub fn ask(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        for _ in 0..TRIES {
            let answer = self.ask_once(command)?;
            if !wire::is_busy(&answer) {
                return Ok(answer);
            }
            std::thread::sleep(PAUSE);
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "it says that it is busy, again and again"))
    }

    fn ask_once(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        match &mut self.0 {
            Way::Kernel(file) => {
                file.write_all(command)?;
                // The kernel gives an answer as a whole, and never a longer one.
                let mut answer = vec![0; wire::LONGEST];
                let length = file.read(&mut answer)?;
                answer.truncate(length);
                Ok(answer)
            }
            Way::Socket(socket) => {
                socket.write_all(command)?;
                let mut answer = vec![0; wire::HEADER];
                socket.read_exact(&mut answer)?;
                let length =
                    wire::length(&answer).ok_or_else(|| io::Error::other("its answer has no true length"))?;
                answer.resize(length, 0);
                socket.read_exact(&mut answer[wire::HEADER..])?;
                Ok(answer)
            }
        }
    }
}
