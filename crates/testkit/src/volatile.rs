//! A disk with a write cache that loses its content when the power goes: a block device for QEMU
//! (by NBD, on a socket of this machine), whose owner may cut its power at a chosen write.
//!
//! What the machine wrote is on the file only after a flush. At a cut each sector of 512 bytes that was not
//! flushed is there or not, whatever the order it was written in: as on a disk that sorts its
//! writes, and whose sectors are written whole or not at all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use volary_host::FileError;

use crate::LabError;

/// What is written whole or not at all.
const SECTOR: u64 = 512;

/// How many sectors the cache holds, 32 MiB; then some of them go to the disk, as on a true one.
const ROOM: usize = 64 << 10;

/// The longest request that is taken; QEMU asks for less.
const LONGEST: u32 = 64 << 20;

/// Says that NBD is spoken, in the newer form of its greeting.
const GREETING: [u64; 2] = [0x4e42_444d_4147_4943, OPTION];
const OPTION: u64 = 0x4948_4156_454F_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;

/// That it can flush, and write through its cache.
const ABILITIES: u16 = 1 | 4 | 8;

/// What a cut left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cut {
    /// Sectors that were not flushed, and are there all the same.
    pub kept: usize,
    /// Sectors that are lost.
    pub lost: usize,
}

/// The disk. Dropping it ends the service; the file stays.
#[derive(Debug)]
pub struct VolatileDisk {
    store: Arc<Mutex<Store>>,
    socket: PathBuf,
    ended: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Store {
    file: File,
    size: u64,
    unflushed: BTreeMap<u64, Vec<u8>>,
    powered: bool,
    /// How often the power was cut: what a machine had sent before a cut and is read after it, is lost.
    life: u64,
    fuse: Option<Fuse>,
    writes: u64,
    random: u64,
}

/// Where the power goes by itself.
#[derive(Debug)]
struct Fuse {
    place: Range<u64>,
    left: u64,
}

impl VolatileDisk {
    /// Serves `image`, which is written to, at `socket`. `seed` chooses what is lost.
    ///
    /// # Errors
    /// That either cannot be opened.
    pub fn serve(image: &Path, socket: &Path, seed: u64) -> Result<Self, LabError> {
        let file =
            File::options().read(true).write(true).open(image).map_err(FileError::at("open", image))?;
        let store = Arc::new(Mutex::new(Store::new(file, seed).map_err(FileError::at("read", image))?));
        volary_host::remove_if_exists(socket)?;
        let listener = UnixListener::bind(socket).map_err(FileError::at("listen at", socket))?;
        let ended = Arc::new(AtomicBool::new(false));
        let (of_thread, is_over) = (Arc::clone(&store), Arc::clone(&ended));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                // A machine that is killed ends in the middle of anything.
                let _ = talk(stream, &of_thread);
            }
        });
        Ok(Self { store, socket: socket.to_owned(), ended })
    }

    /// What QEMU is given as a drive called `id`.
    pub fn drive(&self, id: &str) -> String {
        let path = self.socket.display();
        format!("if=none,id={id},driver=nbd,cache.direct=off,server.type=unix,server.path={path}")
    }

    /// Has the power go at the n-th write from now on that touches `place`, in bytes.
    pub fn cut_at(&self, place: Range<u64>, write: u64) {
        self.store().fuse = Some(Fuse { place, left: write.max(1) });
    }

    /// True once the power went by itself: what the machine asks for now is not answered.
    pub fn is_off(&self) -> bool {
        !self.store().powered
    }

    /// How many writes there were so far.
    pub fn writes(&self) -> u64 {
        self.store().writes
    }

    /// Cuts the power, if it is still there, and loses what was not flushed, but so many percent of it.
    pub fn cut(&self, percent: u64) -> Result<Cut, LabError> {
        let cut = self.store().cut(percent);
        Ok(cut.map_err(FileError::at("write through", &self.socket))?)
    }

    /// Gives it power again, for the next start of the machine.
    pub fn power_on(&self) {
        let mut store = self.store();
        store.powered = true;
        store.fuse = None;
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for VolatileDisk {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the thread, which then sees it.
        let _ = UnixStream::connect(&self.socket);
    }
}

impl Store {
    fn new(file: File, seed: u64) -> io::Result<Self> {
        let size = file.metadata()?.len() / SECTOR * SECTOR;
        let unflushed = BTreeMap::new();
        Ok(Self { file, size, unflushed, powered: true, life: 0, fuse: None, writes: 0, random: seed })
    }

    fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.check(&range)?;
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.file.read_exact_at(&mut bytes, range.start)?;
        for (sector, content) in self.unflushed.range(range.start / SECTOR..range.end / SECTOR) {
            let at = (sector * SECTOR - range.start) as usize;
            bytes[at..at + content.len()].copy_from_slice(content);
        }
        Ok(bytes)
    }

    /// That the machine which asks lived after the last cut. Requests of a dead one wait in the socket, and
    /// some of them without those before them are what no disk ever sees.
    fn is_alive(&self, life: u64) -> io::Result<()> {
        if self.life == life { Ok(()) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let range = at..at + bytes.len() as u64;
        self.check(&range)?;
        if !self.powered {
            return Ok(());
        }
        self.writes += 1;
        for (sector, content) in (at / SECTOR..).zip(bytes.chunks(SECTOR as usize)) {
            self.unflushed.insert(sector, content.to_vec());
        }
        if self.unflushed.len() > ROOM {
            self.settle(50)?;
        }
        if let Some(fuse) = &mut self.fuse
            && fuse.place.start < range.end
            && range.start < fuse.place.end
        {
            fuse.left -= 1;
            self.powered = fuse.left > 0;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.powered {
            self.settle(100)?;
        }
        Ok(())
    }

    /// What was just written is safe, and nothing else: a write through the cache is no flush.
    fn write_through(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        if self.powered {
            self.file.write_all_at(bytes, at)?;
            for sector in at / SECTOR..(at + bytes.len() as u64) / SECTOR {
                self.unflushed.remove(&sector);
            }
        }
        Ok(())
    }

    fn cut(&mut self, percent: u64) -> io::Result<Cut> {
        let before = self.unflushed.len();
        let kept = self.settle(percent)?;
        self.unflushed.clear();
        self.powered = false;
        self.life += 1;
        Ok(Cut { kept, lost: before - kept })
    }

    /// Brings so many percent of what is in the cache to the file.
    fn settle(&mut self, percent: u64) -> io::Result<usize> {
        let mut settled = 0;
        for (sector, content) in std::mem::take(&mut self.unflushed) {
            if percent >= 100 || self.dice() % 100 < percent {
                self.file.write_all_at(&content, sector * SECTOR)?;
                settled += 1;
            } else {
                self.unflushed.insert(sector, content);
            }
        }
        Ok(settled)
    }

    fn dice(&mut self) -> u64 {
        // Knuth's constants; the upper half is the better one.
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    fn check(&self, range: &Range<u64>) -> io::Result<()> {
        let aligned = range.start.is_multiple_of(SECTOR) && range.end.is_multiple_of(SECTOR);
        if aligned && range.end <= self.size {
            return Ok(());
        }
        Err(io::Error::other(format!("bytes {} to {} are not sectors of the disk", range.start, range.end)))
    }
}

/// One machine, until it hangs up.
fn talk(mut stream: UnixStream, store: &Mutex<Store>) -> io::Result<()> {
    let store = || store.lock().unwrap_or_else(PoisonError::into_inner);
    let (size, life) = {
        let store = store();
        (store.size, store.life)
    };
    greet(&mut stream, size)?;
    loop {
        let magic = read_u32(&mut stream)?;
        let [flags, kind] = [read_u16(&mut stream)?, read_u16(&mut stream)?];
        let cookie = read_u64(&mut stream)?;
        let at = read_u64(&mut stream)?;
        let length = read_u32(&mut stream)?;
        if magic != REQUEST || length > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut data = Vec::new();
        let done = match kind {
            0 => store().read(at..at + u64::from(length)).map(|bytes| data = bytes),
            1 => {
                let mut bytes = vec![0; length as usize];
                stream.read_exact(&mut bytes)?;
                let mut store = store();
                store.is_alive(life)?;
                // Through the cache, if the first flag says so.
                let written = store.write(at, &bytes);
                written.and_then(|()| if flags & 1 == 1 { store.write_through(at, &bytes) } else { Ok(()) })
            }
            2 => return Ok(()),
            3 => {
                let mut store = store();
                store.is_alive(life)?;
                store.flush()
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        // Without power it says nothing: a machine that read what it has not written would tell of a fault that no
        // device has. The machine ends soon, and the connection with it.
        if !store().powered {
            continue;
        }
        let error: u32 = if done.is_ok() { 0 } else { 5 };
        let mut answer = REPLY.to_be_bytes().to_vec();
        answer.extend(error.to_be_bytes());
        answer.extend(cookie.to_be_bytes());
        answer.extend(data);
        stream.write_all(&answer)?;
    }
}

/// Agrees on the one disk that there is.
fn greet(stream: &mut UnixStream, size: u64) -> io::Result<()> {
    for word in GREETING {
        stream.write_all(&word.to_be_bytes())?;
    }
    stream.write_all(&3u16.to_be_bytes())?;
    read_u32(stream)?;
    loop {
        if read_u64(stream)? != OPTION {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let option = read_u32(stream)?;
        let length = read_u32(stream)?;
        if length > 4096 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        stream.read_exact(&mut vec![0; length as usize])?;
        let mut reply = |kind: u32, data: &[u8]| {
            let mut bytes = OPTION_REPLY.to_be_bytes().to_vec();
            bytes.extend(option.to_be_bytes());
            bytes.extend(kind.to_be_bytes());
            bytes.extend((data.len() as u32).to_be_bytes());
            bytes.extend(data);
            stream.write_all(&bytes)
        };
        match option {
            2 => return reply(1, &[]),
            // What the disk is, and go.
            6 | 7 => {
                let info = [&0u16.to_be_bytes()[..], &size.to_be_bytes(), &ABILITIES.to_be_bytes()].concat();
                reply(3, &info)?;
                reply(1, &[])?;
                if option == 7 {
                    return Ok(());
                }
            }
            _ => reply(1 << 31 | 1, &[])?,
        }
    }
}

fn read<const LENGTH: usize>(stream: &mut UnixStream) -> io::Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_u16(stream: &mut UnixStream) -> io::Result<u16> {
    Ok(u16::from_be_bytes(read(stream)?))
}

fn read_u32(stream: &mut UnixStream) -> io::Result<u32> {
    Ok(u32::from_be_bytes(read(stream)?))
}

fn read_u64(stream: &mut UnixStream) -> io::Result<u64> {
    Ok(u64::from_be_bytes(read(stream)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Store {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        Store::new(file, 7).unwrap()
    }

    #[test]
    fn only_what_was_flushed_is_sure_to_stay() {
        let mut store = store();
        store.write(0, &[1; 4096]).unwrap();
        store.flush().unwrap();
        store.write(2048, &[2; 65536]).unwrap();
        assert_eq!(store.read(2048..2560).unwrap(), [2; 512]);
        let cut = store.cut(50).unwrap();
        assert_eq!(cut.kept + cut.lost, 128);
        assert!(cut.kept > 32 && cut.lost > 32, "{cut:?}");
        let bytes = store.read(0..65536).unwrap();
        assert!(bytes[..2048].iter().all(|byte| *byte == 1));
        for sector in bytes[2048..4096].chunks(512) {
            assert!(sector == [1; 512] || sector == [2; 512], "a sector is whole");
        }
        for sector in bytes[4096..].chunks(512) {
            assert!(sector == [0; 512] || sector == [2; 512], "a sector is whole");
        }
    }

    #[test]
    fn a_write_through_the_cache_takes_nothing_else_along() {
        let mut store = store();
        store.write(0, &[1; 1024]).unwrap();
        store.write(512, &[2; 512]).unwrap();
        store.write_through(512, &[2; 512]).unwrap();
        assert_eq!(store.cut(0).unwrap(), Cut { kept: 0, lost: 1 });
        assert_eq!(store.read(0..1024).unwrap(), [[0; 512], [2; 512]].concat());
    }

    #[test]
    fn the_fuse_counts_writes_of_its_place_and_nothing_is_written_after_it() {
        let mut store = store();
        store.fuse = Some(Fuse { place: 4096..8192, left: 2 });
        for at in [0, 4096, 8192] {
            store.write(at, &[1; 512]).unwrap();
        }
        assert!(store.powered);
        store.write(3584, &[1; 1024]).unwrap();
        assert!(!store.powered);
        store.write(0, &[2; 512]).unwrap();
        store.flush().unwrap();
        // One of the two sectors was written before.
        assert_eq!(store.cut(100).unwrap(), Cut { kept: 4, lost: 0 });
        assert_eq!(store.read(0..512).unwrap(), [1; 512]);
    }

    #[test]
    fn what_a_dead_machine_sent_is_lost_also_if_it_is_read_later() {
        let mut store = store();
        let life = store.life;
        assert!(store.is_alive(life).is_ok());
        store.cut(0).unwrap();
        store.powered = true;
        assert!(store.is_alive(life).is_err());
        assert!(store.is_alive(store.life).is_ok());
    }

    /// Sends a request as QEMU does; true if it is answered.
    fn is_answered(stream: &mut UnixStream, kind: u16, data: &[u8]) -> bool {
        let mut request = REQUEST.to_be_bytes().to_vec();
        request.extend([0, 0]);
        request.extend(kind.to_be_bytes());
        request.extend([0; 16]);
        request.extend(512u32.to_be_bytes());
        request.extend(data);
        stream.write_all(&request).unwrap();
        let mut answer = vec![0; if kind == 0 { 16 + 512 } else { 16 }];
        stream.read_exact(&mut answer).is_ok()
    }

    #[test]
    fn a_disk_without_power_answers_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk");
        volary_host::write_atomic(&image, &[0; 1 << 20], 0o644).unwrap();
        let socket = folder.path().join("socket");
        let disk = VolatileDisk::serve(&image, &socket, 1).unwrap();
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
        // The greeting, its answer, and the choice of the disk (option 7, without data).
        read::<18>(&mut stream).unwrap();
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        stream.write_all(&OPTION.to_be_bytes()).unwrap();
        stream.write_all(&[0, 0, 0, 7, 0, 0, 0, 0]).unwrap();
        read::<{ 20 + 12 + 20 }>(&mut stream).unwrap();
        assert!(is_answered(&mut stream, 1, &[1; 512]) && is_answered(&mut stream, 0, &[]));
        disk.cut_at(0..4096, 1);
        assert!(!is_answered(&mut stream, 1, &[2; 512]), "the power went in this write");
        assert!(disk.is_off());
        assert!(!is_answered(&mut stream, 0, &[]));
    }

    #[test]
    fn nothing_beyond_the_disk_is_taken() {
        let mut store = store();
        assert!(store.write(1 << 20, &[0; 512]).is_err());
        assert!(store.write(3, &[0; 512]).is_err());
        assert!(store.read(0..(1 << 20) + 512).is_err());
    }

    #[test]
    fn qemu_s_own_tool_reads_and_writes_it() {
        use volary_host::Cmd;
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk");
        volary_host::write_atomic(&image, &[0; 1 << 20], 0o644).unwrap();
        let socket = folder.path().join("socket");
        let disk = VolatileDisk::serve(&image, &socket, 1).unwrap();
        let qemu = |command: &str| {
            let url = format!("nbd+unix:///?socket={}", socket.display());
            Cmd::new("qemu-io").args(["-f", "raw", "-c", command, &url]).run()
        };
        // The tool is of `scripts/setup machine`.
        let Ok(said) = qemu("write -P 7 65536 131072") else { return };
        assert!(said.status.success(), "{said:?}");
        assert!(disk.writes() > 0);
        assert!(qemu("read -P 7 65536 131072").unwrap().status.success());
    }
}
